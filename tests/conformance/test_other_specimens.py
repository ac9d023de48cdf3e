"""The suites for caches, routers, authenticators and tool policies bite: each fault is caught by its check."""

import contextlib
import hashlib
from collections.abc import AsyncIterator, Iterable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from typing import Any, ClassVar

import pytest
from msgspec.structs import replace

from gatehook import (
    CATALOG,
    AuthenticationFailed,
    Authenticator,
    Cache,
    Call,
    Completion,
    Credential,
    Entry,
    Gateway,
    InvalidRequest,
    ModelNotFound,
    Principal,
    Router,
    Section,
    Target,
    ToolCall,
    ToolPolicy,
    Verdict,
    decode,
    hookimpl,
)
from gatehook.testing.conformance import (
    AuthenticatorConformance,
    CacheConformance,
    RouterConformance,
    ToolPolicyConformance,
)


def plugin_of(hook: str, make: Any) -> type:
    """A plugin whose hook gives one object."""

    class Settings(Section): ...

    def begin(self: Any, settings: Settings) -> None: ...

    def register(self: Any, gateway: Gateway) -> Iterable[Any]:
        return [make(gateway)]

    register.__name__ = hook
    body = {"Settings": Settings, "__init__": begin, hook: hookimpl(register), "__module__": __name__}
    return type("Plugin", (), body)


class Fault:
    """A class whose object has one fault; the checks that must find it."""

    caught: ClassVar[set[str]] = set()


# --- caches --------------------------------------------------------------------------------------------------------


class SoundCache(Fault):
    max_entry = 1000

    def __init__(self, gateway: Gateway) -> None:
        self.entries: dict[bytes, Entry] = {}
        self.is_away = False

    def place(self, key: bytes) -> bytes:
        return key

    async def get(self, key: bytes, call: Call) -> Entry | None:
        if self.is_away:
            raise ConnectionError("the store is away")
        return self.entries.get(self.place(key))

    async def put(self, key: bytes, call: Call, entry: Entry) -> None:
        if entry.completion is None or len(entry.completion.raw) <= self.max_entry:
            self.entries[self.place(key)] = self.stored(entry)

    def stored(self, entry: Entry) -> Entry:
        return entry


class Respaces(SoundCache):
    caught: ClassVar[set[str]] = {"plain answers"}

    def stored(self, entry: Entry) -> Entry:
        whole = entry.completion
        return entry if whole is None else replace(entry, completion=Completion(decode(whole.raw), usage=whole.usage))


class LosesFlags(SoundCache):
    caught: ClassVar[set[str]] = {"streams"}

    def stored(self, entry: Entry) -> Entry:
        return replace(entry, chunks=tuple(type(one)(raw=one.raw, usage=one.usage) for one in entry.chunks))


class Ageless(SoundCache):
    caught: ClassVar[set[str]] = {"age and losses"}

    def stored(self, entry: Entry) -> Entry:
        return replace(entry, dropped=())


class ShortensKeys(SoundCache):
    caught: ClassVar[set[str]] = {"misses"}

    def place(self, key: bytes) -> bytes:
        return key[:16]


class KeepsTheFirst(SoundCache):
    caught: ClassVar[set[str]] = {"replacing"}

    async def put(self, key: bytes, call: Call, entry: Entry) -> None:
        if key not in self.entries:
            await super().put(key, call, entry)


class KeepsForever(SoundCache):
    caught: ClassVar[set[str]] = {"expiry"}
    ttl = 0.1


class KeepsAll(SoundCache):
    caught: ClassVar[set[str]] = {"bounds"}

    async def put(self, key: bytes, call: Call, entry: Entry) -> None:
        self.entries[self.place(key)] = entry


class SharesAll(SoundCache):
    caught: ClassVar[set[str]] = {"principals apart"}

    def scope(self, principal: Principal) -> str:
        return "everybody"


class EndsTheCall(SoundCache):
    caught: ClassVar[set[str]] = {"failures"}

    async def get(self, key: bytes, call: Call) -> Entry | None:
        if self.is_away:
            call.body = None  # type: ignore[assignment]  # what no cache should do
        return await super().get(key, call)


def cache_suite(cache: type[SoundCache]) -> CacheConformance:
    class Suite(CacheConformance):
        plugin = "specimen"
        plugin_class = plugin_of("register_caches", cache)
        ttl = getattr(cache, "ttl", None)

        def broken(self, gateway: Gateway) -> AbstractAsyncContextManager[None]:
            @contextlib.asynccontextmanager
            async def away() -> AsyncIterator[None]:
                self.cache(gateway).is_away = True  # type: ignore[attr-defined]
                yield

            return away()

    return Suite()


# --- routers -------------------------------------------------------------------------------------------------------


