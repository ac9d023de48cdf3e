"""GET /models, /models/{id}/status and /health, and what they tell of models that do not do well."""

import datetime as dt
from collections.abc import Callable, Iterable
from typing import Any, Literal

import pytest

from gatehook import Authenticator, Call, Credential, Gateway, Outcome, Principal, Section, Target, hookimpl
from gatehook.catalog import LiveCatalog
from gatehook_plugins.llm_api.monitor import Monitor

OpenLlm = Callable[..., Any]

MOUNTS = ("/api/llm", "/api/v1/llm")
MODELS = """
[[models]]
name = "full"
vendor = "mock"
model = "second"
priority = 2
pricing = { input_per_1k_tokens = 7, output_per_1k_tokens = 7 }
[[models]]
name = "full"
vendor = "mock"
priority = 1
pricing = { input_per_1k_tokens = 0.0025, output_per_1k_tokens = 0.01 }
limits = { max_tokens = 16384, context_window = 128000 }
capabilities = ["text-generation", "vision"]
[[models]]
name = "bare"
vendor = "mock"
[[models]]
name = "org/deep/model:free"
vendor = "mock"
capabilities = ["embeddings"]
[[models]]
name = "pictures"
vendor = "mock"
capabilities = ["text-to-image", "image-editing"]
[[models]]
name = "off"
vendor = "mock"
api_key = "env:GATEHOOK_TEST_NO_SUCH_KEY"
[[models]]
name = "broken"
vendor = "mock"
options = { fault = { kind = "status", status = 503 } }
"""
UNKNOWN = {"limits": {"max_tokens": None, "context_window": None},
           "pricing": {"input_per_1k_tokens": None, "output_per_1k_tokens": None}}  # fmt: skip


@pytest.mark.parametrize("mount", MOUNTS)
async def test_models_are_listed_with_what_is_known_and_null_for_the_rest(llm: OpenLlm, mount: str) -> None:
    async with llm(MODELS) as gateway:
        answer = await gateway.get(f"{mount}/models")
    assert answer.status == 200
    assert list(answer.json) == ["models"]
    models = {one.pop("id"): one for one in answer.json["models"]}

    def model(name: str, type: str | None, capabilities: list[str], status: str = "available", **more: Any) -> Any:
        return {"name": name, "provider": "mock", "type": type, "status": status, "capabilities": capabilities,
                **UNKNOWN, **more}  # fmt: skip

    assert models == {
        "full": model("full", "text", ["text-generation", "vision"],
                      limits={"max_tokens": 16384, "context_window": 128000},
                      pricing={"input_per_1k_tokens": 0.0025, "output_per_1k_tokens": 0.01}),
        "bare": model("bare", None, []),
        "org/deep/model:free": model("org/deep/model:free", "embedding", ["embeddings"]),
        "pictures": model("pictures", "image", ["text-to-image", "image-editing"]),
        "off": model("off", None, [], "unavailable"),
        "broken": model("broken", None, []),
    }  # fmt: skip


class OneModel(Authenticator):
    async def authenticate(self, credential: Credential) -> Principal:
        return Principal("u", models=frozenset({"bare"}))


class LetsInForOne:
    class Settings(Section): ...

    def __init__(self, settings: Settings) -> None: ...

    @hookimpl
    def register_authenticators(self, gateway: Gateway) -> Iterable[Authenticator]:
        return [OneModel()]


async def test_a_caller_sees_only_the_models_it_may_use(llm: OpenLlm) -> None:
    async with llm(MODELS + "[plugins.one]\n", {"one": LetsInForOne}) as gateway:
        assert [one["id"] for one in (await gateway.get("/api/llm/models")).json["models"]] == ["bare"]
        assert (await gateway.get("/api/llm/models/bare/status")).status == 200
        (await gateway.get("/api/llm/models/full/status")).error(404, "MODEL_NOT_FOUND")
        denied = await gateway.ask(model="full")
    assert denied.error(403, "FORBIDDEN")["details"]["model"] == "full"


