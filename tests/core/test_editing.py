"""Which revision a change was made of, and what is said if that is not the one that holds."""

import pytest
from aiohttp.test_utils import make_mocked_request
from aiohttp.web import Request

from gatehook import Conflict, InvalidRequest, Principal, asked_revision, changed_meanwhile


def change(if_match: str | None) -> Request:
    return make_mocked_request("PUT", "/x", headers={} if if_match is None else {"If-Match": if_match})


@pytest.mark.parametrize(
    ("if_match", "stated", "asked"),
    [
        (None, None, None),
        (None, 3, 3),
        ("*", None, None),
        ("*", 3, 3),
        ('"7"', None, 7),
        ('"7"', 3, 7),
        ('"7", "12"', None, 12),
        ('W/"7"', None, -1),
        ('"seven"', None, -1),
        ('"1234567890123456789"', None, -1),
        ("seven", None, -1),
    ],
)
def test_a_revision_is_asked_for_by_the_header_else_by_the_body(
    if_match: str | None, stated: object, asked: int | None
) -> None:
    assert asked_revision(change(if_match), stated) == asked


@pytest.mark.parametrize("stated", ["3", True, 1.5, [3]])
def test_a_revision_is_a_whole_number(stated: object) -> None:
    with pytest.raises(InvalidRequest, match="revision: expected a whole number"):
        asked_revision(change(None), stated)


@pytest.mark.parametrize(
    ("if_match", "code", "status"),
    [('"7"', "revision_conflict", 412), (None, "revision_conflict", 409), ('"7"', "already_there", 409)],
)
def test_only_who_asked_by_the_header_is_told_that_its_condition_failed(
    if_match: str | None, code: str, status: int
) -> None:
    refused = changed_meanwhile(change(if_match), Conflict("it is at another", param="revision", code=code))
    assert (refused.status, refused.code, refused.param) == (status, code, "revision")


def test_the_audit_tells_a_user_and_by_which_of_its_keys() -> None:
    assert Principal("alice", key_id="K1").actor == "alice/K1"
    assert Principal("alice", key_id="alice").actor == "alice"
    assert Principal("alice").actor == "alice"
