"""The suite for authenticators: credentials that are good, bad, or somebody else's; and secrets that stay secret."""

import random
from collections.abc import Mapping, Sequence
from typing import ClassVar

import aiohttp

from gatehook.app import Gateway
from gatehook.awaiting import awaited
from gatehook.errors import AuthenticationFailed
from gatehook.model import Credential, Principal
from gatehook.protocols import Authenticator
from gatehook.testing import serving
from gatehook.testing.conformance.bench import logged
from gatehook.testing.conformance.suite import Suite, check, expect, not_offered

__all__ = ["AuthenticatorConformance"]

FOREIGN = ("", "nobody-has-this-token-anywhere", "ü" * 40, "a b", "\udce4bytes", "x" * 20_000, "\0", "null", "0")
_RANDOM = 300


class AuthenticatorConformance(Suite):
    """Subclass it, and give tokens that are `good`, and tokens that are meant for it but `bad`."""

    kind: ClassVar[str] = "authenticator"
    good: Mapping[str, str] = {}
    """The id of each token's principal."""
    bad: Sequence[str] = ()
    """Tokens that are meant for it, but not valid: expired, revoked, wrongly signed."""
    foreign: Sequence[str] = FOREIGN
    """Tokens that another authenticator may know."""

    def authenticator(self, gateway: Gateway) -> Authenticator:
        """The authenticator in question."""
        return self.own(gateway.pipeline.concerns.authenticators, "authenticator")

    def credential(self, token: str) -> Credential:
        """A token as a client shows it."""
        return Credential(token, {"Authorization": f"Bearer {token}"} if token else {})

    @check("good credentials")
    async def test_a_good_credential_tells_its_principal(self) -> None:
        expect(self.good, f"{type(self).__name__}.good: tell at least one token and its principal's id")
        async with self.running() as gateway:
            one = self.authenticator(gateway)
            for token, who in self.good.items():
                first, again = [await awaited(one.authenticate(self.credential(token))) for _ in range(2)]
                expect(isinstance(first, Principal), f"the good token of {who!r} gives {first!r}")
                expect(first is not None and first.id == who, f"the good token of {who!r} gives {first and first.id!r}")
                expect(first == again, f"the good token of {who!r} gives another principal the second time")

    @check("foreign credentials")
    async def test_what_is_not_its_own_is_left_to_others(self) -> None:
        async with self.running() as gateway:
            one = self.authenticator(gateway)
            for token in self.foreign:
                try:
                    found = await awaited(one.authenticate(self.credential(token)))
                except Exception as error:  # noqa: BLE001  # whatever it is
                    expect(False, f"{token[:40]!r}: raises {error!r} instead of giving None")
                expect(found is None, f"{token[:40]!r}: lets in {found and found.id!r}")

    @check("bad credentials")
    async def test_what_is_its_own_and_bad_is_refused_at_once(self) -> None:
        if not self.bad:
            not_offered("it cannot tell a bad token from a foreign one (`bad` is empty)")
        async with self.running() as gateway:
            one = self.authenticator(gateway)
            for number, token in enumerate(self.bad):
                try:
                    found = await awaited(one.authenticate(self.credential(token)))
                except AuthenticationFailed as error:
                    expect(error.status == 401, f"bad[{number}] is refused with {error.status}, not 401")
                    expect(error.message, f"bad[{number}] is refused without a word")
                else:
                    what = "is left to others" if found is None else f"lets in {found.id!r}"
                    expect(False, f"bad[{number}] {what} instead of raising AuthenticationFailed")

    @check("junk")
    async def test_no_junk_gets_in_or_breaks_anything(self) -> None:
        """Junk is made of good and bad tokens, cut, doubled and altered."""
        chance = random.Random(7)  # noqa: S311  # the same each time
        tokens = [*self.good, *self.bad, "token"]
        async with self.running() as gateway:
            one = self.authenticator(gateway)
            for _ in range(_RANDOM):
                token = _spoilt(chance.choice(tokens), chance)
                if token in self.good:
                    continue
                try:
                    found = await awaited(one.authenticate(self.credential(token)))
                except AuthenticationFailed:
                    continue
                except Exception as error:  # noqa: BLE001  # whatever it is
                    expect(False, f"{token[:40]!r}: raises {error!r}")
                expect(found is None, f"{token[:40]!r}, a token with a fault in it, lets in {found and found.id!r}")

    @check("secrets")
    async def test_no_token_is_in_a_message_a_log_or_a_repr(self) -> None:
        shown: list[str] = []
        with logged() as log:
            async with self.running() as gateway:
                one = self.authenticator(gateway)
                for token in (*self.good, *self.bad):
                    texts = {}
                    try:
                        texts["what it gives"] = repr(await awaited(one.authenticate(self.credential(token))))
                    except AuthenticationFailed as error:
                        texts["its message"] = f"{error!r} {error.param}"
                    texts["its repr()"] = f"{one!r} {getattr(one, '__dict__', '')!r}"
                    texts["the log"] = "\n".join(log.lines)
                    shown += [place for place, text in texts.items() if token in text]
        expect(not shown, f"a token can be read in {', '.join(dict.fromkeys(shown))}")

    @check("through the gateway")
    async def test_who_may_come_in_does_and_others_get_401(self) -> None:
        async with (
            serving(self.written("[plugins.openai_api]\n"), plugins=self.plugins) as served,
            aiohttp.ClientSession() as http,
        ):
            wanted = dict.fromkeys(self.good, 200) | dict.fromkeys(self.bad, 401)
            for token, status in {**wanted, "": 401, "nobody-has-this": 401}.items():
                headers = {"Authorization": f"Bearer {token}"} if token else {}
                async with http.get(f"{served.url}/v1/models", headers=headers) as answer:
                    expect(answer.status == status, f"{token[:20]!r}: the client gets {answer.status}, not {status}")
                    told = answer.headers.get("WWW-Authenticate")
                    expect(status == 200 or told == "Bearer", f"{token[:20]!r}: WWW-Authenticate is {told!r}")


def _spoilt(token: str, chance: random.Random) -> str:
    """The token, altered at a random place."""
    place = chance.randrange(len(token) + 1)
    letter = chance.choice(["", "A", ".", "=", " ", "ß", "\udcff", token])
    return chance.choice(
        [
            token[:place],
            token[place:],
            token[:place] + letter + token[place + 1 :],
            token[:place] + letter + token[place:],
        ]
    )