class SoundRouter(Fault):
    def __init__(self, gateway: Gateway) -> None:
        self.catalog = gateway.services[CATALOG]
        self.asked = 0

    async def route(self, call: Call) -> Sequence[Target] | None:
        self.asked += 1
        group = self.catalog.group(call.model)
        names = [name for target in group for name in target.fallbacks]
        return self.ordered([group, *(self.catalog.group(name) for name in names)])

    def ordered(self, groups: Sequence[Sequence[Target]]) -> list[Target]:
        return [one for group in groups for one in sorted(group, key=lambda one: one.priority) if not one.unavailable]


class KnowsNobody(SoundRouter):
    caught: ClassVar[set[str]] = {
        "known models", "the same targets", "priorities", "fallbacks", "unavailable deployments", "nothing is changed"
    }  # fmt: skip

    async def route(self, call: Call) -> Sequence[Target] | None:
        return None


class TellsTwice(SoundRouter):
    caught: ClassVar[set[str]] = {"known models"}

    def ordered(self, groups: Sequence[Sequence[Target]]) -> list[Target]:
        return [one for target in super().ordered(groups) for one in (target, target)]


class RefusesStrangers(SoundRouter):
    caught: ClassVar[set[str]] = {"unknown models"}

    async def route(self, call: Call) -> Sequence[Target] | None:
        if not self.catalog.group(call.model):
            raise ModelNotFound("who?")
        return await super().route(call)


class Moody(SoundRouter):
    caught: ClassVar[set[str]] = {"the same targets", "nothing is changed"}

    def ordered(self, groups: Sequence[Sequence[Target]]) -> list[Target]:
        return super().ordered(groups)[: 1 + self.asked % 2]


class WorstFirst(SoundRouter):
    caught: ClassVar[set[str]] = {"priorities"}

    def ordered(self, groups: Sequence[Sequence[Target]]) -> list[Target]:
        good = [[one for one in group if not one.unavailable] for group in groups]
        return [one for group in good for one in sorted(group, key=lambda one: -one.priority)]


class FallbacksFirst(SoundRouter):
    caught: ClassVar[set[str]] = {"fallbacks", "priorities"}

    def ordered(self, groups: Sequence[Sequence[Target]]) -> list[Target]:
        return super().ordered(groups[::-1])


class TriesTheDead(SoundRouter):
    caught: ClassVar[set[str]] = {"unavailable deployments"}

    def ordered(self, groups: Sequence[Sequence[Target]]) -> list[Target]:
        return [one for group in groups for one in sorted(group, key=lambda one: (one.priority, not one.unavailable))]


class Renames(SoundRouter):
    caught: ClassVar[set[str]] = {"nothing is changed"}

    async def route(self, call: Call) -> Sequence[Target] | None:
        targets = await super().route(call)
        call.model = "another"
        return targets


def router_suite(router: type[SoundRouter]) -> RouterConformance:
    class Suite(RouterConformance):
        plugin = "specimen"
        plugin_class = plugin_of("register_routers", router)

    return Suite()


# --- authenticators ------------------------------------------------------------------------------------------------

GOOD = {"mine-ann-5f2c": "ann", "mine-bob-77aa": "bob"}
BAD = ("mine-expired-0001",)


class SoundDoor(Fault):
    def __init__(self, gateway: Gateway) -> None:
        self.known = {self.digest(token): Principal(who) for token, who in GOOD.items()}

    def digest(self, token: str) -> bytes:
        return hashlib.sha256(token.encode("utf-8", "surrogatepass")).digest()

    async def authenticate(self, credential: Credential) -> Principal | None:
        token = credential.token
        found = self.known.get(self.digest(token))
        if found is None and token in BAD:
            raise AuthenticationFailed(self.words(token))
        return found

    def words(self, token: str) -> str:
        return "this token has expired"


class AnotherName(SoundDoor):
    caught: ClassVar[set[str]] = {"good credentials"}

    async def authenticate(self, credential: Credential) -> Principal | None:
        found = await super().authenticate(credential)
        return None if found is None else Principal(found.id.upper())


class RefusesOthers(SoundDoor):
    caught: ClassVar[set[str]] = {"foreign credentials"}

    async def authenticate(self, credential: Credential) -> Principal | None:
        found = await super().authenticate(credential)
        if found is None:
            raise AuthenticationFailed("nobody")
        return found


class LeavesTheBad(SoundDoor):
    caught: ClassVar[set[str]] = {"bad credentials"}

    async def authenticate(self, credential: Credential) -> Principal | None:
        with contextlib.suppress(AuthenticationFailed):
            return await super().authenticate(credential)
        return None


class TakesPrefixes(SoundDoor):
    caught: ClassVar[set[str]] = {"junk"}

    def digest(self, token: str) -> bytes:
        return super().digest(token[:12])


class Quotes(SoundDoor):
    caught: ClassVar[set[str]] = {"secrets"}

    def words(self, token: str) -> str:
        return f"{token} has expired"


