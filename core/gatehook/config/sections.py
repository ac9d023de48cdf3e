"""The typed tables of the settings: what the kernel reads itself, and the base class of every plugin's section.

A class built directly (`ServerSettings(port=0)`) reads no file and no environment; `config.settings` fills them.
"""

import ipaddress
import re
import ssl
import unicodedata
from collections.abc import Sequence
from decimal import Decimal
from typing import Annotated, Any, Final, Literal, Self
from urllib.parse import urlsplit

from pydantic import (
    AfterValidator,
    BeforeValidator,
    Field,
    PositiveInt,
    SecretStr,
    ValidationError,
    ValidationInfo,
    WithJsonSchema,
    field_validator,
    model_validator,
)
from pydantic_core import InitErrorDetails, PydanticCustomError
from pydantic_settings import BaseSettings, PydanticBaseSettingsSource, SettingsConfigDict

from gatehook.accounts import Limits, Pricing, nano
from gatehook.config.kinds import NO_NUMBER, switches_as_numbers
from gatehook.model import Target
from gatehook.names import LONGEST_MODEL_NAME, is_pattern

__all__ = [
    "NO_SIZE",
    "ByteSize",
    "DatabaseSettings",
    "EgressSettings",
    "FailoverSettings",
    "LimitSettings",
    "ModelSettings",
    "PricingSettings",
    "RateLimitSettings",
    "RedisSettings",
    "Seconds",
    "Section",
    "ServerSettings",
    "Table",
    "ToolSettings",
    "parse_size",
]

NO_SIZE = "expected a number of bytes, or a size such as '512KB', '32MB' or '1GB'"
_SIZE = re.compile(r"(\d{1,18})\s*(|B|KB|MB|GB|TB)", re.IGNORECASE | re.ASCII)
_UNITS: Final = {"": 1, "B": 1, "KB": 1 << 10, "MB": 1 << 20, "GB": 1 << 30, "TB": 1 << 40}


def parse_size(value: object) -> int:
    """Bytes from a number of bytes, or from a text such as "512KB", "32MB" or "1GB" (1 KB is 1024 bytes).

    Raises:
        ValueError: it is neither; the message does not repeat it.
    """
    if isinstance(value, int) and not isinstance(value, bool):
        return value
    match = _SIZE.fullmatch(value.strip()) if isinstance(value, str) else None
    if match is None:
        raise ValueError(NO_SIZE)
    return int(match[1]) * _UNITS[match[2].upper()]


def _label(text: str) -> str:
    if not text or text != text.strip():
        raise ValueError("must not be empty, nor begin or end with a space")
    if any(unicodedata.category(letter).startswith("C") for letter in text):
        raise ValueError("must not contain control characters")
    return text


def _model_label(text: str) -> str:
    if len(text) > LONGEST_MODEL_NAME:
        raise ValueError(f"must have {LONGEST_MODEL_NAME} characters at most")
    return _label(text)


def _web_address(text: str, *, credentials: bool) -> str:
    """`text` without its trailing slashes. Messages do not repeat it, as it may hold a password."""
    if not text:
        return ""
    if any(letter.isspace() or unicodedata.category(letter).startswith("C") for letter in text):
        raise ValueError("must not contain spaces or control characters")
    try:
        parts = urlsplit(text)
        valid = parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
    except ValueError:  # a bad port or a broken IPv6 address
        valid = False
    if not valid:
        raise ValueError("must be an address such as 'https://host/path'")
    if not credentials and "@" in parts.netloc:
        raise ValueError("must not contain a user name or password; that is what api_key is for")
    if "?" in text or "#" in text:
        raise ValueError("must not contain '?' or '#'")
    return text.rstrip("/")


def _base_url(text: str) -> str:
    return _web_address(text, credentials=False)


def _proxy_url(text: str) -> str:
    return _web_address(text, credentials=True)


def _certificates(text: SecretStr) -> SecretStr:
    if pem := text.get_secret_value():
        try:
            ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT).load_verify_locations(cadata=pem)
        except (ssl.SSLError, ValueError, TypeError):
            raise ValueError("must be 'file:PATH' of certificates in PEM, or these themselves") from None
    return text


ByteSize = Annotated[
    int,
    Field(gt=0),
    BeforeValidator(parse_size),
    WithJsonSchema(
        {
            "anyOf": [
                {"type": "integer", "exclusiveMinimum": 0},
                {"type": "string", "pattern": r"^\s*[0-9]{1,18}\s*([KkMmGgTt]?[Bb])?\s*$"},
            ]
        }
    ),
]
"""A number of bytes, more than 0; settings may write it as text, see `parse_size`."""

Seconds = Annotated[float, Field(gt=0, allow_inf_nan=False)]
"""A duration in seconds, more than 0 and finite."""

