"""A gateway put together from plugins: routes, services, lifespans, vendors and commands, end to end."""

import contextlib
import json
import sys
from collections.abc import AsyncIterator, Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from aiohttp import ClientSession, web

from gatehook import (
    PRINCIPAL,
    Attempt,
    AuthenticationFailed,
    Authenticator,
    Chunk,
    Command,
    Completion,
    Credential,
    Endpoint,
    InvalidRequest,
    Principal,
    RateLimited,
    Route,
    Section,
    ServiceKey,
    StartupError,
    StreamBuilder,
    Target,
    Usage,
    completion,
    hookimpl,
)
from gatehook.app import Gateway
from gatehook.commands.cli import main
from gatehook.serving.server import running
from gatehook.testing import built, serving


class Plain(Section):
    """[plugins.specimen]."""


class Plugin:
    """What every specimen shares."""

    Settings = Plain

    def __init__(self, settings: Plain) -> None: ...


def specimen(requires: tuple[ServiceKey[Any], ...] = (), **hooks: Iterable[Any]) -> type:
    """A plugin class whose hooks return what is given."""

    def implementing(results: Iterable[Any]) -> Callable[..., Any]:
        def implementation(self: Plugin, gateway: Gateway) -> Iterable[Any]:
            return results

        return hookimpl(implementation)

    methods = {hook: implementing(results) for hook, results in hooks.items()}
    return type("Specimen", (Plugin,), {"requires": requires, **methods})


def build(settings: str = "", /, **plugins: type) -> Gateway:
    """A gateway with these plugins on."""
    tables = "".join(f"[plugins.{name}]\n" for name in plugins if f"[plugins.{name}]" not in settings)
    return built(tables + settings, plugins=plugins)


def told(settings: str = "", /, **plugins: type) -> list[str]:
    """The faults of a gateway that cannot be built."""
    with pytest.raises(StartupError) as caught:
        build(settings, **plugins)
    return caught.value.faults


@dataclass(frozen=True)
class Answer:
    status: int
    headers: Mapping[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.body)


Ask = Callable[..., Any]


@contextlib.asynccontextmanager
async def asking(gateway: Gateway) -> AsyncIterator[Ask]:
    """Serve the gateway, and give a function that sends one request to it."""
    async with running(gateway) as url, ClientSession() as session:

        async def ask(method: str, path: str, **rest: Any) -> Answer:
            async with session.request(method, url + path, allow_redirects=False, **rest) as response:
                return Answer(response.status, response.headers, await response.read())

        yield ask


def route(method: str, path: str, answer: Any = None, **rest: Any) -> Route:
    """A route that answers with text, with what `answer` gives for a request, or raises it."""

    async def handler(request: web.Request) -> web.StreamResponse:
        if isinstance(answer, Exception):
            raise answer
        return web.Response(text=answer(request) if callable(answer) else str(answer))

    return Route(method, path, handler, **rest)


class Keys:
    """Knows two keys; "bad" is a wrong one of its own."""

    async def authenticate(self, credential: Credential) -> Principal | None:
        if credential.token == "bad":
            raise AuthenticationFailed("revoked")
        people = {"user": Principal("u1"), "admin": Principal("a1", admin=True)}
        return people.get(credential.token)


_guard: type[Authenticator] = Keys


class Vendor:
    """Answers with its own name."""

    parameters: Mapping[str, Any] = {}

    def __init__(self, name: str = "specimen", operations: Iterable[str] = ("chat",)) -> None:
        self.name = name
        self.operations = frozenset(operations)

    async def complete(self, attempt: Attempt) -> Completion:
        message = {"role": "assistant", "content": f"I am {self.name}"}
        choice = {"index": 0, "message": message, "finish_reason": "stop"}
        return completion(attempt.call, [choice], Usage(3, 4))

    async def stream(self, attempt: Attempt) -> AsyncIterator[list[Chunk]]:
        answer = StreamBuilder(attempt.call)
        yield [answer.text(f"I am {self.name}")]
        yield [answer.finish("stop"), answer.usage(Usage(3, 4))]


CHAT = "[plugins.openai_api]\n[plugins.route_models]\n"
HELLO = {"model": "m", "messages": [{"role": "user", "content": "hi"}]}


def model(vendor: str = "specimen", name: str = "m", more: str = "") -> str:
    return f'[[models]]\nname = "{name}"\nvendor = "{vendor}"\n{more}\n'