class KeepsTokens(SoundDoor):
    caught: ClassVar[set[str]] = {"secrets"}

    def __init__(self, gateway: Gateway) -> None:
        super().__init__(gateway)
        self.tokens = dict(GOOD)


class OpensToAll(SoundDoor):
    caught: ClassVar[set[str]] = {"through the gateway", "foreign credentials", "junk"}

    async def authenticate(self, credential: Credential) -> Principal | None:
        return await super().authenticate(credential) if credential.token else Principal("anybody")


def door_suite(door: type[SoundDoor]) -> AuthenticatorConformance:
    class Suite(AuthenticatorConformance):
        plugin = "specimen"
        plugin_class = plugin_of("register_authenticators", door)
        good: Mapping[str, str] = GOOD
        bad = BAD

    return Suite()


# --- tool policies -------------------------------------------------------------------------------------------------


class SoundPolicy(Fault):
    def __init__(self, gateway: Gateway) -> None:
        self.asked = 0

    async def offer(self, call: Call, tools: Sequence[Mapping[str, Any]]) -> Sequence[Mapping[str, Any]]:
        return [tool for tool in tools if not tool["function"]["name"].startswith("delete")]

    async def judge(self, call: Call, tool_call: ToolCall) -> Verdict:
        self.asked += 1
        kind = {"del": "deny", "pay": "confirm"}.get(tool_call.name[:3], "allow")
        return Verdict(kind)  # type: ignore[arg-type]


class Rewrites(SoundPolicy):
    caught: ClassVar[set[str]] = {"tools offered"}

    async def offer(self, call: Call, tools: Sequence[Mapping[str, Any]]) -> Sequence[Mapping[str, Any]]:
        return [{**tool, "strict": True} for tool in await super().offer(call, tools)]


class ShowsAll(SoundPolicy):
    caught: ClassVar[set[str]] = {"denied tools"}

    async def offer(self, call: Call, tools: Sequence[Mapping[str, Any]]) -> Sequence[Mapping[str, Any]]:
        return tools


class Trusts(SoundPolicy):
    caught: ClassVar[set[str]] = {"verdicts"}

    async def judge(self, call: Call, tool_call: ToolCall) -> Verdict:
        verdict = await super().judge(call, tool_call)
        return Verdict("allow") if verdict.kind == "confirm" else verdict


class NeedsJson(SoundPolicy):
    caught: ClassVar[set[str]] = {"odd calls"}

    async def judge(self, call: Call, tool_call: ToolCall) -> Verdict:
        if not isinstance(decode(tool_call.arguments), dict):
            raise InvalidRequest("no object")
        return await super().judge(call, tool_call)


class EditsTools(SoundPolicy):
    caught: ClassVar[set[str]] = {"nothing is changed"}

    async def offer(self, call: Call, tools: Sequence[Mapping[str, Any]]) -> Sequence[Mapping[str, Any]]:
        for tool in tools:
            tool["function"]["description"] = ""
        return await super().offer(call, tools)


class ChangesItsMind(SoundPolicy):
    caught: ClassVar[set[str]] = {"nothing is changed"}

    async def judge(self, call: Call, tool_call: ToolCall) -> Verdict:
        verdict = await super().judge(call, tool_call)
        return Verdict(verdict.kind, f"judgement number {self.asked}")


def policy_suite(policy: type[SoundPolicy]) -> ToolPolicyConformance:
    class Suite(ToolPolicyConformance):
        plugin = "specimen"
        plugin_class = plugin_of("register_tool_policies", policy)
        allowed = ("look",)
        denied = ("delete_all",)
        confirmed = ("pay",)

    return Suite()


SUITES = {
    SoundCache: cache_suite, SoundRouter: router_suite, SoundDoor: door_suite, SoundPolicy: policy_suite,
}  # fmt: skip
FAULTS = [(fault, make) for sound, make in SUITES.items() for fault in sound.__subclasses__()]


@pytest.mark.parametrize("sound", SUITES)
async def test_what_is_sound_passes_every_check(sound: Any, failing: Any) -> None:
    assert await failing(SUITES[sound](sound)) == {}


@pytest.mark.parametrize(("fault", "make"), FAULTS)
async def test_a_fault_is_caught_by_the_checks_meant_for_it(fault: Any, make: Any, failing: Any) -> None:
    found = await failing(make(fault))
    assert set(found) == fault.caught, found


@pytest.mark.parametrize("sound", SUITES)
def test_there_is_a_fault_for_every_check(sound: Any, capabilities: Any) -> None:
    caught = set().union(*(fault.caught for fault in sound.__subclasses__()))
    assert caught == set(capabilities(type(SUITES[sound](sound))))


_implements: tuple[type[Cache], type[Router], type[Authenticator], type[ToolPolicy]]
_guards = (SoundCache, SoundRouter, SoundDoor, SoundPolicy)