Label = Annotated[str, AfterValidator(_label)]
ModelLabel = Annotated[str, AfterValidator(_model_label)]
"""A model's name: one that is longer nobody could ask for."""


class Table(BaseSettings):
    """A table of the settings: frozen; unknown keys are faults; messages never repeat wrong values.

    Raises:
        pydantic.ValidationError: on construction, if a value does not fit.
    """

    model_config = SettingsConfigDict(
        extra="forbid",
        frozen=True,
        hide_input_in_errors=True,
        validate_default=True,
        case_sensitive=True,
        protected_namespaces=(),
    )

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """Only what is given to the constructor: pydantic's own sources would silently ignore misspelt variables."""
        return (init_settings,)


class Section(Table):
    """Base of a plugin's settings, the table `[plugins.<name>]`. Add your fields; `SecretStr` for what is secret.

    A `SecretStr` (also inside lists, dicts and nested models) may be written `env:NAME` or `file:PATH`.
    """

    enabled: bool = Field(default=True, description="false switches the plugin off; its code is then not imported")
    order: int = Field(default=0, description="plugins of one concern are asked by rising order, then by name")
    on_error: Literal["fail", "skip"] = Field(
        default="fail",
        description="'skip': serve without it if broken, unless it lets in, limits, judges, hides or offers services",
    )
    guards: bool | None = Field(
        default=None,
        description="false: it does none of that, also where this cannot be seen because it cannot be imported",
    )


class ServerSettings(Table):
    """[server]: where and how the gateway listens."""

    host: Label = Field(default="127.0.0.1", description="address or name to listen on")
    port: int = Field(default=8080, ge=0, le=65535, description="TCP port; 0 picks a free one")
    uds: str = Field(default="", description="listen on this Unix socket instead; LISTEN_MODE=UDS and UDS_PATH set it")
    workers: int = Field(default=1, ge=1, le=64, description="processes that share the socket")
    allow_anonymous: bool = Field(default=False, description="serve callers without credentials")
    shutdown_grace: float = Field(
        default=30.0, ge=0, allow_inf_nan=False, description="seconds that running requests get when stopping"
    )
    max_body: ByteSize = Field(default=32 << 20, description="largest request body: bytes, or a size such as '32MB'")
    read_timeout: Seconds = Field(default=60.0, description="seconds a client may take to send its request's body")
    write_timeout: Seconds = Field(default=60.0, description="seconds a client may leave its answer unread")
    heartbeat: float = Field(
        default=15.0,
        ge=0,
        allow_inf_nan=False,
        description="seconds of silence in a stream after which a comment tells the client that it lives; 0: never",
    )
    blocked_warning: float = Field(
        default=1.0,
        ge=0,
        allow_inf_nan=False,
        description="seconds for which the event loop may stand still before the log says in whose code; 0: never",
    )
    blocked_limit: float = Field(
        default=60.0,
        ge=0,
        allow_inf_nan=False,
        description="seconds of that after which the process is killed and another begun; 0: never",
    )

    def is_loopback(self) -> bool:
        """Whether only this machine can connect: a Unix socket, "localhost", or a loopback address."""
        if self.uds:
            return True
        try:
            return ipaddress.ip_address(self.host.strip("[]")).is_loopback
        except ValueError:
            return self.host.lower() == "localhost"


class EgressSettings(Table):
    """[egress]: connections from the gateway to the outside."""

    connect_timeout: Seconds = Field(default=10.0, description="seconds to connect to a vendor")
    max_response: ByteSize = Field(default=64 << 20, description="largest answer of a vendor: bytes, or '64MB'")
    proxy: str = Field(  # no repr: it may hold a password
        default="", repr=False, description="address of an HTTP proxy to reach vendors through"
    )
    ca_certificates: SecretStr = Field(  # as such it may be written "file:PATH"
        default=SecretStr(""),
        description="'file:PATH' of certificates, in PEM, of authorities to trust beside the system's",
    )
    allow_private_urls: bool = Field(
        default=False, description="whether addresses sent by clients (images) may lie in private networks"
    )
    max_fetch: ByteSize = Field(default=20 << 20, description="largest thing fetched for a client: bytes, or '20MB'")

    _check_proxy = field_validator("proxy")(_proxy_url)
    _check_certificates = field_validator("ca_certificates")(_certificates)


class FailoverSettings(Table):
    """[failover]: patience with a deployment, and what follows when it ends."""

    first_token_timeout: Seconds = Field(default=30.0, description="seconds until a stream's first content")
    stall_timeout: Seconds = Field(default=30.0, description="seconds of silence within a stream")
    max_attempts: int = Field(default=8, ge=1, le=100, description="calls of vendors for one request, at most")
    budget: Seconds = Field(default=120.0, description="seconds after which no further attempt is begun")
    retries: int = Field(default=2, ge=0, le=10, description="further tries of one deployment, on transient errors")
    retry_after_cap: Seconds = Field(default=10.0, description="longest wait, in seconds, that a vendor may ask for")