# --- routes --------------------------------------------------------------------------------------------------------


async def test_hook_register_routes_serves_a_path_to_anybody_while_no_authenticator_is_on() -> None:
    plugin = specimen(register_routes=[route("GET", "/hello", lambda request: request[PRINCIPAL].id)])
    async with asking(build(hello=plugin)) as ask:
        answer = await ask("GET", "/hello")
    assert (answer.status, answer.body) == (200, b"anonymous")


async def test_hook_register_routes_asks_for_a_user_unless_told_otherwise() -> None:
    keys = specimen(register_authenticators=[Keys()])
    plugin = specimen(
        register_routes=[
            route("GET", "/user", lambda request: request[PRINCIPAL].id),
            route("GET", "/admin", lambda request: request[PRINCIPAL].id, auth="admin"),
            route("GET", "/open", "come in", auth=False),
        ]
    )
    async with asking(build(hello=plugin, keys=keys)) as ask:
        seen = {
            (path, key): (await ask("GET", path, headers={"X-API-Key": key} if key else {})).status
            for path in ("/user", "/admin", "/open")
            for key in ("", "nobody's", "bad", "user", "admin")
        }
        refused = await ask("GET", "/admin", headers={"Authorization": "bearer user"})
        denied = await ask("GET", "/user")
    by_path = {
        path: [status for (at, _), status in seen.items() if at == path] for path in ("/user", "/admin", "/open")
    }
    assert by_path == {
        "/user": [401, 401, 401, 200, 200],
        "/admin": [401, 401, 401, 403, 200],
        "/open": [200, 200, 200, 200, 200],
    }
    assert refused.json["error"] == {
        "message": "this needs an admin credential",
        "type": "permission_error",
        "param": None,
        "code": "admin_required",
    }
    assert denied.headers["WWW-Authenticate"] == "Bearer"


async def test_an_admin_route_is_closed_to_everybody_while_no_authenticator_is_on() -> None:
    plugin = specimen(register_routes=[route("POST", "/change", "done", auth="admin")])
    async with asking(build(hello=plugin)) as ask:
        assert (await ask("POST", "/change")).status == 403


async def test_another_method_is_405_with_allow_and_openai_s_error_shape() -> None:
    plugin = specimen(register_routes=[route("PUT", "/thing", "put"), route("GET", "/thing", "got")])
    async with asking(build(CHAT, hello=plugin)) as ask:
        wrong = await ask("DELETE", "/thing")
        inference = await ask("GET", "/v1/chat/completions")
    assert (wrong.status, wrong.headers["Allow"]) == (405, "GET, HEAD, PUT")
    assert wrong.json["error"] == {
        "message": "DELETE is not allowed at /thing; use GET, HEAD, PUT",
        "type": "invalid_request_error",
        "param": None,
        "code": "method_not_allowed",
    }
    assert (inference.status, inference.headers["Allow"]) == (405, "POST")


async def test_an_unknown_path_is_404_in_openai_s_error_shape() -> None:
    async with asking(build(CHAT)) as ask:
        for path in ("/", "/nothing", "/v1/chat/completions/", "/v1/%2e%2e/x", "//v1/models"):
            answer = await ask("GET", path)
            assert answer.status == 404, path
            assert answer.json["error"]["type"] == "not_found_error"
            assert answer.json["error"]["code"] == "unknown_path"
            assert answer.headers["Content-Type"] == "application/json"


async def test_one_path_may_be_shared_by_plugins_with_different_methods() -> None:
    one, two = (specimen(register_routes=[route(method, "/thing", method)]) for method in ("GET", "POST"))
    async with asking(build(one=one, two=two)) as ask:
        assert (await ask("GET", "/thing")).body == b"GET"
        assert (await ask("POST", "/thing")).body == b"POST"
        assert (await ask("PUT", "/thing")).headers["Allow"] == "GET, HEAD, POST"


@pytest.mark.parametrize(
    ("first", "second"),
    [
        (("GET", "/thing"), ("GET", "/thing")),
        (("GET", "/thing"), ("get", "/thing")),
        (("*", "/thing"), ("GET", "/thing")),
        (("GET", "/thing"), ("*", "/thing")),
        (("GET", "/things/{id}"), ("GET", "/things/{name}")),
    ],
)
def test_a_path_owned_twice_is_an_error_naming_both_plugins(first: tuple[str, str], second: tuple[str, str]) -> None:
    one, two = (specimen(register_routes=[route(*place)]) for place in (first, second))
    (fault,) = told(one=one, two=two)
    assert fault == f"{second[0].upper()} {second[1]} is served by both plugins 'one' and 'two'; disable one"


