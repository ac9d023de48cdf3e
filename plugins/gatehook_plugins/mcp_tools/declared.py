"""One MCP server as the settings declare it."""

from typing import Annotated, Self
from urllib.parse import urlsplit

from pydantic import BaseModel, ConfigDict, Field, SecretStr, field_validator, model_validator

from gatehook import ModelName

__all__ = ["Declared"]

Seconds = Annotated[float, Field(gt=0, allow_inf_nan=False)]
Text = Annotated[str, Field(min_length=1)]


class Declared(BaseModel):
    """[plugins.mcp_tools.servers.NAME]."""

    model_config = ConfigDict(extra="forbid", frozen=True, hide_input_in_errors=True)

    url: str = Field(default="", description="address of a server that speaks streamable HTTP")
    headers: dict[Text, SecretStr] = Field(default={}, description="sent with every request to it")
    command: list[Text] = Field(default=[], description="or the program and its words, spoken to by stdin and stdout")
    env: dict[Text, SecretStr] = Field(default={}, description="the program's environment, beside PATH, HOME and such")
    cwd: str = Field(default="", description="the folder it runs in; '' for the gateway's")
    prefix: str | None = Field(default=None, description="what its tools' names begin with; the server's, if not given")
    include: list[str] = Field(default=["*"], description="patterns of the tools that are offered")
    exclude: list[str] = Field(default=[], description="patterns of those that are not")
    models: list[ModelName] = Field(default=["*"], description="names of models, or patterns, that are told of them")
    required: bool = Field(default=False, description="whether the gateway does not start without it")
    timeout: Seconds = Field(default=60.0, description="seconds for one call")
    connect_timeout: Seconds = Field(default=10.0, description="seconds to connect, and to list its tools")
    refresh: Seconds = Field(default=300.0, description="seconds after which its tools are listed anew")

    @field_validator("url")
    @classmethod
    def _is_address(cls, url: str) -> str:
        try:
            parts = urlsplit(url)
            valid = parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0 and url.isprintable()
        except ValueError:  # a bad port or a broken IPv6 address
            valid = False
        if url and (not valid or " " in url or "@" in parts.netloc):
            raise ValueError("must be an address such as 'https://host/mcp', without a user name or password")
        return url

    @field_validator("headers")
    @classmethod
    def _can_be_sent(cls, headers: dict[str, SecretStr]) -> dict[str, SecretStr]:
        for name, value in headers.items():
            if not (name.isascii() and name.isprintable() and value.get_secret_value().isprintable()):
                raise ValueError(f"{name!r} or its value cannot be sent in a header")
        return headers

    @model_validator(mode="after")
    def _is_one_of_the_two(self) -> Self:
        if bool(self.url) == bool(self.command):
            raise ValueError("needs either a url or a command")
        if self.headers and not self.url:
            raise ValueError("headers: are for a url")
        if (self.env or self.cwd) and not self.command:
            raise ValueError("env and cwd are for a command")
        return self

    def secrets(self) -> tuple[str, ...]:
        """What no message may show."""
        values = (one.get_secret_value() for one in (*self.headers.values(), *self.env.values()))
        return tuple(part for value in values for part in (value, value.rpartition(" ")[2]) if len(part) > 3)
