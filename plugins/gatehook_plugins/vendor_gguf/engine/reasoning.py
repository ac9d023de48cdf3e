"""Parts an answer into reasoning and text, by the tags around the reasoning."""

from gatehook_plugins.vendor_gguf.engine.text import withheld

__all__ = ["ReasoningReader"]


class ReasoningReader:
    """Takes a text bit by bit, and parts it. Reasoning, if there is any, is the beginning of an answer."""

    def __init__(self, tags: tuple[str, str] | None, *, begun: bool = False) -> None:
        """`tags` stand before and after the reasoning; `begun`: the prompt ends with the first one."""
        self._tags = tags
        self._begun = begun
        self._over = tags is None
        self._held = ""
        self._blank = True

    def push(self, text: str) -> tuple[str, str]:
        """Take a piece; gives the reasoning and the answer that are certain now."""
        if self._tags is None or self._over:
            return "", self._without_blanks(text)
        before, after = self._tags
        self._held += text
        if not self._begun:
            start = self._held.lstrip()
            if not start.startswith(before):
                return ("", "") if before.startswith(start) else self._end("", self._held)
            self._begun, self._held = True, start[len(before) :]
        at = self._held.find(after)
        if at >= 0:
            self._blank = True
            return self._end(self._held[:at], self._held[at + len(after) :])
        keep = len(self._held) - withheld(self._held, (after,))
        said, self._held = self._held[:keep], self._held[keep:]
        return said, ""

    def finish(self) -> tuple[str, str]:
        """The reasoning and the answer that are still held back, at the end."""
        held, self._held = self._held, ""
        return (held, "") if self._begun and not self._over else ("", held)

    def _end(self, reasoning: str, answer: str) -> tuple[str, str]:
        self._over, self._held = True, ""
        return reasoning, self._without_blanks(answer)

    def _without_blanks(self, text: str) -> str:
        """The answer without the blanks between reasoning and answer, which belong to neither."""
        if self._blank and self._begun:
            text = text.lstrip()
            self._blank = not text
        return text
