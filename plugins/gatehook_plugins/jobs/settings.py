"""[plugins.jobs]."""

from typing import Annotated, Final

from pydantic import AfterValidator, Field, PositiveInt, SecretStr

from gatehook import ByteSize, Section
from gatehook_plugins.jobs.signing import key_of

__all__ = ["JobsSettings"]

_SHORTEST_SECRET: Final = 24
_CREDENTIALS: Final = frozenset({"authorization", "x-api-key", "cookie", "proxy-authorization"})

Seconds = Annotated[float, Field(allow_inf_nan=False)]


def _sound(secret: SecretStr) -> SecretStr:
    text = secret.get_secret_value()
    if text and len(text) < _SHORTEST_SECRET:
        raise ValueError(f"must have at least {_SHORTEST_SECRET} characters; make one with: openssl rand -base64 32")
    key_of(text)
    return secret


def _no_credentials(names: list[str]) -> list[str]:
    if found := [name for name in names if name.lower() in _CREDENTIALS]:
        raise ValueError(f"{found[0]} holds credentials, which are not kept")
    return names


class JobsSettings(Section):
    """[plugins.jobs]."""

    order: int = Field(default=2000, description="last, so that jobs end before anything they need does")
    concurrency: PositiveInt = Field(default=8, le=1000, description="jobs that each process runs at the same time")
    per_user: PositiveInt = Field(default=4, description="jobs of one user that run at the same time, everywhere")
    per_vendor: dict[str, PositiveInt] = Field(
        default={}, description="the same of vendors: { 'comfyui' = 1 }; those not named have no limit of their own"
    )
    max_queued: PositiveInt = Field(default=1000, description="jobs of one user that may be queued or running")
    max_wait: Seconds = Field(default=86_400, gt=0, description="seconds until a job that could not run has failed")
    max_priority: int = Field(
        default=10, ge=0, le=1000, description="X-Gatehook-Priority may be from minus this to this; higher runs first"
    )
    max_attempts: PositiveInt = Field(default=3, le=100, description="tries of a job whose failures may pass")
    backoff: Seconds = Field(
        default=5, ge=0, le=3600, description="seconds before the second try; doubles with each, at most 10 minutes"
    )
    repeat: bool = Field(
        default=True, description="run a job again whose process died or stopped; false: it has failed"
    )
    lease: Seconds = Field(
        default=15,
        ge=1,
        le=600,
        description="seconds without a sign of life, and half as many again, and a process counts as dead",
    )
    poll: Seconds = Field(default=0.5, ge=0.02, le=10, description="seconds between two looks at the queue")
    retention: Seconds = Field(
        default=604_800, gt=0, description="seconds for which an ended job, and its result, is kept"
    )
    max_inline: ByteSize = Field(
        default=262_144, ge=0, description="larger results go to the file store, where there is one"
    )
    max_result: ByteSize = Field(default=67_108_864, ge=1, description="largest result that is kept without one")
    keep_headers: Annotated[list[str], AfterValidator(_no_credentials)] = Field(
        default=["Cache-Control"], description="headers of the request that the job is run with; no credentials"
    )
    webhook_secret: Annotated[SecretStr, AfterValidator(_sound)] = Field(
        default=SecretStr(""), description="signs what X-Gatehook-Webhook asks for; '' allows no webhooks"
    )
    webhook_attempts: PositiveInt = Field(default=8, le=50, description="tries to deliver a webhook")
