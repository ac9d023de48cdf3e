"""How many tokens a request has, as the gateway estimates it: what limits and budgets go by, too."""

from typing import Protocol

from aiohttp import web

from gatehook import (
    PRINCIPAL,
    Call,
    Catalog,
    Group,
    ModelNotFound,
    Target,
    encode,
    expected_prompt,
    read_body,
    read_object,
)
from gatehook_plugins.messages_api.chat import read_count
from gatehook_plugins.messages_api.surface import fill

__all__ = ["Counting"]


class Offers(Protocol):
    """What the handler has to know of the gateway."""

    def can_call(self, target: Target) -> bool:
        """Whether a deployment can be called."""
        ...


class Counting:
    """The handler of /v1/messages/count_tokens."""

    def __init__(self, gateway: Offers, catalog: Catalog) -> None:
        """`catalog` tells the deployments of a model."""
        self._gateway = gateway
        self._catalog = catalog

    async def count(self, request: web.Request) -> web.Response:
        """``{"input_tokens"}``; no vendor is asked, so nothing is counted as used.

        Raises:
            InvalidRequest: naming the field.
            ModelNotFound: there is no such model, or none that this caller may use.
        """
        call = Call("chat", "messages", request.headers, principal=request[PRINCIPAL])
        fill(call, read_count(read_object(await read_body(request), "a JSON object with 'model' and 'messages'")))
        body = encode({"input_tokens": expected_prompt(call, self._group(call))})
        ids = {"X-Request-ID": call.id, "request-id": call.id}  # the gateway's name for it, and that of these clients
        return web.Response(body=body, content_type="application/json", headers=ids)

    def _group(self, call: Call) -> Group:
        group = self._catalog.group(call.model)
        may_use = call.principal.may_use(call.model, self._catalog.canonical(call.model))
        if not (may_use and any(map(self._gateway.can_call, group))):
            raise ModelNotFound(f"the model {call.model!r} does not exist", param="model")
        return group if isinstance(group, Group) else Group(group)
