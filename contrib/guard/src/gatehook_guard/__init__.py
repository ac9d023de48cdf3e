"""Masks personal data and secrets in requests and in answers, whole or streamed."""

from collections.abc import Iterable
from typing import Literal

from pydantic import Field, field_validator

from gatehook import Gateway, Section, Transform, hookimpl
from gatehook_guard.custom import custom
from gatehook_guard.detectors import KINDS, Detector
from gatehook_guard.guard import Guard, Policy

__all__ = ["GuardPlugin"]

Kind = Literal["email", "phone", "card", "iban", "ip", "api_key", "private_key"]


class GuardPlugin:
    """Contributes one transform."""

    class Settings(Section):
        """[plugins.guard]."""

        kinds: tuple[Kind, ...] = Field(
            default=("email", "phone", "card", "iban", "ip", "api_key", "private_key"), description="what to look for"
        )
        patterns: dict[str, str] = Field(
            default={}, description="patterns of your own: a name and a regular expression of bounded length"
        )
        requests: Literal["mask", "refuse", "off"] = Field(
            default="mask", description="what to do with what is found in a request"
        )
        answers: Literal["mask", "off"] = Field(
            default="mask", description="what to do with what is found in an answer"
        )
        restore: bool = Field(default=True, description="put back into answers what was masked in the request")
        models: tuple[str, ...] = Field(default=(), description="public names of the models to guard; none: all")

        @field_validator("patterns")
        @classmethod
        def _bounded(cls, patterns: dict[str, str]) -> dict[str, str]:
            for name, pattern in patterns.items():
                custom(name, pattern)
            return patterns

    def __init__(self, settings: Settings) -> None:
        self._settings = settings

    @hookimpl
    def register_transforms(self, gateway: Gateway) -> Iterable[Transform]:
        """The guard."""
        given = self._settings
        detectors: list[Detector] = [KINDS[kind] for kind in KINDS if kind in given.kinds]
        detectors += [custom(name, pattern) for name, pattern in given.patterns.items()]
        policy = Policy(given.requests, given.answers, given.restore, frozenset(given.models))
        return [Guard(tuple(detectors), policy)]