def test_an_inference_endpoint_and_a_route_cannot_own_one_path() -> None:
    (fault,) = told(CHAT, mine=specimen(register_routes=[route("POST", "/v1/chat/completions")]))
    assert fault == "POST /v1/chat/completions is served by both plugins 'mine' and 'openai_api'; disable one"


async def test_a_route_for_every_method_takes_every_method() -> None:
    plugin = specimen(register_routes=[route("*", "/any", lambda request: request.method)])
    async with asking(build(any=plugin)) as ask:
        assert [(await ask(method, "/any")).body for method in ("GET", "PATCH")] == [b"GET", b"PATCH"]


@pytest.mark.parametrize(
    ("raised", "status", "kind", "code"),
    [
        (InvalidRequest("no such thing", param="thing"), 400, "invalid_request_error", None),
        (RateLimited("slowly", retry_after=1.2), 429, "rate_limit_error", "rate_limit_exceeded"),
        (web.HTTPNotFound(), 404, "invalid_request_error", None),
        (web.HTTPRequestEntityTooLarge(1, 2), 413, "invalid_request_error", None),
        (web.HTTPBadGateway(), 502, "server_error", None),
        (RuntimeError("password=hunter2"), 500, "server_error", None),
    ],
)
async def test_what_a_route_raises_becomes_an_error_in_openai_s_shape(
    raised: Exception, status: int, kind: str, code: str | None
) -> None:
    async with asking(build(bad=specimen(register_routes=[route("GET", "/bad", raised)]))) as ask:
        answer = await ask("GET", "/bad")
    assert answer.status == status
    assert (answer.json["error"]["type"], answer.json["error"]["code"]) == (kind, code)
    assert b"hunter2" not in answer.body
    assert answer.headers.get("Retry-After") == ("2" if status == 429 else None)


async def test_a_redirect_that_a_route_raises_is_a_redirect() -> None:
    async with asking(build(go=specimen(register_routes=[route("GET", "/go", web.HTTPFound("/there"))]))) as ask:
        answer = await ask("GET", "/go")
    assert (answer.status, answer.headers["Location"]) == (302, "/there")


# --- vendors -------------------------------------------------------------------------------------------------------


async def test_hook_register_vendors_answers_under_its_name_in_any_case() -> None:
    plugin = specimen(register_vendors=[Vendor("acme")])
    async with asking(build(CHAT + model("ACME"), acme=plugin)) as ask:
        plain = await ask("POST", "/v1/chat/completions", json=HELLO)
        streamed = await ask("POST", "/v1/chat/completions", json=HELLO | {"stream": True})
    assert plain.status == 200
    assert plain.json["choices"][0]["message"]["content"] == "I am acme"
    assert plain.json["usage"]["total_tokens"] == 7
    assert plain.headers["X-Gatehook-Deployment"] == "m#1"
    assert streamed.headers["Content-Type"].startswith("text/event-stream")
    assert streamed.body.count(b"I am acme") == 1
    assert streamed.body.endswith(b"data: [DONE]\n\n")


def test_hook_register_vendors_one_plugin_may_bring_several() -> None:
    gateway = build(many=specimen(register_vendors=[Vendor("a"), Vendor("b")]))
    assert list(gateway.vendors) == ["a", "b"]


def test_a_vendor_name_taken_twice_is_an_error_naming_both_plugins() -> None:
    one, two = (specimen(register_vendors=[Vendor("acme")]) for _ in range(2))
    assert told(one=one, two=two) == ["vendor 'acme' is provided by both 'one' and 'two'; disable one"]


def test_collisions_of_vendors_routes_and_services_are_all_told_at_once() -> None:
    key: ServiceKey[object] = ServiceKey("store", provider="store")
    plugin = specimen(
        register_vendors=[Vendor("a"), Vendor("b")], register_routes=[route("GET", "/x"), route("GET", "/y")]
    )
    assert len(told(one=plugin, two=plugin)) == 4
    services = specimen(register_services=[(key, 1)])
    assert len(told(one=services, two=services, three=services)) == 2


