"""Which models may follow which: known ones, each once, and never in a circle."""

from collections.abc import Callable, Iterable, Mapping, Sequence

from gatehook import InvalidRequest

__all__ = ["check_fallbacks", "circle", "nearest"]


def check_fallbacks(
    param: str, name: str, fallbacks: Sequence[str], after: Mapping[str, Sequence[str]], is_known: Callable[[str], bool]
) -> None:
    """Check what shall follow one model.

    Args:
        param: the field, for messages.
        name: of the model.
        fallbacks: what shall follow it.
        after: what then follows each model, by its name.
        is_known: whether a name can be asked for.

    Raises:
        InvalidRequest: a name that nobody knows, or given twice, or a circle, which the message goes round.
    """
    for one in fallbacks:
        if not is_known(one):
            raise _wrong(param, f"no model is named {one[:80]!r}{nearest(one, after)}")
        if fallbacks.count(one) > 1:
            raise _wrong(param, f"{one[:80]!r} is named twice")
    if way := circle(name, after):
        raise _wrong(param, f"goes round in a circle: {' → '.join(way)}")


def circle(start: str, after: Mapping[str, Sequence[str]]) -> list[str]:
    """A way from `start` back to it, [] if there is none."""
    before: dict[str, str] = {}
    todo = [start]
    while todo:
        name = todo.pop()
        for following in after.get(name, ()):
            if following == start:
                way = [start]
                while name != start:
                    way.append(name)
                    name = before[name]
                return [start, *reversed(way)]
            if following not in before:
                before[following] = name
                todo.append(following)
    return []


def nearest(word: str, words: Iterable[str]) -> str:
    """What ends a message about `word`: the word most like it, if there is one."""
    import difflib  # only faults need it

    near = difflib.get_close_matches(word[:80], list(words), n=1)
    return f"; did you mean {near[0]!r}?" if near else ""


def _wrong(param: str, what: str) -> InvalidRequest:
    return InvalidRequest(f"{param}: {what}", param=param, code="invalid_value")
