"""What a mock deployment does: the `options` table of a `[[models]]` entry with `vendor = "mock"`.

options = { text = "Paris.", chunk_size = 2, delay = 0.05 }
options = { mode = "echo" }
options = { tool_calls = [{ name = "get_weather", arguments = { city = "Paris" } }] }
options = { fault = { kind = "status", status = 429, retry_after = 1, times = 2 } }
options = { script = [{ tool_calls = [{ name = "f" }] }, { text = "done" }, { fault = { kind = "cut", after = 3 } }] }
"""

from collections.abc import Iterable, Mapping
from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

__all__ = ["FaultOptions", "Mode", "Options", "ToolCallOptions", "Turn", "UsageOptions", "option_faults"]

Mode = Literal["fixed", "echo", "script"]
Seconds = Annotated[float, Field(ge=0, allow_inf_nan=False)]
Count = Annotated[int, Field(ge=0)]


class _Table(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, hide_input_in_errors=True)


class ToolCallOptions(_Table):
    """One tool call. Arguments are a table, or a text as the model would write it, which need not be JSON."""

    name: str = Field(min_length=1)
    arguments: Any = {}
    id: str = ""
    """Made up if not given."""

    @field_validator("arguments")
    @classmethod
    def _table_or_text(cls, value: Any) -> Any:
        if not isinstance(value, dict | str):
            raise ValueError("expected a table, or a text")  # noqa: TRY004  # pydantic collects ValueErrors only
        return value


class UsageOptions(_Table):
    """Tokens to report instead of those counted."""

    prompt_tokens: Count | None = None
    completion_tokens: Count | None = None
    cached_tokens: Count | None = None
    reasoning_tokens: Count | None = None


class FaultOptions(_Table):
    """Something that goes wrong.

    status: an error answer with `status`, `code`, `retry_after` and `message`. reset: the connection breaks. silence:
    no answer, ever. cut: the answer ends in the middle. stall: the answer stops in the middle, and nothing more comes.
    malformed: something arrives that is not JSON.
    """

    kind: Literal["status", "reset", "silence", "cut", "stall", "malformed"]
    status: int = Field(default=500, ge=400, le=599)
    code: str | None = None
    retry_after: Seconds | None = None
    message: str = "a rehearsed failure"
    after: Count = 0
    """How many chunks of a stream come before it; at the latest it comes before the chunk that would end the answer."""
    every: int = Field(default=1, ge=1)
    """It strikes each `every`-th request …"""
    times: Count = 0
    """… but only so many times; 0 is without end."""

    @model_validator(mode="after")
    def _silence_has_no_before(self) -> Self:
        if self.kind == "silence" and self.after:
            raise ValueError("a silence after some chunks is kind = 'stall'")
        return self

    def strikes(self, number: int) -> bool:
        """Whether it strikes the request with this number, counted from 1."""
        hits, rest = divmod(number, self.every)
        return rest == 0 and (self.times == 0 or hits <= self.times)


class Turn(_Table):
    """One answer."""

    text: str | None = None
    reasoning: str = ""
    tool_calls: tuple[ToolCallOptions, ...] = ()
    finish_reason: Literal["stop", "length", "tool_calls", "content_filter"] | None = None
    """Instead of the true one."""
    usage: UsageOptions = UsageOptions()
    report_usage: bool = True
    """False rehearses a vendor that tells nothing of its tokens."""
    fault: FaultOptions | None = None


class Options(Turn):
    """All of a deployment.

    Without any text, tool call or mode it greets and repeats what the user said. `echo` only repeats, after `text` if
    that is given; `fixed` says `text`; `script` plays its turns, one per request and round and round, each turn a whole
    answer of its own. Requests are counted per deployment and process.
    """

    mode: Mode | None = None
    """Mostly not needed: without it a `script` is played, and a `text` or `tool_calls` are the fixed answer."""
    script: tuple[Turn, ...] = ()
    chunk_size: int | None = Field(default=None, ge=1)
    """Characters in a chunk of a stream; if not given, each chunk is a word."""
    first_delay: Seconds = 0.0
    """Seconds before anything happens."""
    delay: Seconds = 0.0
    """Seconds between the chunks of a stream."""
    dimensions: int = Field(default=1536, ge=1, le=16384)
    """Length of an embedding, if the request does not say."""

    @model_validator(mode="after")
    def _script_stands_alone(self) -> Self:
        if self.mode == "script" and not self.script:
            raise ValueError("mode = 'script' needs a script, a list of turns")
        if self.script:
            if self.mode not in (None, "script"):
                raise ValueError(f"a script is not played with mode = '{self.mode}'")
            if beside := sorted(self.model_fields_set & _OF_A_TURN):
                raise ValueError(f"beside a script there can be no {', '.join(beside)}; each turn has its own")
        return self

    def turn(self, number: int) -> tuple[Turn, FaultOptions | None]:
        """What the request with this number gets: the answer, and what goes wrong with it."""
        if not self.script:
            return self, self._striking(self.fault, number)
        round_, place = divmod(number - 1, len(self.script))
        turn = self.script[place]
        # In a turn, the count is of that turn's own appearances.
        return turn, self._striking(self.fault, number) or self._striking(turn.fault, round_ + 1)

    @staticmethod
    def _striking(fault: FaultOptions | None, number: int) -> FaultOptions | None:
        return fault if fault is not None and fault.strikes(number) else None


_OF_A_TURN = frozenset(Turn.model_fields) - {"fault"}
_KNOWN = [name for table in (Options, ToolCallOptions, UsageOptions, FaultOptions) for name in table.model_fields]


def option_faults(options: Mapping[str, Any]) -> Iterable[str]:
    """What is wrong with a deployment's options: one message for each fault, naming the key and not its value."""
    try:
        Options.model_validate(options)
    except ValidationError as error:
        for fault in error.errors(include_url=False, include_context=False, include_input=False):
            place = "".join(f"[{step}]" if isinstance(step, int) else f".{step}" for step in fault["loc"])
            yield f"options{place}: {_explained(fault['type'], fault['msg'], str((fault['loc'] or ('',))[-1]))}"


def _explained(kind: str, message: str, key: str) -> str:
    if kind == "missing":
        return "required, but not set"
    if kind == "extra_forbidden":
        import difflib  # only faults need it

        near = difflib.get_close_matches(key, _KNOWN, n=1)
        return f"unknown key; did you mean '{near[0]}'?" if near else "unknown key"
    message = message.removeprefix("Value error, ")
    return message[:1].lower() + message[1:]