async def test_an_unknown_vendor_is_a_400_at_request_time_and_a_fault_for_check() -> None:
    gateway = build(CHAT + model("nobody"), acme=specimen(register_vendors=[Vendor("acme")]))
    assert list(gateway.faults()) == ["[[models]] m#1: no enabled plugin provides vendor 'nobody', only: acme"]
    async with asking(gateway) as ask:
        answer = await ask("POST", "/v1/chat/completions", json=HELLO)
    assert answer.status == 400
    assert answer.json["error"] == {
        "message": "model 'm' is configured with vendor 'nobody', which no enabled plugin provides",
        "type": "invalid_request_error",
        "param": "model",
        "code": "unknown_vendor",
    }


async def test_an_operation_that_the_vendor_does_not_offer_is_a_400() -> None:
    async with asking(build(CHAT + model(), acme=specimen(register_vendors=[Vendor()]))) as ask:
        answer = await ask("POST", "/v1/embeddings", json={"model": "m", "input": "x"})
    assert answer.status == 400
    assert answer.json["error"]["code"] == "unsupported_operation"
    assert answer.json["error"]["message"] == "vendor 'specimen' does not offer embeddings"


async def test_a_deployment_with_an_unknown_vendor_gives_way_to_the_next() -> None:
    settings = CHAT + model("nobody") + model("acme", more="priority = 2")
    async with asking(build(settings, acme=specimen(register_vendors=[Vendor("acme")]))) as ask:
        answer = await ask("POST", "/v1/chat/completions", json=HELLO)
    assert (answer.status, answer.headers["X-Gatehook-Deployment"]) == (200, "m#2")


def test_a_vendor_s_own_check_is_part_of_the_gateway_s_faults() -> None:
    class Picky(Vendor):
        def check(self, target: Target) -> Iterable[str]:
            return [f"options: no {target.model}"]

    gateway = build(CHAT + model(), picky=specimen(register_vendors=[Picky()]))
    assert list(gateway.faults()) == ["[[models]] m#1: options: no m"]


# --- services ------------------------------------------------------------------------------------------------------


class Store:
    """A service."""


STORE = ServiceKey[Store]("store", provider="sql_store")


def user_of(key: ServiceKey[Any], seen: list[object], *, requires: bool = True) -> type:
    """A plugin that takes a service when its routes are asked for."""

    class User(Plugin):
        @hookimpl
        def register_routes(self, gateway: Gateway) -> Iterable[Route]:
            seen.append(gateway.services[key])
            return []

    return type("UserOf", (User,), {"requires": (key,) if requires else ()})


@pytest.mark.parametrize("names", [("a_store", "b_user"), ("b_store", "a_user")])
def test_hook_register_services_offers_an_object_to_others_whatever_the_order(names: tuple[str, str]) -> None:
    store, seen = Store(), list[object]()
    gateway = build(**{names[0]: specimen(register_services=[(STORE, store)]), names[1]: user_of(STORE, seen)})
    assert seen == [store]
    assert STORE in gateway.services


@pytest.mark.parametrize("requires", [True, False])
def test_a_missing_service_is_an_error_that_names_the_plugin_to_enable(requires: bool) -> None:
    (fault,) = told(user=user_of(STORE, [], requires=requires))
    assert "plugin 'user'" in fault
    assert "service 'store'" in fault
    assert fault.endswith("enable [plugins.sql_store]")


def test_a_service_offered_twice_is_an_error_naming_both_plugins() -> None:
    one, two = (specimen(register_services=[(STORE, Store())]) for _ in range(2))
    assert told(one=one, two=two) == ["service 'store' is offered by both 'one' and 'two'; disable one"]


def test_the_kernel_s_own_catalog_cannot_be_offered_again() -> None:
    from gatehook import CATALOG

    (fault,) = told(mine=specimen(register_services=[(CATALOG, object())]))
    assert fault == "service 'catalog' is offered by both 'kernel' and 'mine'; disable one"


def test_plugins_that_require_each_other_in_a_circle_are_refused() -> None:
    other = ServiceKey[Store]("other", provider="other")
    one = specimen(requires=(other,), register_services=[(STORE, Store())])
    two = specimen(requires=(STORE,), register_services=[(other, Store())])
    assert told(one=one, two=two) == ["plugins require each other in a circle: one → two → one"]


# --- lifespans -----------------------------------------------------------------------------------------------------


