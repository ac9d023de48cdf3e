"""From claims to a principal."""

import warnings
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gatehook import AuthenticationFailed, Principal
from gatehook_plugins.auth_jwt.claims import ClaimNames

NAMES = ClaimNames()


def principal(names: ClaimNames = NAMES, /, **claims: Any) -> Principal:
    return names.principal({"sub": "alice"} | claims)


def refusal(names: ClaimNames = NAMES, /, **claims: Any) -> str:
    with pytest.raises(AuthenticationFailed) as caught:
        principal(names, **claims)
    return caught.value.message


def test_the_usual_claims() -> None:
    found = principal(name="Alice A.", role="admin", models=["a", "b"])
    assert found == Principal(
        id="alice", name="Alice A.", admin=True, models=frozenset({"a", "b"}), key_id="jwt", user=None, key=None
    )


def test_a_user_is_no_admin_and_may_use_all_models_unless_the_token_says_otherwise() -> None:
    found = principal()
    assert (found.admin, found.models, found.name) == (False, None, "")


@pytest.mark.parametrize(
    "user", ["a", "Jürgen Ä", "用户", "auth0|5f7c8ec7c33c6c004bbafe82", "a@b.test", "x" * 128, "😀"]
)
def test_a_user_may_have_any_name_that_can_be_shown(user: str) -> None:
    assert principal(sub=user).id == user


@pytest.mark.parametrize(
    "user",
    [
        "",
        " ",
        " a",
        "a ",
        "a\n",
        "a\x00b",
        "a\u202eb",
        "a\xa0b",
        "a\u3000b",
        "\ud800",
        "\u200b",
        "x" * 129,
        5,
        True,
        1.5,
        [],
        ["a"],
        {"a": 1},
    ],
)
def test_a_user_must_be_a_text_that_can_be_shown(user: Any) -> None:
    text = refusal(sub=user)
    assert "the claim sub must be a text" in text


def test_a_token_must_name_its_user() -> None:
    assert refusal(sub=None) == "the token lacks the claim sub"
    assert refusal(ClaimNames(user="email")) == "the token lacks the claim email"


def test_another_claim_may_name_the_user() -> None:
    assert principal(ClaimNames(user="email"), email="a@b.test").id == "a@b.test"


@pytest.mark.parametrize("name", [None, 5, ["Alice"], "a\x1b[31mb", "x" * 129, ""])
def test_an_odd_display_name_is_left_out(name: Any) -> None:
    assert principal(name=name).name == ""


@pytest.mark.parametrize("role", ["admin", ["user", "admin"], ["admin", 5, None, {}]])
def test_an_admin_is_who_has_the_role(role: Any) -> None:
    assert principal(role=role).admin


@pytest.mark.parametrize(
    "role",
    [
        "Admin",
        "not admin",
        "admin user",
        "admi",
        "",
        True,
        1,
        None,
        {"admin": True},
        [],
        [["admin"]],
        ["administrator"],
        [{}],
    ],
)
def test_anything_else_is_no_admin(role: Any) -> None:
    assert not principal(role=role).admin


def test_roles_may_lie_deeper_and_have_several_words() -> None:
    names = ClaimNames(admin="realm_access.roles", admin_values=frozenset({"ops", "root"}))
    assert principal(names, realm_access={"roles": ["user", "ops"]}).admin
    assert not principal(names, realm_access={"roles": "admin"}).admin
    assert not principal(names, realm_access=["roles"]).admin
    assert not principal(names, realm_access={"roles.x": "ops"}, roles="ops").admin


def test_a_claim_may_have_dots_in_its_name() -> None:
    names = ClaimNames(admin="https://gatehook.test/roles")
    assert principal(names, **{"https://gatehook.test/roles": ["admin"]}).admin


def test_a_claim_without_a_name_is_not_looked_for() -> None:
    found = principal(
        ClaimNames(name="", admin="", models=""), **{"": ["admin"], "name": "A", "role": "admin"}, models=[]
    )
    assert (found.name, found.admin, found.models) == ("", False, None)


@pytest.mark.parametrize(
    ("models", "expected"),
    [
        (["a", "b"], {"a", "b"}),
        ("a b  c", {"a", "b", "c"}),
        ("a", {"a"}),
        ([], set()),
        ("", set()),
        (" ", set()),
        (["*"], {"*"}),
        (["with space"], {"with space"}),
    ],
)
def test_models_are_a_list_or_words(models: Any, expected: set[str]) -> None:
    assert principal(models=models).models == frozenset(expected)


@pytest.mark.parametrize("models", [5, True, False, {"a": 1}, [5], ["a", None], [["a"]], 0, 1.5])
def test_models_of_another_kind_are_refused(models: Any) -> None:
    assert "the claim models must be a list of texts" in refusal(models=models)


def test_models_that_are_null_are_refused_and_not_all() -> None:
    assert "the claim models must be a list of texts" in refusal(models=None)


VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(["a", "roles"]), inner, max_size=2),
    max_leaves=5,
)


@given(claims=st.dictionaries(st.sampled_from(["sub", "name", "role", "models", "a.roles"]), VALUES))
def test_whatever_the_claims_are_there_is_a_principal_or_a_refusal(claims: dict[str, Any]) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        try:
            found = ClaimNames(admin="a.roles").principal(claims)
        except AuthenticationFailed:
            return
    assert found.id
    assert found.admin == (claims.get("a.roles") == "admin" or "admin" in (claims.get("a.roles") or [""]))
