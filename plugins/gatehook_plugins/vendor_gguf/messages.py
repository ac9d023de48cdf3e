"""What workers and the host say to each other: JSON, one message a line. The host answers every `id`."""

import hashlib
from typing import Final, Literal

import msgspec

from gatehook_plugins.vendor_gguf.options import EngineOptions

__all__ = [
    "Acquire",
    "Bye",
    "Done",
    "Hello",
    "Leased",
    "Load",
    "Message",
    "Refused",
    "Release",
    "Reply",
    "Report",
    "Rules",
    "Spec",
    "State",
    "Told",
    "Unload",
    "line",
    "read_message",
    "read_reply",
]


class Spec(msgspec.Struct, frozen=True):
    """Which file is to run under which name, and how."""

    name: str
    options: EngineOptions
    """Without a socket, which the host chooses."""
    quantization: str
    size: int
    """Bytes of the file."""
    modified: int
    """When it was changed, in nanoseconds."""
    need: int
    """Bytes of memory that it will take."""
    origin: str = ""
    """What the settings say of this model, as a digest: another one takes the place of what is loaded."""
    stamp: float = 0.0
    """When those settings were read, in monotonic seconds, which all processes of a machine share: the newest hold."""
    fault: str = ""
    """Why the file cannot be loaded, as far as that can be seen beforehand; it reads on from the model's name."""

    @property
    def content(self) -> str:
        """A digest of what would run, and how: two specs of one content are served by one process."""
        said = msgspec.json.encode((self.options, self.size, self.modified))
        return hashlib.sha256(said).hexdigest()


class Rules(msgspec.Struct, frozen=True):
    """What all models together may take, and when they go. Times are in seconds, memory in bytes."""

    stamp: float = 0.0
    max_concurrent_models: int = 3
    memory_limit: int = 1 << 62
    auto_load: bool = True
    idle_ttl: float = 0.0
    """0 for ever."""
    queue_timeout: float = 60.0
    load_timeout: float = 600.0
    switch_after: float = 5.0
    pinned: tuple[Spec, ...] = ()


class Hello(msgspec.Struct, frozen=True, tag=True):
    """The first message of a worker; answered by `Done`, with the `id` 0."""

    rules: Rules


class Acquire(msgspec.Struct, frozen=True, tag=True):
    """Have a model answer a request; answered by `Leased` or `Refused`. The lease is this `id`, until `Release`."""

    id: int
    spec: Spec


class Release(msgspec.Struct, frozen=True, tag=True):
    """The request has ended; or nobody waits for the model any more. Not answered."""

    id: int
    broken: bool = False
    """Whether the model's engine did not take the request."""


class Load(msgspec.Struct, frozen=True, tag=True):
    """Load it, also where models are not loaded by requests; answered by `Done` when it is."""

    id: int
    spec: Spec
    exact: bool = True
    """Whether another quantization of it will not do, if it is that which is loaded."""


class Unload(msgspec.Struct, frozen=True, tag=True):
    """Unload it when its requests have ended; answered by `Done` then."""

    id: int
    name: str


class Report(msgspec.Struct, frozen=True, tag=True):
    """How are they? Answered by `Told`."""

    id: int


class Bye(msgspec.Struct, frozen=True, tag=True):
    """The last message of a worker that ends; the host then closes the line."""


class Leased(msgspec.Struct, frozen=True, tag=True):
    """The model is loaded, and stays so."""

    id: int
    socket: str


class Done(msgspec.Struct, frozen=True, tag=True):
    """It is done."""

    id: int


class Refused(msgspec.Struct, frozen=True, tag=True):
    """It cannot be done."""

    id: int
    code: str
    message: str
    retry_after: float | None = None


class State(msgspec.Struct, frozen=True):
    """A model that is not simply unloaded."""

    name: str
    status: Literal["loading", "loaded", "failed"]
    """What the model is doing."""
    spec: Spec
    context: int = 0
    progress: float | None = None
    loaded_at: float | None = None
    memory: int | None = None
    active: int = 0
    error: str = ""


class Told(msgspec.Struct, frozen=True, tag=True):
    """How they are."""

    id: int
    states: tuple[State, ...]
    memory: int
    """Bytes that are in use, or reserved for what is being loaded."""
    failures: dict[str, int] = {}
    """How often each model has failed, by name."""


Message = Hello | Acquire | Release | Load | Unload | Report | Bye
Reply = Leased | Done | Refused | Told

_encode: Final = msgspec.json.Encoder().encode
read_message: Final = msgspec.json.Decoder(Message).decode
read_reply: Final = msgspec.json.Decoder(Reply).decode


def line(said: Message | Reply) -> bytes:
    """One message as it is sent."""
    return _encode(said) + b"\n"
