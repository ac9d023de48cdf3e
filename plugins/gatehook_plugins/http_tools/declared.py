"""One tool as the settings declare it, and whether that makes sense."""

import re
from collections.abc import Mapping, Sequence
from typing import Annotated, Any, Final, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, SecretStr, field_validator, model_validator

from gatehook import ByteSize, MalformedJSON, ModelName, decode
from gatehook_plugins.http_tools.template import UrlTemplate

__all__ = ["Declared"]

_HEADER: Final = re.compile(r"[!#$%&'*+\-.^_`|~0-9A-Za-z]+")
_FRAMING: Final = frozenset({"connection", "content-length", "host", "te", "transfer-encoding", "upgrade"})
_WITHOUT_BODY: Final = ("GET", "DELETE")


class Declared(BaseModel):
    """[plugins.http_tools.tools.NAME]."""

    model_config = ConfigDict(extra="forbid", frozen=True, hide_input_in_errors=True)

    description: Annotated[str, Field(min_length=1)] = Field(description="what it does, for the model")
    url: str = Field(description="address; {argument} stands for the value of one")
    method: Literal["GET", "POST", "PUT", "PATCH", "DELETE"] = "GET"
    headers: dict[str, SecretStr] = Field(default={}, description="sent with every call; 'env:NAME' is looked up")
    parameters: dict[str, Any] | SecretStr = Field(
        default={}, description="JSON Schema of the arguments, a table or 'file:PATH'; {}: the url's, all texts"
    )
    query: list[str] = Field(default=[], description="arguments that go into the query; all others too, without a body")
    timeout: float = Field(default=30.0, gt=0, allow_inf_nan=False, description="seconds for one call")
    max_result: ByteSize = Field(default=64 << 10, description="most of an answer that the model is told")
    models: list[ModelName] = Field(default=["*"], description="names of models, or patterns, that are told of it")

    @field_validator("url")
    @classmethod
    def _is_template(cls, url: str) -> str:
        UrlTemplate(url)
        return url

    @field_validator("headers")
    @classmethod
    def _are_headers(cls, headers: dict[str, SecretStr]) -> dict[str, SecretStr]:
        for name, value in headers.items():
            if not _HEADER.fullmatch(name) or name.lower() in _FRAMING:
                raise ValueError(f"{name!r} is not a header that can be set")
            if not value.get_secret_value().isprintable():
                raise ValueError(f"the value of {name!r} holds what cannot be sent in a header")
        return headers

    @model_validator(mode="after")
    def _fits_together(self) -> Self:
        template, schema = self.template, self.schema_of_arguments
        if template.chooses_host and self.method != "GET":
            raise ValueError("url: where an argument chooses the host, method must be GET")
        if template.chooses_host and self.headers:
            raise ValueError("headers: would be sent to whatever host an argument names; write the host into the url")
        if template.is_free and set(schema["properties"]) != set(template.names):
            raise ValueError("parameters: where an argument is the whole url, there can be no others")
        if missing := [name for name in template.names if name not in schema.get("required", ())]:
            raise ValueError(f"parameters: {missing[0]!r} stands in the url, and must be among the required")
        for name in [*template.names, *self.query]:
            if name not in schema["properties"]:
                raise ValueError(f"parameters: {name!r} is used, and must be among the properties")
        if taken := [name for name in self.queried if name in template.query_names]:
            raise ValueError(f"parameters: {taken[0]!r} stands in the url's query already")
        return self

    @property
    def template(self) -> UrlTemplate:
        """The url, parsed."""
        return UrlTemplate(self.url)

    @property
    def schema_of_arguments(self) -> Mapping[str, Any]:
        """The JSON Schema; arguments that it does not name are refused, unless it says otherwise.

        Raises:
            ValueError: `parameters` is no JSON Schema of an object.
        """
        given = self.parameters
        if isinstance(given, SecretStr):
            try:
                given = decode(given.get_secret_value())
            except MalformedJSON as error:
                raise ValueError(f"parameters: the file is not valid JSON: {error}") from None
        if not given:
            names = self.template.names
            given = {"properties": {name: {"type": "string"} for name in names}, "required": list(names)}
        if not _is_schema(given):
            raise ValueError("parameters: must be a JSON Schema of an object")
        return {"type": "object", "properties": {}, "additionalProperties": False, **given}

    @property
    def queried(self) -> Sequence[str]:
        """The arguments that go into the query, beside those of the url."""
        if self.method not in _WITHOUT_BODY:
            return self.query
        return [name for name in self.schema_of_arguments["properties"] if name not in self.template.names]

    @property
    def has_body(self) -> bool:
        """Whether what is left of the arguments is sent as JSON."""
        return self.method not in _WITHOUT_BODY


def _is_schema(value: Any) -> bool:
    """Whether it looks like the schema of an object; the kernel looks closer."""
    return (
        isinstance(value, dict)
        and isinstance(value.get("properties", {}), dict)
        and isinstance(value.get("required", []), list)
    )
