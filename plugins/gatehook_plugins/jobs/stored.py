"""What is kept of a call and its caller, to make the call again in another process."""

import hashlib
from collections.abc import Iterable, Sequence
from typing import Final

import msgspec
from msgspec import Struct
from multidict import CIMultiDict

from gatehook import LONGEST_MODEL_NAME, Call, Caller, Document, Operation, Principal, decode, encode

__all__ = ["StoredCall", "fit", "fit_names", "read", "revived", "stored", "user_id"]

_LONGEST: Final = LONGEST_MODEL_NAME
_MOST_NAMES: Final = 100


class StoredCall(Struct, frozen=True):
    """A call, without its body."""

    operation: Operation
    surface: str
    model: str
    remote: str
    headers: dict[str, str]
    max_tokens: int | None
    choices: int | None
    caller: Caller


def stored(call: Call, keep: Iterable[str]) -> str:
    """As JSON. Of the headers, which hold credentials, only those named are kept."""
    headers = {name: call.headers[name] for name in keep if name in call.headers}
    kept = StoredCall(
        call.operation,
        call.surface,
        call.model,
        call.remote,
        headers,
        call.max_tokens,
        call.choices,
        Caller.of(call.principal),
    )
    return encode(msgspec.to_builtins(kept)).decode()


def read(text: str) -> StoredCall:
    """What `stored` wrote."""
    return msgspec.convert(decode(text), StoredCall)


def revived(kept: StoredCall, body: bytes, principal: Principal, job_id: str, run: int) -> Call:
    """The call, to be made now: each run under an id of its own that begins with the job's."""
    return Call(
        kept.operation,
        kept.surface,
        CIMultiDict(kept.headers),
        kept.remote,
        id=f"{job_id}.{run}",
        principal=principal,
        model=kept.model,
        max_tokens=kept.max_tokens,
        choices=kept.choices,
        body=Document(raw=body),
        reservation=job_id,
    )


def user_id(name: str) -> str:
    """A caller's id as every database can keep it; never the same for two."""
    return name if fit(name) == name else hashlib.sha256(name.encode("utf-8", "surrogatepass")).hexdigest()


def fit(text: str) -> str:
    """What every database can keep of a text: nearly always the text itself."""
    text = text[:_LONGEST]
    return text if text.isprintable() else "".join(letter if letter.isprintable() else "?" for letter in text)


def fit_names(names: Sequence[str]) -> list[str]:
    """What is kept of names that a client wrote, and perhaps by the thousand: then "..." stands for the rest."""
    return [*map(fit, names[:_MOST_NAMES]), *(["..."] if len(names) > _MOST_NAMES else ())]
