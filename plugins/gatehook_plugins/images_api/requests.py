"""What a request for pictures must look like: types and bounds that hold for every model.

Narrower bounds of one model are for its vendor to tell; unknown fields pass.
"""

from typing import Annotated, Literal

from msgspec import UNSET, Meta, Struct, UnsetType, field

from gatehook import LONGEST_MODEL_NAME

__all__ = ["ImageRequest"]

Name = Annotated[str, Meta(min_length=1, max_length=LONGEST_MODEL_NAME)]
Prompt = Annotated[str, Meta(min_length=1, max_length=100_000)]
Count = Annotated[int, Meta(ge=1, le=10)]
Size = Annotated[str, Meta(pattern=r"^(auto|[1-9][0-9]{0,4}x[1-9][0-9]{0,4})$")]
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
