"""OpenAI's Responses API, /v1/responses, in front of every vendor. Nothing is kept between requests."""

from collections.abc import Iterable
from typing import Final

from gatehook import Endpoint, Route, Section, hookimpl
from gatehook_plugins.responses_api.kept import not_kept
from gatehook_plugins.responses_api.requests import ResponseRequest
from gatehook_plugins.responses_api.surface import ResponsesSurface

__all__ = ["ResponsesApi"]

_PATH: Final = "/v1/responses"


class ResponsesApi:
    """Serves /v1/responses."""

    class Settings(Section):
        """[plugins.responses_api]."""

    def __init__(self, settings: Settings) -> None:
        """`settings` has no keys beyond every plugin's."""

    @hookimpl
    def register_routes(self) -> Iterable[Route | Endpoint]:
        """The one endpoint; and whoever asks for an earlier response is told that none is kept."""
        yield Endpoint(_PATH, "chat", ResponsesSurface(), ResponseRequest)
        yield Route("*", f"{_PATH}/{{path:.*}}", not_kept, auth=False)