def spanning(name: str, log: list[str], fails: str = "", **rest: Any) -> type:
    """A plugin whose lifespan notes when it is entered and left; it may fail at either."""

    @contextlib.asynccontextmanager
    async def span() -> AsyncIterator[None]:
        if fails == "entering":
            raise OSError(f"{name} is unreachable")
        log.append(f"+{name}")
        try:
            yield
        finally:
            log.append(f"-{name}")
        if fails == "leaving":
            raise OSError(f"{name} broke")

    return specimen(register_lifespans=[span], **rest)


async def test_hook_register_lifespans_are_entered_by_dependency_and_left_in_reverse() -> None:
    log: list[str] = []
    late = spanning("late", log, register_services=[(STORE, Store())])
    gateway = build(
        "[plugins.z_store]\norder = 9\n",
        a_user=spanning("user", log, requires=(STORE,)),
        b=spanning("b", log),
        z_store=late,
    )
    async with running(gateway):
        assert log == ["+late", "+user", "+b"]
        assert gateway.serving
    assert log == ["+late", "+user", "+b", "-b", "-user", "-late"]
    assert not gateway.serving


async def test_a_lifespan_that_fails_to_begin_names_its_plugin_and_the_others_are_left() -> None:
    log: list[str] = []
    gateway = build(a=spanning("a", log), b=spanning("b", log, fails="entering"), c=spanning("c", log))
    with pytest.raises(StartupError) as caught:
        async with running(gateway):
            pytest.fail("it must not serve")
    assert caught.value.faults == ["plugin 'b' cannot start: OSError('b is unreachable')"]
    assert log == ["+a", "-a"]
    with pytest.raises(RuntimeError, match="egress is not open"):
        await gateway.egress.fetch("http://example.com", param="x")


async def test_a_lifespan_s_own_startup_error_keeps_its_words() -> None:
    @contextlib.asynccontextmanager
    async def span() -> AsyncIterator[None]:
        raise StartupError("[plugins.b] url: cannot be reached")
        yield

    with pytest.raises(StartupError) as caught:
        async with running(build(b=specimen(register_lifespans=[span]))):
            pytest.fail("it must not serve")
    assert caught.value.faults == ["plugin 'b': [plugins.b] url: cannot be reached"]


async def test_what_is_no_context_manager_is_a_startup_error_too() -> None:
    with pytest.raises(StartupError, match=r"plugin 'b' cannot start: .*context manager"):
        async with running(build(b=specimen(register_lifespans=[object]))):
            pytest.fail("it must not serve")


async def test_a_lifespan_that_fails_to_end_does_not_keep_the_others_from_ending() -> None:
    log: list[str] = []
    gateway = build(a=spanning("a", log), b=spanning("b", log, fails="leaving"))
    with pytest.raises(OSError, match="b broke"):
        async with running(gateway):
            pass
    assert log == ["+a", "+b", "-b", "-a"]


async def test_lifespans_are_entered_before_the_first_request_and_left_after_the_last() -> None:
    log: list[str] = []
    plugin = spanning("x", log, register_routes=[route("GET", "/log", lambda request: ",".join(log))])
    async with asking(build(x=plugin)) as ask:
        assert (await ask("GET", "/log")).body == b"+x"
    assert log == ["+x", "-x"]


# --- commands ------------------------------------------------------------------------------------------------------

COMMANDS = """
from gatehook import Command, Section, StartupError, hookimpl

class Plugin:
    class Settings(Section): "[plugins.NAME]"
    def __init__(self, settings): pass

    @hookimpl
    def register_commands(self, gateway):
        self.path = gateway.settings.path
        return [
            Command("greet", "Say hello.", self.greet),
            Command("fail", "Fail.", self.fail),
            Command("where", "Tell where.", self.where),
        ]

    def where(self, arguments):
        print(self.path, *arguments)
        return 0

    def greet(self, arguments):
        print("hello", *arguments)
        return len(arguments)

    def fail(self, arguments):
        raise StartupError("the store is locked")
"""