class ToolSettings(Table):
    """[tools]: the tools that the gateway runs itself when a model calls them."""

    max_rounds: int = Field(default=8, ge=1, le=100, description="times that one request's model may call tools")
    timeout: Seconds = Field(default=60.0, description="seconds that one run of a tool may take")
    max_result: ByteSize = Field(default=256 << 10, description="most of a tool's result that the model is told")


class DatabaseSettings(Table):
    """[database]: where users, keys, usage and whatever else must last is kept."""

    url: SecretStr = Field(
        default=SecretStr("sqlite:///gatehook.db"),
        description="sqlite:///FILE or postgresql+asyncpg://USER:PASSWORD@HOST/NAME",
    )
    pool_size: PositiveInt = Field(default=5, le=100, description="connections that are kept, on PostgreSQL")
    timeout: Seconds = Field(default=5.0, description="seconds to wait for a connection or a lock")
    secret: SecretStr = Field(
        default=SecretStr(""),
        description="hashes client keys and encrypts vendor keys; '' on SQLite: made, and kept in a file",
    )


class RedisSettings(Table):
    """[redis]: what several nodes share."""

    url: SecretStr = Field(
        default=SecretStr(""), description="redis://HOST:PORT/N, rediss://… or unix://…; '' for none"
    )
    timeout: Seconds = Field(default=0.25, description="seconds a command may take before Redis counts as gone")
    prefix: str = Field(default="gatehook", min_length=1, description="what the names of all keys begin with")


class LimitSettings(Table):
    """`limits` of a model."""

    max_tokens: PositiveInt | None = Field(default=None, description="most tokens of one answer")
    context_window: PositiveInt | None = Field(default=None, description="most tokens of a request and its answer")


def _written(value: object) -> object:
    """A float as text, so that Decimal takes the digits that were written, not the nearest double."""
    return str(value) if isinstance(value, float) else value


Price = Annotated[Decimal, Field(ge=0, le=1_000_000, allow_inf_nan=False), BeforeValidator(_written)]


class PricingSettings(Table):
    """`pricing` of a model: US dollars per 1,000 tokens, or per picture, or both."""

    input_per_1k_tokens: Price = Field(default=Decimal(0), description="of the prompt")
    output_per_1k_tokens: Price = Field(default=Decimal(0), description="of the answer")
    cached_input_per_1k_tokens: Price | None = Field(default=None, description="read from the vendor's cache")
    cache_write_per_1k_tokens: Price | None = Field(default=None, description="written to the vendor's cache")
    cache_write_1h_per_1k_tokens: Price | None = Field(
        default=None, description="written to it to be kept for an hour; as cache_write_per_1k_tokens, if not given"
    )
    per_image: Price | None = Field(default=None, description="of one picture that is made")

    @model_validator(mode="after")
    def _complete(self) -> Self:
        """Require both token prices if one is given, or no `per_image`: a forgotten price must not count as 0."""
        needed = ("input_per_1k_tokens", "output_per_1k_tokens")
        given = self.model_fields_set.intersection(needed)
        if missing := [name for name in needed if name not in given and (given or self.per_image is None)]:
            raise ValueError(f"{' and '.join(missing)}: required")
        return self

    def to_pricing(self) -> Pricing:
        """The same in nano-dollars."""

        def known(price: Decimal | None) -> int | None:
            return None if price is None else nano(price)

        return Pricing(
            nano(self.input_per_1k_tokens),
            nano(self.output_per_1k_tokens),
            known(self.cached_input_per_1k_tokens),
            known(self.cache_write_per_1k_tokens),
            nano(self.per_image or 0),
            known(self.cache_write_1h_per_1k_tokens),
        )


class RateLimitSettings(Table):
    """`rate_limit` of a model: how much this deployment is asked for at a time, by all callers together."""

    requests_per_minute: PositiveInt | None = Field(default=None, description="most requests in any 60 seconds")
    tokens_per_minute: PositiveInt | None = Field(default=None, description="most tokens in any 60 seconds")
    concurrent_requests: PositiveInt | None = Field(default=None, description="most requests at the same time")

    def to_limits(self) -> Limits:
        """The same for limiters."""
        return Limits(self.requests_per_minute, self.tokens_per_minute, self.concurrent_requests)


