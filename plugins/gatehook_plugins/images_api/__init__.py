"""OpenAI's API of pictures: POST /v1/images/generations, for every vendor that makes some."""

from collections.abc import Iterable

from gatehook import Endpoint, Route, Section, hookimpl
from gatehook_plugins.images_api.requests import ImageRequest
from gatehook_plugins.images_api.surface import ImageSurface

__all__ = ["ImagesApi"]


class ImagesApi:
    """Serves /v1/images/generations."""

    class Settings(Section):
        """[plugins.images_api]."""

    def __init__(self, settings: Settings) -> None:
        """`settings` has no keys beyond every plugin's."""

    @hookimpl
    def register_routes(self) -> Iterable[Route | Endpoint]:
        """The one endpoint."""
        return [Endpoint("/v1/images/generations", "images", ImageSurface(), ImageRequest)]