@pytest.fixture
def program(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., int]:
    """The `gatehook` program with installed distributions that bring commands."""

    def run(*words: str, plugins: Iterable[str] = ("greeter",), source: str = COMMANDS) -> int:
        for name in plugins:
            info = tmp_path / f"gatehook_{name}-1.dist-info"
            info.mkdir()
            (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: gatehook-{name}\nVersion: 1\n", "utf-8")
            (info / "entry_points.txt").write_text(f"[gatehook]\n{name} = commands_{name}:Plugin\n", "utf-8")
            (tmp_path / f"commands_{name}.py").write_text(source, "utf-8")
        settings = tmp_path / "settings.toml"
        settings.write_text("".join(f"[plugins.{name}]\n" for name in plugins), "utf-8")
        monkeypatch.setenv("GATEHOOK_CONFIG", str(settings))
        monkeypatch.syspath_prepend(str(tmp_path))
        for name in plugins:
            monkeypatch.delitem(sys.modules, f"commands_{name}", raising=False)
        return main(words)

    return run


def test_hook_register_commands_adds_a_command_with_its_words_and_exit_status(
    program: Callable[..., int], capsys: pytest.CaptureFixture[str]
) -> None:
    assert program("greet", "--loud", "you") == 2
    assert capsys.readouterr().out == "hello --loud you\n"


def test_a_command_is_of_the_settings_that_are_named(
    program: Callable[..., int], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    other = tmp_path / "other.toml"
    other.write_text("[plugins.greeter]\n", "utf-8")
    for words in (("where", "--config", str(other), "x"), ("where", "x", f"--config={other}")):
        assert program(*words, plugins=() if "=" in words[-1] else ("greeter",)) == 0
        assert capsys.readouterr().out == f"{other} x\n"


def test_a_command_s_startup_error_is_told_without_a_traceback(
    program: Callable[..., int], capsys: pytest.CaptureFixture[str]
) -> None:
    assert program("fail") == 1
    assert capsys.readouterr().err == "the store is locked\n"


def test_an_unknown_command_names_those_there_are(
    program: Callable[..., int], capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as caught:
        program("gret")
    assert caught.value.code == 2
    known = "serve, reload, check, plugins, new-plugin, models, chat, schema, greet, fail, where"
    assert f"unknown command 'gret'; there are: {known}. " in capsys.readouterr().err


def test_a_command_of_two_plugins_is_an_error_naming_both(
    program: Callable[..., int], capsys: pytest.CaptureFixture[str]
) -> None:
    assert program("greet", plugins=("one", "two")) == 1
    assert capsys.readouterr().err.splitlines()[0] == "command 'greet' is added by both 'one' and 'two'; disable one"


def test_a_command_that_the_program_has_itself_is_an_error(
    program: Callable[..., int], capsys: pytest.CaptureFixture[str]
) -> None:
    assert program("fail", source=COMMANDS.replace('"greet"', '"serve"')) == 1
    assert capsys.readouterr().err == "command 'serve' of plugin 'greeter' is one of gatehook's own; rename it\n"


def test_schema_names_the_plugin_that_cannot_be_imported(
    program: Callable[..., int], capsys: pytest.CaptureFixture[str]
) -> None:
    assert program("schema", source="import no_such_module") == 1
    assert "plugin 'greeter' (gatehook-greeter 1): cannot be imported" in capsys.readouterr().err


# --- open or closed ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("server", "keys", "safe"),
    [
        ('host = "127.0.0.1"', False, True),
        ('host = "::1"', False, True),
        ('host = "localhost"', False, True),
        ('host = "0.0.0.0"', False, False),
        ('host = "::"', False, False),
        ('host = "192.0.2.7"', False, False),
        ('host = "0.0.0.0"', True, True),
        ('host = "0.0.0.0"\nallow_anonymous = true', False, True),
        ('host = "0.0.0.0"\nuds = "/run/gatehook.sock"', False, True),
    ],
)
def test_beyond_this_machine_only_with_authentication_or_by_saying_so(server: str, keys: bool, safe: bool) -> None:
    plugins = {"keys": specimen(register_authenticators=[Keys()])} if keys else {}
    gateway = build(f"[server]\n{server}\n", **plugins)
    with contextlib.nullcontext() if safe else pytest.raises(StartupError, match=r"\[server\] host"):
        gateway.require_safe()


def test_endpoint_is_post_only() -> None:
    assert Endpoint.method == "POST"


def test_commands_are_plain_values() -> None:
    assert Command("a", "b", len).run(["x"]) == 1


async def test_a_get_route_answers_head_too_without_a_body() -> None:
    async with serving("[plugins.health]\n") as served, ClientSession() as http:
        answer = await http.head(f"{served.url}/health/live")
        assert (answer.status, await answer.read()) == (200, b"")