async def test_a_model_nobody_asked_for_is_healthy_and_its_figures_unknown(llm: OpenLlm) -> None:
    async with llm(MODELS) as gateway:
        for mount in MOUNTS:
            for name in ("bare", "org/deep/model:free", "org%2Fdeep%2Fmodel%3Afree"):
                answer = await gateway.get(f"{mount}/models/{name}/status")
                assert answer.json == {
                    "model_id": name.replace("%2F", "/").replace("%3A", ":"), "status": "available",
                    "health": "healthy", "response_time_ms": None, "last_check": None, "error_rate": None}  # fmt: skip
        off = await gateway.get("/api/llm/models/off/status")
        assert (off.json["status"], off.json["health"]) == ("unavailable", "unavailable")


async def test_a_model_whose_vendor_no_plugin_provides_is_unavailable(llm: OpenLlm) -> None:
    nowhere = '[[models]]\nname = "m"\nvendor = "mock"\n[[models]]\nname = "w"\nvendor = "nowhere"\n'
    async with llm(nowhere) as gateway:
        listed = (await gateway.get("/api/llm/models")).json["models"]
        status = (await gateway.get("/api/llm/models/w/status")).json
        health = (await gateway.get("/api/llm/health")).json
    assert {one["id"]: one["status"] for one in listed} == {"m": "available", "w": "unavailable"}
    assert (status["status"], status["health"]) == ("unavailable", "unavailable")
    assert health["models"] == {"available": 1, "healthy": 1, "degraded": 0, "unavailable": 1}
    assert health["status"] == "healthy"


async def test_an_unknown_model_is_named_in_the_error(llm: OpenLlm) -> None:
    async with llm(MODELS) as gateway:
        answer = await gateway.get("/api/llm/models/no/body/status")
    error = answer.error(404, "MODEL_NOT_FOUND")
    assert error["details"] == {"model": "no/body", "reason": "model_not_found", "retry_after": None}
    assert error["request_id"] == answer.headers["X-Request-ID"]


async def test_calls_that_went_by_tell_how_a_model_does(llm: OpenLlm) -> None:
    before = dt.datetime.now(dt.UTC) - dt.timedelta(milliseconds=1)
    async with llm(MODELS) as gateway:
        await gateway.ask(model="full")
        await gateway.ask(model="full", parameters={"temperature": 9})
        good = (await gateway.get("/api/llm/models/full/status")).json
        for _ in range(3):
            await gateway.ask("/api/llm/generate/stream", model="broken")
        bad = (await gateway.get("/api/v1/llm/models/broken/status")).json
        listed = (await gateway.get("/api/llm/models")).json["models"]
        health = (await gateway.get("/api/llm/health")).json
    assert (good["health"], good["error_rate"]) == ("healthy", 0.0)
    assert 0 <= good["response_time_ms"] < 5000
    assert before <= dt.datetime.fromisoformat(good["last_check"]) <= dt.datetime.now(dt.UTC)
    assert (bad["status"], bad["health"], bad["error_rate"]) == ("unavailable", "unavailable", 1.0)
    assert bad["response_time_ms"] is None
    assert {one["id"]: one["status"] for one in listed}["broken"] == "unavailable"
    assert health["status"] == "degraded"
    assert health["models"] == {"available": 4, "healthy": 4, "degraded": 0, "unavailable": 2}


async def test_a_model_whose_fallback_answers_fails_all_the_same(llm: OpenLlm) -> None:
    async with llm(MODELS.replace('name = "broken"', 'name = "broken"\nfallbacks = ["bare"]')) as gateway:
        for path in ("/api/llm/generate", "/api/llm/generate/stream", "/api/llm/generate"):
            assert (await gateway.ask(path, model="broken")).status == 200
        broken, bare = [(await gateway.get(f"/api/llm/models/{name}/status")).json for name in ("broken", "bare")]
    assert (broken["status"], broken["error_rate"], broken["response_time_ms"]) == ("unavailable", 1.0, None)
    assert (bare["status"], bare["error_rate"]) == ("available", 0.0)
    assert broken["last_check"]
    assert bare["last_check"]


