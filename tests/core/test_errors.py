"""Errors: what a vendor's failure becomes, and that no key comes through with it."""

import inspect
import json
import string
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gatehook import errors
from gatehook.errors import GatewayError, Retry, StartupError, envelope, error_headers, redact, upstream_error
from gatehook.jsonio import encode

TREE = [
    one
    for _, one in inspect.getmembers(errors, inspect.isclass)
    if issubclass(one, GatewayError) and one.__module__ == errors.__name__
]

# status, message, code → status, type, code, retry
CASES: list[tuple[int, str, str | None, int, str, str | None, Retry]] = [
    (400, "bad field", "invalid_value", 400, "invalid_request_error", "invalid_value", Retry.NEVER),
    (400, "bad field", None, 400, "invalid_request_error", None, Retry.NEVER),
    (422, "bad field", None, 422, "invalid_request_error", None, Retry.NEVER),
    (413, "too big", None, 413, "invalid_request_error", None, Retry.NEVER),
    (451, "no", None, 400, "invalid_request_error", None, Retry.NEVER),
    # The context is too long: not here, but perhaps elsewhere.
    (400, "maximum context length is 8192", None, 400, "invalid_request_error", "context_length_exceeded", Retry.NEXT),
    (400, "x", "context_length_exceeded", 400, "invalid_request_error", "context_length_exceeded", Retry.NEXT),
    (413, "Prompt is too long", None, 400, "invalid_request_error", "context_length_exceeded", Retry.NEXT),
    (422, "exceeds the context window", None, 400, "invalid_request_error", "context_length_exceeded", Retry.NEXT),
    (400, "input token count (9) exceeds", None, 400, "invalid_request_error", "context_length_exceeded", Retry.NEXT),
    *(
        (400, message, code, 400, "invalid_request_error", "context_length_exceeded", Retry.NEXT)
        for message, code in (
            ("Input is too long for requested model.", "ValidationException"),
            ("Input Tokens Exceeded: Number of input tokens exceeds maximum length.", None),
            ("x", "exceed_context_size_error"),
            ("the request exceeds the available context size, try increasing it", None),
            ("This model's maximum prompt length is 131072 but the request contains 140000 tokens.", None),
            ("The decoder prompt (length 5000) is longer than the maximum model length of 4096.", None),
            ("Invalid request: Your request exceeded model token limit: 8192", None),
            ("Prompt exceeds max length", "1261"),
            ("Range of input length should be [1, 30720]", None),
            ("`inputs` tokens + `max_new_tokens` must be <= 4097. Given: 4000 and 200", None),
        )
    ),
    # The length of the answer, or of another field, is the client's to mend.
    *(
        (400, message, None, 400, "invalid_request_error", None, Retry.NEVER)
        for message in (
            "max_tokens is too large: 9000. This model supports at most 4096 completion tokens.",
            "Range of max_tokens should be [1, 8192]",
            "`max_new_tokens` must be <= 512",
            "user: input is too long",
        )
    ),
    # The content is refused.
    (400, "x", "content_filter", 400, "invalid_request_error", "content_filter", Retry.NEXT),
    (400, "x", "content_policy_violation", 400, "invalid_request_error", "content_filter", Retry.NEXT),
    (403, "ResponsibleAIPolicyViolation", None, 400, "invalid_request_error", "content_filter", Retry.NEXT),
    (403, "Your input was flagged for 'x'", None, 400, "invalid_request_error", "content_filter", Retry.NEXT),
    (403, "Content violates usage guidelines.", None, 400, "invalid_request_error", "content_filter", Retry.NEXT),
    # The deployment has not what the client asks for, as another may: neither its key nor its model is wrong.
    (404, "No endpoints found that support tool use", None, 400, "invalid_request_error", None, Retry.NEXT),
    (403, "no permission to access the File x", "DENIED", 400, "invalid_request_error", "DENIED", Retry.NEXT),
    (400, "not in an ACTIVE state and usage is not allowed", None, 400, "invalid_request_error", None, Retry.NEXT),
    *(
        (400, f"This model doesn{mark}t support documents.", "x", 400, "invalid_request_error", "x", Retry.NEXT)
        for mark in ("'", "\u2019")
    ),
    *(
        (400, f'"llama2:13b" does not support {what}', None, 400, "invalid_request_error", None, Retry.NEXT)
        for what in ("tools", "thinking")
    ),
    # The operator's account is the trouble: never the client's 401.
    (401, "Incorrect API key", "invalid_api_key", 502, "server_error", "upstream_credential_rejected", Retry.NEXT),
    (403, "no access", None, 502, "server_error", "upstream_credential_rejected", Retry.NEXT),
    (402, "pay", None, 502, "server_error", "upstream_quota_exceeded", Retry.NEXT),
    (429, "x", "insufficient_quota", 502, "server_error", "upstream_quota_exceeded", Retry.NEXT),
    (
        429,
        "You exceeded your current quota, please check your plan and billing details.",
        None,
        502,
        "server_error",
        "upstream_quota_exceeded",
        Retry.NEXT,
    ),
    (
        400,
        "Your credit balance is too low to access the Anthropic API. Please go to Plans & Billing to upgrade.",
        None,
        502,
        "server_error",
        "upstream_quota_exceeded",
        Retry.NEXT,
    ),
    (400, "x", "billing_hard_limit_reached", 502, "server_error", "upstream_quota_exceeded", Retry.NEXT),
    (
        403,
        "Your account is not active, please check your billing details on our website.",
        "billing_not_active",
        502,
        "server_error",
        "upstream_quota_exceeded",
        Retry.NEXT,
    ),
    # A rate limit passes, also where the vendor advertises.
    (429, "slow down", None, 429, "rate_limit_error", "rate_limit_exceeded", Retry.SAME),
    (
        429,
        "Rate limit reached. Visit https://platform.openai.com/account/billing to add a payment method.",
        "rate_limit_exceeded",
        429,
        "rate_limit_error",
        "rate_limit_exceeded",
        Retry.SAME,
    ),
    # More than the limit has at any time: not here, but perhaps elsewhere.
    (
        429,
        "Request too large for gpt-4o on tokens per min (TPM): Limit 30000, Requested 70000.",
        "rate_limit_exceeded",
        429,
        "rate_limit_error",
        "rate_limit_exceeded",
        Retry.NEXT,
    ),
    # A request that merely talks of bills is the client's to mend.
    (400, "tools[0].function.name: 'show billing' is no name", None, 400, "invalid_request_error", None, Retry.NEVER),
    # The operator named a model that is not there.
    (404, "no such model", "model_not_found", 502, "server_error", "upstream_model_not_found", Retry.NEXT),
    (410, "gone", None, 502, "server_error", "upstream_model_not_found", Retry.NEXT),
    # The operator named another address than the vendor's, or another form.
    *(
        (status, "no", None, 502, "server_error", "upstream_misconfigured", Retry.NEXT)
        for status in (405, 406, 407, 415, 421, 426, 501, 505)
    ),
    # Time.
    (408, "late", None, 504, "timeout_error", "upstream_timeout", Retry.SAME),
    (504, "late", None, 504, "timeout_error", "upstream_timeout", Retry.SAME),
    # Load.
    (503, "later", None, 503, "server_error", "upstream_overloaded", Retry.SAME),
    (498, "at capacity", "capacity_exceeded", 503, "server_error", "upstream_overloaded", Retry.SAME),
    (529, "overloaded", "overloaded_error", 503, "server_error", "upstream_overloaded", Retry.SAME),
    # All else is the vendor's failure, transient until shown otherwise.
    (500, "oops", None, 502, "server_error", "upstream_error", Retry.SAME),
    (424, "Request failed during generation", None, 502, "server_error", "upstream_error", Retry.SAME),
    (502, "oops", None, 502, "server_error", "upstream_error", Retry.SAME),
    (520, "oops", None, 502, "server_error", "upstream_error", Retry.SAME),
    (499, "cancelled", None, 502, "server_error", "upstream_error", Retry.SAME),
    (409, "conflict", None, 502, "server_error", "upstream_error", Retry.SAME),
    (425, "early", None, 502, "server_error", "upstream_error", Retry.SAME),
    (200, "in band", None, 502, "server_error", "upstream_error", Retry.SAME),
    (500, "maximum context length", None, 502, "server_error", "upstream_error", Retry.SAME),
]


