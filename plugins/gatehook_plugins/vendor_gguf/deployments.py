"""From a deployment to the `Spec` of its engine: which file, in which quantization, and how it is to run."""

import hashlib
import logging
import threading
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Final

import msgspec
from msgspec import Struct

from gatehook import InvalidRequest, Misconfigured, ModelNotFound, Retry, Target, Unavailable, read_options
from gatehook_plugins.vendor_gguf.estimate import context_of, need
from gatehook_plugins.vendor_gguf.header import BadFile, Header
from gatehook_plugins.vendor_gguf.library import Family, Library, Variant
from gatehook_plugins.vendor_gguf.messages import Spec
from gatehook_plugins.vendor_gguf.options import EngineOptions, option_faults

__all__ = ["VENDOR", "Defaults", "DeploymentOptions", "Deployments"]

log = logging.getLogger("gatehook.vendor_gguf")

VENDOR: Final = "gguf"
_CHATS: Final = ("text-generation", "conversation", "tools")
_EMBEDS: Final = ("embeddings",)


class DeploymentOptions(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """`options` of a [[models]] table. What is None is taken from [plugins.vendor_gguf]."""

    path: str = ""
    """The file's path; "": `model` names a model in models_dir."""
    quantization: str | None = None
    """Which quantization, if there are several."""
    context: int | None = None
    slots: int | None = None
    batch: int | None = None
    threads: int | None = None
    gpu_layers: int | None = None
    chat_template: str | None = None
    """A Jinja template, instead of the file's own."""
    embedding: bool | None = None
    """Whether the model makes embeddings; None: as the file says."""
    pooling: str = ""
    reasoning: tuple[str, str] | None = None
    """The tags before and after the reasoning in an answer, such as <think> and </think>."""
    seed: int | None = None
    step_timeout: float | None = None

    def faults(self) -> Sequence[str]:
        """What is wrong with them."""
        found = [f"options: {fault}" for fault in option_faults(msgspec.structs.asdict(self))]
        if self.reasoning is not None and not all(self.reasoning):
            found.append("options: reasoning must be two tags, as in ['<think>', '</think>']")
        return found


class Defaults(Struct, frozen=True):
    """The plugin's settings, for models whose own options do not say."""

    quantization: str
    context: int
    slots: int
    batch: int
    threads: int
    gpu_layers: int
    step_timeout: float
    memory: Callable[[], int]
    """Gives the bytes of memory for models: of several quantizations, the largest that fits is chosen."""


class Deployments:
    """Knows the files behind deployments. Its methods read files: call them in a thread."""

    def __init__(
        self, library: Library, defaults: Defaults, base: Path, trusted: Collection[str], stamp: float
    ) -> None:
        """Nothing is read yet.

        Args:
            library: finds files.
            defaults: for what deployments do not say.
            base: the folder that relative paths start from.
            trusted: the paths that the operator has written into the settings; others must lie in models_dir.
            stamp: when the settings were read, in monotonic seconds.
        """
        self._library = library
        self._defaults = defaults
        self._base = base
        self._trusted = frozenset(trusted)
        self._stamp = stamp
        self._families: Mapping[str, Family] = {}
        self._lock = threading.Lock()

    def scan(self, others: Sequence[Target] = ()) -> Sequence[Target]:
        """Look for files in models_dir; gives a deployment for each model that the settings do not name.

        Args:
            others: all deployments but those of an earlier scan.
        """
        with self._lock:
            self._families = found = self._library.families()
        taken = {one.name for one in others}
        taken |= {one.model for one in others if one.vendor == VENDOR and not one.options.get("path")}
        files = {self._base / str(one.options.get("path", "")) for one in others if one.vendor == VENDOR}
        targets = []
        for name, family in found.items():
            if name not in taken and not files & {variant.path for variant in family.variants}:
                target = Target(key=f"{name}#gguf", name=name, vendor=VENDOR, model=name)
                targets.append(self.described(target, self._chosen(family, DeploymentOptions(), None).header))
        return targets

    def described(self, target: Target, header: Header) -> Target:
        """The deployment, with the context window and capabilities that its file tells where the settings do not."""
        window = target.context_window or self._context(target, header)
        can = target.capabilities or (_EMBEDS if header.embeds else _CHATS)
        return replace(target, context_window=window, capabilities=can)

    def family(self, target: Target) -> Family:
        """The files of a deployment.

        Raises:
            ModelNotFound: there is no such file in models_dir. InvalidRequest: it must not be used.
            Unavailable: it cannot be used.
        """
        path = _options(target).path
        if not path:
            return self._listed(target)
        file = self._base / Path(path).expanduser()
        if path not in self._trusted and not self._library.holds(file):
            raise InvalidRequest(
                f"the file of the model {target.name!r} is not in models_dir", param="options.path", retry=Retry.NEXT
            )
        try:
            with self._lock:
                return self._library.family_at(file)
        except BadFile as error:
            raise Unavailable(
                f"the model {target.name!r} cannot be loaded: {file.name} {error}", code="model_load_failed"
            ) from None

    def spec(self, target: Target, quantization: str | None = None, prefer_gpu: bool | None = None) -> Spec:
        """What is to be loaded for a deployment, and how.

        Args:
            target: the deployment.
            quantization: instead of the settings' one; in upper or lower case.
            prefer_gpu: True for all layers on a GPU, False for none; None as its options say.

        Raises:
            ModelNotFound, Unavailable: as `family`. InvalidRequest: as `family`; or it lacks this quantization.
        """
        options, family = _options(target), self.family(target)
        usual = self._chosen(family, options, None)
        variant = usual if quantization is None else self._chosen(family, options, quantization)
        engine = self._engine(target, options, variant)
        said = msgspec.json.encode((self._engine(target, options, usual),))
        if prefer_gpu is not None:
            engine = msgspec.structs.replace(engine, gpu_layers=-1 if prefer_gpu else 0)
        return Spec(
            name=target.name,
            options=engine,
            quantization=variant.quantization,
            size=variant.header.size,
            modified=variant.modified,
            need=need(variant.header, engine),
            origin=hashlib.sha256(said).hexdigest(),
            stamp=self._stamp,
            fault=variant.header.fault,
        )

    def variant(self, target: Target) -> Variant:
        """The file that would be loaded.

        Raises:
            ModelNotFound, InvalidRequest, Unavailable: as `spec`.
        """
        return self._chosen(self.family(target), _options(target), None)

    def _context(self, target: Target, header: Header) -> int:
        options = _options(target)
        return context_of(header, self._defaults.context if options.context is None else options.context)

    def _listed(self, target: Target) -> Family:
        for attempt in (1, 2):
            if (family := self._families.get(target.model)) is not None:
                return family
            if attempt == 1:
                with self._lock:
                    self._families = self._library.families()
        raise ModelNotFound(f"there is no file of the model {target.model!r} in models_dir", param="model")

    def _chosen(self, family: Family, options: DeploymentOptions, quantization: str | None) -> Variant:
        """The variant that is asked for; else that of the settings; else the largest that fits into memory."""
        asked = quantization or options.quantization
        if asked:
            if (found := family.find(asked)) is None:
                there = ", ".join(one.quantization or "one without a name" for one in family.variants)
                raise InvalidRequest(
                    f"the model {family.name!r} has no quantization {asked!r}; there is {there}",
                    param="quantization",
                    code="unknown_quantization",
                    retry=Retry.NEXT,
                )
            return found
        if options.path:
            file = self._base / Path(options.path).expanduser()
            return next(one for one in family.variants if one.path == file)
        if self._defaults.quantization and (found := family.find(self._defaults.quantization)) is not None:
            return found
        return family.fitting(self._defaults.memory())

    def _engine(self, target: Target, options: DeploymentOptions, variant: Variant) -> EngineOptions:
        defaults, header = self._defaults, variant.header

        def chosen(own: Any, usual: Any) -> Any:
            return usual if own is None else own

        return EngineOptions(
            path=str(variant.path),
            socket="",
            name=target.name,
            context=context_of(header, chosen(options.context, defaults.context)),
            slots=chosen(options.slots, defaults.slots),
            batch=chosen(options.batch, defaults.batch),
            threads=chosen(options.threads, defaults.threads),
            gpu_layers=chosen(options.gpu_layers, defaults.gpu_layers),
            chat_template=options.chat_template,
            embedding=chosen(options.embedding, header.embeds),
            pooling=options.pooling,
            reasoning=options.reasoning,
            seed=options.seed,
            step_timeout=chosen(options.step_timeout, defaults.step_timeout),
        )


def _options(target: Target) -> DeploymentOptions:
    """A deployment's options.

    Raises:
        Misconfigured: they are wrong, as `gatehook check` says, too.
    """
    options = read_options(target, DeploymentOptions)
    if faults := options.faults():
        raise Misconfigured("; ".join(faults), model=target.name)
    return options
