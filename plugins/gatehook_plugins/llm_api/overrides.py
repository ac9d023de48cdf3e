"""GET and PUT /config/models/{id}: what holds of a model, and what an administrator sets of it while it is served."""

from collections.abc import Mapping, Sequence
from typing import Any

from aiohttp import web

from gatehook import (
    CATALOG,
    DIRECTORY,
    LONGEST_MODEL_NAME,
    PRINCIPAL,
    Conflict,
    InvalidRequest,
    Services,
    Target,
    asked_revision,
    changed_meanwhile,
)
from gatehook_plugins.llm_api.changes import answer, opened, read_changes, refreshed
from gatehook_plugins.llm_api.errors import UnknownModel

__all__ = ["ModelConfig"]


class ModelConfig:
    """The handlers. An id is the public name of a model, for all its deployments, or the key of one deployment."""

    def __init__(self, services: Services) -> None:
        self._catalog = services[CATALOG]
        self._directory = services.get(DIRECTORY)

    async def get(self, request: web.Request) -> web.Response:
        """What holds.

        Raises:
            UnknownModel: there is no such model or deployment.
        """
        await refreshed(self._directory)
        return self._answer(request.match_info["id"])

    async def put(self, request: web.Request) -> web.Response:
        """Change what the body names, and leave the rest; null takes back what was set.

        Raises:
            UnknownModel: there is no such model or deployment. InvalidRequest: an unknown key, or an invalid value.
            Conflict: it is not what `If-Match` says. Unavailable: nothing keeps changes.
        """
        directory, changes = opened(self._directory), await read_changes(request)
        name = request.match_info["id"]
        self._deployments(name)
        try:
            await directory.put_override(request[PRINCIPAL].actor, name, changes, revision=asked_revision(request))
        except Conflict as error:
            raise changed_meanwhile(request, error) from None
        return self._answer(name)

    def _answer(self, name: str) -> web.Response:
        """A model as its deployment that is tried first has it, and each of them; or one deployment."""
        group = self._deployments(name)
        first = min(group, key=lambda target: (bool(target.unavailable), target.priority))
        config = {"model_id": name, **self._config(first)}
        if name == first.name:
            config["enabled"] = any(map(self._is_enabled, group))
            config["deployments"] = [{"id": target.key, **self._config(target)} for target in group]
        return answer(config, 0 if self._directory is None else self._directory.override(name)[1])

    def _deployments(self, name: str) -> Sequence[Target]:
        """Those of a model, or the one of this key.

        Raises:
            UnknownModel: there are none. InvalidRequest: the name is another's alias, or served by a wildcard.
        """
        targets = {target.key: target for group in self._catalog.groups().values() for target in group}
        found = [target for target in targets.values() if target.name == name]
        if not found and name in targets:
            found = [targets[name]]
        if found:
            return found
        served = self._catalog.canonical(name)
        if served != name:
            raise InvalidRequest(
                f"calls for {name[:LONGEST_MODEL_NAME]!r} are served by {served!r}; configure that", param="model"
            )
        raise UnknownModel(name)

    def _config(self, target: Target) -> dict[str, Any]:
        limit = target.rate_limit
        return {
            "enabled": self._is_enabled(target),
            "priority": target.priority,
            "rate_limit": {
                "requests_per_minute": limit.requests_per_minute,
                "tokens_per_minute": limit.tokens_per_minute,
            },
            "fallback_models": target.fallbacks,
            "parameters": {
                "default_temperature": target.defaults.get("temperature"),
                "max_tokens": target.defaults.get("max_tokens"),
            },
        }

    def _is_enabled(self, target: Target) -> bool:
        """Whether no administrator has switched it off; it may still be one that cannot be called."""
        if self._directory is None:
            return True
        of_model, _ = self._directory.override(target.name)
        of_one, _ = self._directory.override(target.key)
        return _enabled(of_one, _enabled(of_model, default=True))


def _enabled(override: Mapping[str, Any], default: bool) -> bool:
    return bool(override.get("enabled", default))