@pytest.mark.parametrize(
    ("status", "message", "code", "ours", "kind", "our_code", "retry"),
    CASES,
    ids=[f"{status} {code or message[:30]}" for status, message, code, *_ in CASES],
)
def test_what_a_vendors_error_becomes(
    status: int, message: str, code: str | None, ours: int, kind: str, our_code: str | None, retry: Retry
) -> None:
    error = upstream_error("acme", status, message, code=code, param="p")
    assert (error.status, error.type, error.code, error.retry) == (ours, kind, our_code, retry)
    assert error.message == f"acme: {message}"
    assert error.param == ("p" if ours in (400, 413, 422) else None)


@pytest.mark.parametrize("status", [301, 302, 307, 308])
def test_a_redirect_tells_the_operator_what_to_mend_and_not_where_it_leads(status: int) -> None:
    error = upstream_error("acme", status, "moved to https://other.example")
    assert (error.status, error.code, error.retry) == (502, "upstream_misconfigured", Retry.NEXT)
    assert error.message == f"acme: answered {status}, a redirect; base_url must name the final address"


@given(st.integers(100, 599), st.text(max_size=30), st.none() | st.text(max_size=10))
def test_any_answer_of_a_vendor_becomes_an_error_that_names_it_and_can_be_written(
    status: int, message: str, code: str | None
) -> None:
    error = upstream_error("acme", status, message, code=code)
    assert 400 <= error.status < 600
    assert error.status not in (401, 403, 404)  # those would blame the client for the operator's settings
    assert error.message.startswith("acme: ")
    assert encode(envelope(error))


