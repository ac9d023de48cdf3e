"""GET /v1/models and /v1/models/{id}."""

import time
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from aiohttp import web

from gatehook import (
    CATALOG,
    LOCAL_MODELS,
    PRINCIPAL,
    LocalModel,
    ModelNotFound,
    Principal,
    Target,
    Unavailable,
    encode,
)
from gatehook_plugins.openai_api import anthropic_shape

if TYPE_CHECKING:
    from gatehook.app import Gateway

__all__ = ["ModelList"]


class ModelList:
    """The models a caller may use and that can be called."""

    def __init__(self, gateway: "Gateway") -> None:
        self._gateway = gateway
        self._catalog = gateway.services[CATALOG]
        self._local = gateway.services.get(LOCAL_MODELS)
        self._created = int(time.time())

    async def list(self, request: web.Request) -> web.Response:
        """All of them, in the order of the settings; aliases are last, and wildcards are not listed.

        Raises:
            InvalidRequest: one of Anthropic's clients asks for a page that there cannot be.
        """
        principal = request[PRINCIPAL]
        groups = {
            name: group
            for name, group in self._catalog.groups().items()
            if self._catalog.group(name) and self._is_callable(group) and self._may_use(principal, name)
        }
        if anthropic_shape.asks_for_it(request):
            names, has_more = anthropic_shape.page(request, list(groups))
            models = [anthropic_shape.model(name, groups[name], self._created) for name in names]
            return anthropic_shape.answer(anthropic_shape.listed(models, has_more))
        local = await self._local_models()
        data = [self._model(name, group, local.get(self._catalog.canonical(name))) for name, group in groups.items()]
        return _json({"object": "list", "data": data})

    async def one(self, request: web.Request) -> web.Response:
        """One of them.

        Raises:
            ModelNotFound: there is none of this name for this caller.
        """
        name = request.match_info["id"]
        group = self._catalog.group(name)
        if not self._is_callable(group) or not self._may_use(request[PRINCIPAL], name):
            raise ModelNotFound(f"the model {name!r} does not exist; GET /v1/models lists those that do", param="model")
        if anthropic_shape.asks_for_it(request):
            return anthropic_shape.answer(anthropic_shape.model(name, group, self._created))
        local = await self._local_models()
        return _json(self._model(name, group, local.get(self._catalog.canonical(name))))

    def _is_callable(self, group: Sequence[Target]) -> bool:
        return any(map(self._gateway.can_call, group))

    def _may_use(self, principal: Principal, name: str) -> bool:
        return principal.may_use(name, self._catalog.canonical(name))

    async def _local_models(self) -> Mapping[str, LocalModel]:
        """Those of this machine, by name."""
        if self._local is None:
            return {}
        try:
            return {model.name: model for model in await self._local.models()}
        except Unavailable:  # they are listed all the same, without what is known of their files
            return {}

    def _model(self, name: str, group: Sequence[Target], local: LocalModel | None) -> dict[str, Any]:
        known = {} if local is None else {"meta": _meta(local)}
        return {
            "id": name,
            "object": "model",
            "created": self._created,
            "owned_by": group[0].vendor,
            "permission": [],
            "root": name,
            "parent": None,
            **known,
        }


def _meta(model: LocalModel) -> dict[str, Any]:
    """What its file says of it, beside OpenAI's fields."""
    return {
        "architecture": model.architecture,
        "quantization": model.quantization or None,
        "quantizations": list(model.quantizations),
        "size": model.size,
        "context_length": model.context_length,
        "loaded": model.loaded,
    }


def _json(value: Any) -> web.Response:
    return web.Response(body=encode(value), headers={"Content-Type": "application/json"})