@pytest.mark.parametrize("mount", MOUNTS)
async def test_health_needs_no_key_and_names_nobody(llm: OpenLlm, mount: str) -> None:
    keys = '[plugins.auth_keys]\nkeys = ["user-secret-0123456789"]\n'
    async with llm(MODELS + keys) as gateway:
        answer = await gateway.get(f"{mount}/health")
    assert answer.status == 200
    health = answer.json
    assert dt.datetime.fromisoformat(health.pop("timestamp")).tzinfo is not None
    assert health == {
        "status": "healthy",
        "services": {"llm_service": "healthy", "model_manager": "healthy", "cost_tracker": "disabled"},
        "models": {"available": 5, "healthy": 5, "degraded": 0, "unavailable": 1},
    }


async def test_without_any_model_nothing_is_available(llm: OpenLlm) -> None:
    async with llm("") as gateway:
        health = (await gateway.get("/api/llm/health")).json
        assert (await gateway.get("/api/llm/models")).json == {"models": []}
    assert (health["status"], health["services"]["model_manager"]) == ("unavailable", "unavailable")


async def test_a_gateway_that_drains_says_so(llm: OpenLlm) -> None:
    async with llm(MODELS) as gateway:
        gateway.gateway.draining = True
        health = (await gateway.get("/api/llm/health")).json
    assert (health["status"], health["services"]["llm_service"]) == ("unavailable", "draining")


Status = Literal["complete", "partial", "failed", "rejected", "cached"]
TARGET = Target(key="m#1", name="m", vendor="mock", model="m")


class Watched:
    """A monitor, its clock, and calls of the model "m"."""

    def __init__(self) -> None:
        self.now = 1000.0
        self.catalog = LiveCatalog([])
        self.catalog.feed("test", [TARGET])
        self.monitor = Monitor(lambda: self.now)
        self.monitor.follow(self.catalog)

    def see(self, status: Status = "complete", http_status: int = 200, code: str = "", model: str = "m") -> None:
        call = Call(operation="chat", surface="llm", headers={}, model=model)
        self.monitor.finished(call, Outcome(status, http_status, code=code, duration=0.5))

    def health(self) -> tuple[Any, Any]:
        vitals = self.monitor.vitals("m", self.catalog.group("m"))
        return vitals.health, vitals.error_rate


@pytest.mark.parametrize(
    ("status", "http_status", "code", "counts"),
    [
        ("failed", 502, "upstream_error", True), ("failed", 503, "upstream_overloaded", True),
        ("failed", 504, "upstream_timeout", True), ("failed", 429, "rate_limit_exceeded", True),
        ("partial", 200, "upstream_truncated", True), ("partial", 200, "vendor_plugin_error", True),
        ("failed", 400, "context_length_exceeded", False), ("failed", 499, "client_left", False),
        ("partial", 499, "client_left", False), ("partial", 200, "tool_call_denied", False),
        ("rejected", 429, "rate_limit_exceeded", False), ("rejected", 401, "invalid_api_key", False),
        ("rejected", 503, "service_unavailable", False), ("failed", 403, "tool_call_denied", False),
        ("failed", 500, "server_error", False), ("cached", 200, "", False),
    ],
)  # fmt: skip
def test_only_the_vendors_own_failures_count(status: Status, http_status: int, code: str, counts: bool) -> None:
    watched = Watched()
    watched.see(status, http_status, code)
    assert watched.health() == (("degraded", 1.0) if counts else ("healthy", None))


def test_a_tenth_of_failures_is_degraded_and_nothing_else_than_failures_unavailable() -> None:
    watched = Watched()
    for _ in range(2):
        watched.see("failed", 502)
    assert watched.health() == ("degraded", 1.0)
    watched.see("failed", 502)
    assert watched.health() == ("unavailable", 1.0)
    for _ in range(27):
        watched.see()
    assert watched.health() == ("degraded", 0.1)
    watched.see()
    assert watched.health() == ("healthy", 3 / 31)


def test_what_was_long_ago_is_forgotten_and_so_is_what_has_gone() -> None:
    watched = Watched()
    watched.see("failed", 502)
    watched.now += 300
    assert watched.health() == ("degraded", 1.0)
    watched.now += 0.1
    assert watched.health() == ("healthy", None)
    for number in range(1000):
        watched.see("failed", 502, model=f"made up {number}")
        watched.see()
    assert [len(seen) for seen in watched.monitor._seen.values()] == [100]
    watched.catalog.feed("test", [])
    assert watched.monitor._seen == {}
    assert watched.health() == ("unavailable", None)
