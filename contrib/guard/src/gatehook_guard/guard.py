"""The transform: masks what it finds in a request, or refuses it, before any vendor, cache or tool sees it."""

import asyncio
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final, Literal

from gatehook import Call, Document, InvalidRequest, Rewriter, Transform
from gatehook_guard.detectors import Detector
from gatehook_guard.rewriting import Rewriting
from gatehook_guard.scanner import JsonScanner, Patterns, Scanner
from gatehook_guard.texts import FIELDS, mapped
from gatehook_guard.vault import PLACEHOLDER, Vault

__all__ = ["Guard", "Policy"]

_SLICE: Final = 2048
"""Characters of a text that are scanned before other tasks get their turn."""
_HEADER: Final = "X-Guard-Masked"


@dataclass(frozen=True, slots=True)
class Policy:
    """The plugin's settings on what to do with what is found; `models` are the public names to guard, none: all."""

    requests: Literal["mask", "refuse", "off"] = "mask"
    answers: Literal["mask", "off"] = "mask"
    restore: bool = True
    models: frozenset[str] = frozenset()


class Guard:
    """Implements `gatehook.Transform`: scans every text of a request, and the answer by a `Rewriting`."""

    def __init__(self, detectors: tuple[Detector, ...], policy: Policy) -> None:
        self._patterns = Patterns(detectors)
        placeholders = (PLACEHOLDER,) if policy.restore else ()
        self._in_answers = Patterns(detectors if policy.answers == "mask" else (), placeholders)
        self._policy = policy
        self._taken = re.compile(PLACEHOLDER.pattern)

    async def transform(self, call: Call) -> Rewriter | None:
        """See `Transform.transform`.

        Raises:
            InvalidRequest: something was found, and the settings say to refuse such requests.
        """
        policy = self._policy
        if policy.models and call.model not in policy.models:
            return None
        vault = Vault()
        if policy.requests != "off":
            vault = await self._request(call)
        masks = policy.answers == "mask"
        if not masks and not (policy.restore and vault.counts):
            return None
        return Rewriting(self._in_answers, vault)

    async def _request(self, call: Call) -> Vault:
        """Put placeholders into the request; gives the vault that knows what they stand for."""
        payload = call.payload
        texts: dict[tuple[str, bool], str] = {}

        def note(path: str, text: str, is_json: bool) -> str:
            texts.setdefault((text, is_json), path)
            return text

        given = {name: payload[name] for name in FIELDS if name in payload}
        for name, value in given.items():
            mapped(value, name, note)
        taken = (match for text, _ in texts if "[" in text for match in self._taken.findall(text))
        vault = Vault(frozenset(taken))
        changed: dict[tuple[str, bool], str] = {}
        for (text, is_json), path in texts.items():
            if (new := await self._masked(path, text, is_json, vault)) != text:
                changed[text, is_json] = new
        if changed:
            call.body = Document({**payload, **{name: _with(value, changed) for name, value in given.items()}})
            found = ", ".join(f"{label.lower()}={count}" for label, count in vault.counts.items())
            call.answer_headers[_HEADER] = found
        return vault

    async def _masked(self, path: str, text: str, is_json: bool, vault: Vault) -> str:
        def replace(detector: Detector, found: str) -> str:
            if self._policy.requests == "refuse":
                what = detector.label.lower().replace("_", " ")
                raise InvalidRequest(
                    f"{path}: holds what looks like a secret or personal data ({what}); remove it",
                    param=path,
                    code="sensitive_content",
                )
            finds.append(vault.mask(detector.label, found))
            return finds[-1]

        finds: list[str] = []
        scanner, said = (JsonScanner if is_json else Scanner)(self._patterns, replace), []
        for start in range(0, len(text), _SLICE):
            said.append(scanner.feed(text[start : start + _SLICE]))
            if len(text) > _SLICE:
                await asyncio.sleep(0)  # a long text must not keep other requests waiting
        whole = "".join(said) + scanner.rest()
        return whole if finds else text  # the same JSON may come back with other escapes


def _with(value: Any, changed: Mapping[tuple[str, bool], str]) -> Any:
    # By text and not by path: where keys have dots, two texts can have the same path.
    return mapped(value, "", lambda _, text, is_json: changed.get((text, is_json), text))


_implements: type[Transform] = Guard