class ParameterSettings(Table):
    """`parameters` of a model: for requests that do not say."""

    default_temperature: float | None = Field(default=None, ge=0, le=2, description="temperature, if none is given")
    max_tokens: PositiveInt | None = Field(default=None, description="most tokens of an answer, if none are given")

    def to_defaults(self) -> dict[str, Any]:
        """The parameters that are set, by OpenAI's names."""
        named = {"temperature": self.default_temperature, "max_tokens": self.max_tokens}
        return {name: value for name, value in named.items() if value is not None}


class ModelSettings(Table):
    """[[models]]: one deployment of a model. Several with one name share its calls."""

    name: ModelLabel = Field(description="what clients ask for; with a '*' at its end, all names that begin so")
    aliases: list[ModelLabel] = Field(default=[], description="other names that clients may ask for it by")
    vendor: Label = Field(description="name of the vendor, in any case")
    model: str = Field(default="", description="what the vendor calls it; the name, if not given")
    base_url: str = Field(default="", description="where the vendor is; its own address, if not given")
    api_key: SecretStr | None = Field(default=None, description="key, or 'env:NAME' or 'file:PATH' where to find it")
    weight: float = Field(default=1.0, ge=0, allow_inf_nan=False, description="share of the calls within a priority")
    priority: int = Field(default=1, description="the lowest is tried first")
    timeout: Seconds = Field(default=600.0, description="seconds for one attempt, from dialling to the last byte")
    fallbacks: list[str] = Field(default=[], description="names of models to try when this one fails")
    rate_limit: RateLimitSettings = RateLimitSettings()
    pricing: PricingSettings | None = Field(default=None, description="US dollars per 1,000 tokens, if known")
    limits: LimitSettings = LimitSettings()
    parameters: ParameterSettings = ParameterSettings()
    capabilities: list[Label] = Field(default=[], description="what it can do; calls that need more pass it over")
    strict: bool = Field(default=False, description="refuse parameters the vendor has no place for, not drop them")
    options: dict[str, Any] = Field(  # no repr: it may hold secrets
        default={}, repr=False, description="what only this vendor knows; 'env:NAME' and 'file:PATH' are looked up"
    )
    enabled: bool = Field(default=True, description="false leaves this deployment out")

    _check_base_url = field_validator("base_url")(_base_url)

    @model_validator(mode="before")
    @classmethod
    def _no_switches_for_numbers(cls, values: object) -> object:
        # Of what files say, `Reading` has told this already; administrators may send it, too.
        if places := list(switches_as_numbers([cls], values)):
            fault = PydanticCustomError("number", NO_NUMBER)
            faults = [InitErrorDetails(type=fault, loc=place, input=None) for place in places]
            raise ValidationError.from_exception_data(cls.__name__, faults)
        return values

    @field_validator("vendor")
    @classmethod
    def _lower(cls, vendor: str) -> str:
        return vendor.lower()

    @field_validator("name")
    @classmethod
    def _one_wildcard(cls, name: str) -> str:
        if "*" in name[:-1]:
            raise ValueError("may hold one '*', at its end")
        return name

    @field_validator("aliases")
    @classmethod
    def _plain(cls, aliases: list[str], info: ValidationInfo) -> list[str]:
        name = str(info.data.get("name", ""))
        if aliases and is_pattern(name):
            raise ValueError("a model whose name ends in '*' has none: it serves many names")
        for alias in aliases:
            if "*" in alias:
                raise ValueError("must not hold '*'")
            if alias == name:
                raise ValueError("must not be the model's own name")
        return aliases

    @field_validator("model")
    @classmethod
    def _named(cls, model: str, info: ValidationInfo) -> str:
        name = str(info.data.get("name", ""))
        if "*" in model and not (is_pattern(name) and model.count("*") == 1):
            raise ValueError("may hold one '*', which stands for the rest of the name, where the name ends in '*'")
        return _label(model) if model else name

    def to_target(self, key: str, unavailable: str = "", hidden: Sequence[str] = ()) -> Target:
        """The deployment as routers and vendors see it.

        Args:
            key: unique among all deployments ("gpt-4o#1").
            unavailable: why it cannot be called; "" if it can.
            hidden: secrets among the options.
        """
        return Target(
            key=key,
            name=self.name,
            vendor=self.vendor,
            model=self.model,
            base_url=self.base_url,
            api_key=self.api_key,
            weight=self.weight,
            priority=self.priority,
            timeout=self.timeout,
            fallbacks=tuple(self.fallbacks),
            max_tokens=self.limits.max_tokens,
            context_window=self.limits.context_window,
            pricing=None if self.pricing is None else self.pricing.to_pricing(),
            rate_limit=self.rate_limit.to_limits(),
            capabilities=tuple(self.capabilities),
            aliases=tuple(self.aliases),
            strict=self.strict,
            options=self.options,
            defaults=self.parameters.to_defaults(),
            unavailable=unavailable,
            hidden=tuple(hidden),
        )
