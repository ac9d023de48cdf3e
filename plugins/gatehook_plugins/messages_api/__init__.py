"""Anthropic's Messages API under /v1/messages, for its official SDKs and the programs that are made for it."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

from gatehook import CATALOG, Endpoint, Route, Section, hookimpl
from gatehook_plugins.messages_api.counting import Counting
from gatehook_plugins.messages_api.errors import error_answer
from gatehook_plugins.messages_api.requests import MessagesRequest
from gatehook_plugins.messages_api.surface import MessagesSurface

if TYPE_CHECKING:
    from gatehook.app import Gateway

__all__ = ["MessagesApi"]

_PATH = "/v1/messages"


class MessagesApi:
    """Serves /v1/messages and /v1/messages/count_tokens for every vendor."""

    class Settings(Section):
        """[plugins.messages_api]."""

    requires = (CATALOG,)

    def __init__(self, settings: Settings) -> None:
        """`settings` has no keys beyond every plugin's."""

    @hookimpl
    def register_routes(self, gateway: Gateway) -> Iterable[Route | Endpoint]:
        """Messages, their count of tokens, and what tells in this API's shape that there is nothing else."""
        counting = Counting(gateway, gateway.services[CATALOG])
        yield Endpoint(_PATH, "chat", MessagesSurface(), MessagesRequest)
        yield Route("POST", f"{_PATH}/count_tokens", counting.count, errors=error_answer)
        yield Route("*", f"{_PATH}/{{path:.*}}", gateway.nothing_here, auth=False, errors=error_answer)
