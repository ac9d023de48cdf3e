"""What there is of an answer when one of its several runs fails: the next try at that server goes on from there."""

from msgspec import Struct, field

from gatehook import Attempt, Picture
from gatehook_plugins.vendor_comfyui.asked import Asked

__all__ = ["Draft", "draft_of", "finished", "made_so_far"]

_STATE = "vendor_comfyui.drafts"


class Draft(Struct):
    """The pictures of the runs that have ended, of as many as are asked for."""

    asked: Asked
    runs: int = 0
    pictures: list[Picture] = field(default_factory=list)

    def add(self, pictures: list[Picture]) -> None:
        """One more run has ended."""
        self.runs += 1
        self.pictures = [*self.pictures, *pictures]


def draft_of(attempt: Attempt, asked: Asked) -> Draft:
    """What an earlier try at this deployment has left, seeds included, or a new one of what is `asked`."""
    drafts: dict[str, Draft] = attempt.call.state.setdefault(_STATE, {})
    return drafts.setdefault(attempt.target.key, Draft(asked))


def finished(attempt: Attempt) -> None:
    """Begin anew when the call comes again: this answer is whole."""
    attempt.call.state.pop(_STATE, None)


def made_so_far(attempt: Attempt) -> list[Picture]:
    """The pictures that there are of an answer that is not whole."""
    draft: Draft | None = attempt.call.state.get(_STATE, {}).get(attempt.target.key)
    return [] if draft is None else draft.pictures
