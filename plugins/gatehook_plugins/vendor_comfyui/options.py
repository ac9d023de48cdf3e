"""What a deployment is told: the `options` table of a `[[models]]` entry with `vendor = "comfyui"`.

options = { workflow = "sdxl.json", inputs = { prompt = "6.text", seed = "3.seed" } }
options = { workflow = "sdxl.json", inputs = { prompt = "6.text", steps = { node = "3.steps", max = 50 } } }
"""

from typing import Annotated, Literal

from msgspec import Meta, Struct

__all__ = ["InputOptions", "Options"]

Bound = int | float


class InputOptions(Struct, forbid_unknown_fields=True, frozen=True):
    """One input that clients may give.

    `node` is its place in the workflow, as in "6.text", or several that get the same value. `type`, if not given, is
    that of the value which stands there. `min` and `max` bound numbers; `choices` lists all that is allowed.
    """

    node: str | list[str]
    type: Literal["text", "int", "float", "bool"] | None = None
    min: Bound | None = None
    max: Bound | None = None
    choices: list[str | int | float] | None = None


class Options(Struct, forbid_unknown_fields=True, frozen=True):
    """All of a deployment.

    `workflow` is a file in ComfyUI's API format, seen from the settings file. `outputs` names the nodes whose pictures
    are the answer; all that save some, if none are given. `keep_metadata` leaves in PNG files what ComfyUI writes into
    them: the whole workflow and the prompt. `poll` is how many seconds may pass without a word until the server is
    asked. `headers` are sent with every request, as a proxy in front of the server may want.
    """

    workflow: Annotated[str, Meta(min_length=1)]
    inputs: dict[str, str | InputOptions] = {}
    outputs: list[str] = []
    keep_metadata: bool = False
    poll: Annotated[float, Meta(gt=0, le=60)] = 1.0
    headers: dict[str, str] = {}

    def __repr__(self) -> str:
        return "Options(…)"  # a header may be secret
