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
    """A model to load: its name, its file, and how it is to run."""

    name: str
    options: EngineOptions
    """Without a socket, which the host chooses."""
    quantization: str
    size: int
    """Bytes of the file."""
    modified: int
    """When the file was changed, in nanoseconds since the epoch."""
    need: int
    """Bytes of memory that the model will take."""
    origin: str = ""
    """A digest of the model's settings: when it changes, what is loaded is replaced."""
    stamp: float = 0.0
    """When those settings were read, in monotonic seconds, which all processes of a machine share: the newest count."""
    fault: str = ""
    """Why the file cannot be loaded, if its header shows that; it continues a sentence after the model's name."""

    @property
    def content(self) -> str:
        """A digest of the file and its options: specs of the same content are served by the same process."""
        said = msgspec.json.encode((self.options, self.size, self.modified))
        return hashlib.sha256(said).hexdigest()


class Rules(msgspec.Struct, frozen=True):
    """The plugin's settings for all models together. Times are in seconds, memory in bytes."""

    stamp: float = 0.0
    max_concurrent_models: int = 3
    memory_limit: int = 1 << 62
    auto_load: bool = True
    idle_ttl: float = 0.0
    """0: models are never unloaded for being idle."""
    queue_timeout: float = 60.0
    load_timeout: float = 600.0
    switch_after: float = 5.0
    pinned: tuple[Spec, ...] = ()


class Hello(msgspec.Struct, frozen=True, tag=True):
    """The first message of a worker; answered by `Done`, with the `id` 0."""

    rules: Rules


class Acquire(msgspec.Struct, frozen=True, tag=True):
    """Lease a model for a request; answered by `Leased` or `Refused`. This `id` names the lease, until `Release`."""

    id: int
    spec: Spec


class Release(msgspec.Struct, frozen=True, tag=True):
    """End a lease, or give up waiting for one. Not answered."""

    id: int
    broken: bool = False
    """Whether the model's engine could not be reached."""


class Load(msgspec.Struct, frozen=True, tag=True):
    """Load a model, even if requests may not (auto_load); answered by `Done` when it is loaded."""

    id: int
    spec: Spec
    exact: bool = True
    """Whether it must be this quantization; False: any that is loaded already will do."""


class Unload(msgspec.Struct, frozen=True, tag=True):
    """Unload a model when its requests have ended; answered by `Done` then."""

    id: int
    name: str


class Report(msgspec.Struct, frozen=True, tag=True):
    """Ask for the state of all models; answered by `Told`."""

    id: int


class Bye(msgspec.Struct, frozen=True, tag=True):
    """The last message of a worker that ends; the host then closes the line."""


class Leased(msgspec.Struct, frozen=True, tag=True):
    """The model is loaded, and stays so until `Release`."""

    id: int
    socket: str


class Done(msgspec.Struct, frozen=True, tag=True):
    """What was asked for is done."""

    id: int


class Refused(msgspec.Struct, frozen=True, tag=True):
    """What was asked for cannot be done."""

    id: int
    code: str
    message: str
    retry_after: float | None = None


class State(msgspec.Struct, frozen=True):
    """A model that is loaded or being loaded, is waited for, or has failed."""

    name: str
    status: Literal["loading", "loaded", "failed"]
    spec: Spec
    context: int = 0
    progress: float | None = None
    loaded_at: float | None = None
    memory: int | None = None
    active: int = 0
    error: str = ""


class Told(msgspec.Struct, frozen=True, tag=True):
    """The state of all models."""

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
    """A message as it is sent: a line of JSON."""
    return _encode(said) + b"\n"
