"""Unfinished answers: when one of several runs fails, the next try at that server goes on from what was made."""

from msgspec import Struct, field

from gatehook import Attempt, Picture
from gatehook_plugins.vendor_comfyui.asked import Asked

__all__ = ["Draft", "draft_of", "finished", "made_so_far"]

_STATE = "vendor_comfyui.drafts"


class Draft(Struct):
    """What is asked for, and the pictures of the runs that have ended so far."""

    asked: Asked
    runs: int = 0
    pictures: list[Picture] = field(default_factory=list)

    def add(self, pictures: list[Picture]) -> None:
        """Add the pictures of one more run that has ended."""
        self.runs += 1
        self.pictures = [*self.pictures, *pictures]


def draft_of(attempt: Attempt, asked: Asked) -> Draft:
    """The draft that an earlier try at this deployment has left, with its seeds, or a new one of what is `asked`."""
    drafts: dict[str, Draft] = attempt.call.state.setdefault(_STATE, {})
    return drafts.setdefault(attempt.target.key, Draft(asked))


def finished(attempt: Attempt) -> None:
    """Drop all drafts: the answer is whole, and the call's next one begins anew."""
    attempt.call.state.pop(_STATE, None)


def made_so_far(attempt: Attempt) -> list[Picture]:
    """The pictures that were made of an answer that is not finished."""
    draft: Draft | None = attempt.call.state.get(_STATE, {}).get(attempt.target.key)
    return [] if draft is None else draft.pictures