def test_a_wait_the_vendor_asks_for_is_kept_where_it_means_something() -> None:
    assert [upstream_error("v", status, "m", retry_after=7).retry_after for status in (429, 503, 529, 500, 400)] == [
        7,
        7,
        7,
        7,
        None,
    ]


@pytest.mark.parametrize("message", ["", " \n "])
def test_a_silent_vendor_is_still_named(message: str) -> None:
    assert upstream_error("acme", 500, message).message == "acme: no message"


@pytest.mark.parametrize("piece", ["x", "x.", "sk", "-", "*", "eyJ", "bearer ", "AIza"])
def test_a_long_message_is_cut_and_read_in_linear_time(piece: str) -> None:
    assert len(upstream_error("acme", 400, piece * 1_000_000).message) < 2100
    redact(piece * 300_000)


# ---------------------------------------------------------------------------------------------------------------------
# Keys

ALNUM = string.ascii_letters + string.digits
KEYS = [
    st.from_regex(r"\Ask-[A-Za-z0-9]{20,48}\Z"),
    st.from_regex(r"\Ask-(proj|svcacct|admin|ant-api03|or-v1|lf)-[A-Za-z0-9_-]{20,80}\Z"),
    st.from_regex(r"\Agsk_[A-Za-z0-9]{52}\Z"),
    st.from_regex(r"\Acsk-[a-z0-9]{48}\Z"),
    st.from_regex(r"\Axai-[A-Za-z0-9]{80}\Z"),
    st.from_regex(r"\Ahf_[A-Za-z]{34}\Z"),
    st.from_regex(r"\Ar8_[A-Za-z0-9]{37}\Z"),
    st.from_regex(r"\Afw_[A-Za-z0-9]{22}\Z"),
    st.from_regex(r"\Applx-[A-Za-z0-9]{48}\Z"),
    st.from_regex(r"\Anvapi-[A-Za-z0-9_-]{60,66}\Z"),
    st.from_regex(r"\AAIza[A-Za-z0-9_-]{35}\Z"),
    st.from_regex(r"\Aya29\.[A-Za-z0-9_-]{40,80}\Z"),
    st.from_regex(r"\AAKIA[A-Z0-9]{16}\Z"),
    st.from_regex(r"\AeyJ[A-Za-z0-9_-]{20}\.eyJ[A-Za-z0-9_-]{20}\.[A-Za-z0-9_-]{30}\Z"),
    # What vendors make of a key before they print it.
    st.from_regex(r"\Ask-[A-Za-z0-9]{2,6}\*{3,40}[A-Za-z0-9]{2,4}\Z"),
    st.from_regex(r"\A[A-Za-z0-9]{4,8}\*{3,40}[A-Za-z0-9]{4}\Z"),
]
AROUND = st.sampled_from(
    [
        "Incorrect API key provided: {}.",
        "{}",
        "'{}'",
        '{{"api_key":"{}"}}',
        "api_key={}&x=1",
        "https://api.example.com/v1?key={}",
        "Authorization: Bearer {}",
        "authorization:bearer  {}",
        "x-api-key:{}",
        "key_{} is not valid",
        "-{}-",
        "(see {})",
        "a\n{}\nb",
        "{} {}",
    ]
)


@given(st.one_of(KEYS), AROUND)
def test_nothing_that_looks_like_a_vendors_key_comes_through(key: str, around: str) -> None:
    clean = redact(around.replace("{}", key).replace("{{", "{").replace("}}", "}"))
    for start in range(len(key) - 7):
        fragment = key[start : start + 8]
        if set(fragment) != {"*"}:
            assert fragment not in clean, clean


