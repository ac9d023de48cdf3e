"""What a request for pictures must look like: types and bounds that hold for every model.

Narrower bounds of one model are for its vendor to tell; unknown fields pass.
"""

import re
from typing import Annotated, Final, Literal

from msgspec import UNSET, Meta, Struct, UnsetType, field

from gatehook import LONGEST_MODEL_NAME, InvalidRequest

__all__ = ["ImageRequest", "check_size"]

_SIZE: Final = "auto|[1-9][0-9]{0,4}x[1-9][0-9]{0,4}"
Name = Annotated[str, Meta(min_length=1, max_length=LONGEST_MODEL_NAME)]
Prompt = Annotated[str, Meta(min_length=1, max_length=100_000)]
Count = Annotated[int, Meta(ge=1, le=10)]
Size = Annotated[str, Meta(extra_json_schema={"pattern": rf"^({_SIZE})$"})]
"""For the published schema; `check_size` has more to say to whoever writes it wrongly."""
Word = Annotated[str, Meta(max_length=64)]


class ImageRequest(Struct):
    """POST /v1/images/generations."""

    model: Name
    prompt: Prompt
    n: Count | None = None
    size: Size | None = None
    quality: Word | None = None
    style: Word | None = None
    background: Word | None = None
    output_format: Word | None = None
    response_format: Literal["b64_json", "url"] | None = None
    user: str | None = None
    stream: bool | None = None
    seed: Annotated[int, Meta(ge=0)] | None = None
    negative_prompt: Annotated[str, Meta(max_length=100_000)] | None = None
    steps: Annotated[int, Meta(ge=1, le=10_000)] | None = None
    deferred: bool | UnsetType | None = field(default=UNSET, name="async")


def check_size(size: str | None) -> None:
    """Check the form of a size.

    Raises:
        InvalidRequest: it is none.
    """
    if size is not None and not re.fullmatch(_SIZE, size):
        raise InvalidRequest(
            "size: expected 'auto', or a width and a height in pixels, as in '1024x1024'", param="size"
        )
