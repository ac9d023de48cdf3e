"""The GGUF files in a folder: each model under one name, however many quantizations of it there are.

A model's name is its file's name without ".gguf" and the quantization. All else is read from the header.
"""

import logging
import os
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Final

from msgspec import Struct

from gatehook_plugins.vendor_gguf.header import BadFile, Header, Headers

__all__ = ["Family", "Library", "Variant"]

log = logging.getLogger("gatehook.vendor_gguf")

_PART: Final = re.compile(r"-(\d{5})-of-\d{5}$")
_QUANTIZATION: Final = re.compile(
    r"[-._](?:UD-)?(?:I?Q\d(?:_[0-9A-Z]{1,3})*|TQ\d_\d|BF16|F16|F32|FP16|FP32|MXFP4)(?:_MOE)?$", re.IGNORECASE
)
_MOST_FILES: Final = 10_000


class Variant(Struct, frozen=True):
    """One file of a model."""

    path: Path
    quantization: str
    """The header's, or else that in the file's name; "" if neither names one."""
    header: Header
    modified: int
    """When the file was changed, in nanoseconds since the epoch."""


class Family(Struct, frozen=True):
    """One model in all its quantizations, the largest first."""

    name: str
    variants: tuple[Variant, ...]

    def find(self, quantization: str) -> Variant | None:
        """The variant of this quantization, in upper or lower case; None if there is none."""
        wanted = quantization.casefold()
        return next((one for one in self.variants if one.quantization.casefold() == wanted), None)

    def fitting(self, memory: int) -> Variant:
        """The largest variant that fits into `memory` bytes; the smallest one if none does."""
        return next((one for one in self.variants if one.header.size < memory), self.variants[-1])


class Library:
    """Finds the models. Its methods read files: call them in a thread."""

    def __init__(self, folder: Path | None) -> None:
        """`folder` is searched with all folders in it; None for no folder."""
        self._folder = folder
        self._headers = Headers()
        self._told: dict[Path, str] = {}

    def families(self) -> Mapping[str, Family]:
        """The models in the folder, by name. Files that cannot be used are left out, and logged once.

        A link that leads out of the folder is not followed.
        """
        groups: dict[str, list[Variant]] = {}
        for path in self._files():
            if (variant := self._variant(path)) is not None:
                groups.setdefault(_model_name(path), []).append(variant)
        return {name: self._family(name, groups[name]) for name in sorted(groups)}

    def family_at(self, path: Path) -> Family:
        """The model of a file: this file first, and the other quantizations beside it.

        Raises:
            BadFile: the file is no GGUF, or cannot be read.
        """
        self._headers.of(path)
        name = _model_name(path)
        beside = [one for one in _listed(path.parent) if one != path and _is_first(one) and _model_name(one) == name]
        variants = [one for one in map(self._variant, beside) if one is not None]
        chosen = self._variant(path)
        if chosen is None:
            raise BadFile("is another part of a model than its first; name the first")
        return self._family(name, [chosen, *variants])

    def holds(self, path: Path) -> bool:
        """Whether a file lies in the folder, also after all links are followed."""
        return self._folder is not None and _is_within(path, self._folder)

    def _files(self) -> Iterator[Path]:
        if self._folder is None:
            return
        if not self._folder.is_dir():
            self._tell(self._folder, "is no folder, so there are no models in it ([plugins.vendor_gguf] models_dir)")
            return
        found = 0
        for base, folders, names in os.walk(self._folder):  # links to folders are not followed
            folders.sort()
            for path in (Path(base, name) for name in sorted(names)):
                if not _is_first(path):
                    continue
                found += 1
                if found > _MOST_FILES:
                    self._tell(self._folder, f"has more than {_MOST_FILES} models; the others are not listed")
                    return
                if path.is_symlink() and not _is_within(path, self._folder):
                    self._tell(path, "is a link that leads out of models_dir; it is not followed")
                    continue
                yield path

    def _variant(self, path: Path) -> Variant | None:
        """The variant of a file; None, with a line in the log, if it cannot be used."""
        if not _is_first(path):
            return None
        try:
            header = self._headers.of(path)
            modified = path.stat().st_mtime_ns
        except (BadFile, OSError) as error:
            self._tell(path, str(error))
            return None
        self._told.pop(path, None)
        return Variant(path, header.quantization or _named_quantization(path), header, modified)

    def _family(self, name: str, variants: Sequence[Variant]) -> Family:
        by_quantization: dict[str, Variant] = {}
        for variant in variants:
            first = by_quantization.setdefault(variant.quantization, variant)
            if first is not variant:
                self._tell(variant.path, f"is left out: {first.path} is the same model and quantization")
        ordered = sorted(by_quantization.values(), key=lambda one: (-one.header.size, one.quantization))
        return Family(name, tuple(ordered))

    def _tell(self, path: Path, what: str) -> None:
        if self._told.get(path) != what:
            self._told[path] = what
            log.warning("%s %s", str(path).encode("utf-8", "backslashreplace").decode(), what)


def _listed(folder: Path) -> Iterable[Path]:
    try:
        return sorted(folder.iterdir())
    except OSError:
        return []


def _is_first(path: Path) -> bool:
    """Whether it is a model's only file, or the first of its parts. A projector for pictures (mmproj) is no model."""
    if path.suffix.lower() != ".gguf" or path.name.startswith((".", "mmproj")):
        return False
    part = _PART.search(path.stem)
    return part is None or int(part[1]) == 1


def _model_name(path: Path) -> str:
    stem = _PART.sub("", path.stem)
    return _QUANTIZATION.sub("", stem) or stem


def _named_quantization(path: Path) -> str:
    found = _QUANTIZATION.search(_PART.sub("", path.stem))
    return found[0].lstrip("-._").upper() if found else ""


def _is_within(path: Path, folder: Path) -> bool:
    try:
        return path.resolve().is_relative_to(folder.resolve())
    except (OSError, RuntimeError, ValueError):  # a loop of links; what can be no path
        return False