@given(
    st.lists(st.text(ALNUM + "-_.~+/=$ %", min_size=8, max_size=40), min_size=1, max_size=3),
    st.lists(st.text(max_size=10), max_size=4),
    st.data(),
)
def test_the_deployments_own_key_never_comes_through_whatever_it_looks_like(
    secrets: list[str], words: list[str], data: st.DataObject
) -> None:
    secrets += [secret + "-tail" for secret in secrets]  # one that begins like another
    text = "".join(data.draw(st.permutations([*words, *secrets])))
    clean = redact(text, secrets)
    for secret in secrets:
        assert secret not in clean
    assert "-tail" not in clean or any("-tail" in word for word in words)


@pytest.mark.parametrize("written", ["a/b+c==d e", "a/b%2Bc%3D%3Dd%20e", "a%2Fb%2Bc%3D%3Dd+e", "a/b%2Bc%3D%3Dd+e"])
def test_a_secret_does_not_come_through_as_addresses_have_it_either(written: str) -> None:
    assert redact(f"GET /v1?code={written}&n=1", ["a/b+c==d e"]) == "GET /v1?code=[redacted]&n=1"


def test_a_secret_that_no_address_can_have_does_not_come_through_either() -> None:
    assert redact("code: half\ud800pair", ["half\ud800pair"]) == "code: [redacted]"


@given(st.integers(1900, 2040), st.text(ALNUM, min_size=30, max_size=40))
def test_cutting_a_long_message_does_not_let_half_a_key_through(place: int, key: str) -> None:
    message = upstream_error("acme", 400, "." * place + key + "." * 100, secrets=[key]).message
    assert key[:4] not in message


def test_a_key_in_the_vendors_code_or_field_does_not_come_through() -> None:
    error = upstream_error(
        "acme", 400, "m", code="bad:s3cr3t-value", param="key=s3cr3t-value", secrets=["s3cr3t-value"]
    )
    assert "s3cr3t" not in json.dumps(envelope(error))


@pytest.mark.parametrize(
    "text",
    [
        "",
        "The risk-averse task-force asked for a disk_image of the desk-top.",
        "Unsupported value: 'temperature' does not support 0.3 with this model.",
        "model gpt-4o-2024-11-20 is overloaded",
        "the bearer of this letter",
        "use **bold** text, 2 * 3 * 4",
        "This model's maximum context length is 8192 tokens. However, your messages resulted in 9001 tokens.",
        "schema: key_name must match ^[a-zA-Z0-9_-]{1,64}$",
    ],
)
def test_ordinary_words_stay(text: str) -> None:
    assert redact(text, ["", "another-secret"]) == text


# ---------------------------------------------------------------------------------------------------------------------
# The tree


@pytest.mark.parametrize("kind", TREE, ids=lambda kind: kind.__name__)
def test_every_error_has_openais_envelope(kind: type[GatewayError]) -> None:
    body: dict[str, Any] = envelope(kind("what happened", param="field"))
    assert body == {"error": {"message": "what happened", "type": kind.type, "param": "field", "code": kind.code}}
    assert str(kind("what happened")) == "what happened"


@pytest.mark.parametrize("kind", TREE, ids=lambda kind: kind.__name__)
def test_every_error_speaks_openais_types(kind: type[GatewayError]) -> None:
    expected = {
        400: "invalid_request_error",
        401: "authentication_error",
        403: "permission_error",
        404: "not_found_error",
        405: "invalid_request_error",
        409: "invalid_request_error",
        408: "timeout_error",
        413: "invalid_request_error",
        415: "invalid_request_error",
        429: "rate_limit_error",
        500: "server_error",
        502: "server_error",
        503: "server_error",
        504: "timeout_error",
    }
    assert kind.type == expected[kind.status]
    assert (kind.status < 500 and kind.status != 429) == (kind.retry is Retry.NEVER) or kind.status == 500


def test_one_errors_details_are_its_own() -> None:
    special = GatewayError("m", code="c", status=418, retry=Retry.NEXT, retry_after=2.5, final=True)
    assert (special.code, special.status, special.retry, special.retry_after) == ("c", 418, Retry.NEXT, 2.5)
    assert special.final
    assert error_headers(special) == {"Retry-After": "3", "X-Should-Retry": "false"}
    plain = GatewayError("m")
    assert (plain.code, plain.status, plain.retry, plain.retry_after) == (None, 500, Retry.NEVER, None)
    assert (plain.final, error_headers(plain)) == (False, {})


def test_a_startup_error_tells_every_fault() -> None:
    error = StartupError("one", "two")
    assert error.faults == ["one", "two"]
    assert str(error) == "one\ntwo"
