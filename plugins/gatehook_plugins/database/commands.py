"""`gatehook keys` and `gatehook users`. They work on the database itself; a gateway that serves follows."""

import argparse
import asyncio
import contextlib
import getpass
from collections.abc import Awaitable, Callable, Sequence
from typing import Any, Final, TypeVar

import msgspec

from gatehook import (
    Caps,
    Catalog,
    Conflict,
    Database,
    Directory,
    GatewayError,
    InvalidRequest,
    Key,
    Limits,
    NotFound,
    User,
    nano,
)
from gatehook_plugins.database.printing import as_json, key_row, moment, note, say, seconds, table, user_lines, user_row
from gatehook_plugins.database.trail import now
from gatehook_plugins.database.users import no_user

__all__ = ["KeysCommand", "UsersCommand"]

T = TypeVar("T", Key, User)

_PAGE: Final = 1000
_NONE: Final = "none"
_SIGNS: Final = frozenset("*?[")
"""Characters of patterns."""

_LIMITS: Final = {"rpm": "requests_per_minute", "tpm": "tokens_per_minute", "concurrent": "concurrent_requests"}
_TOKENS: Final = ("tokens", "tokens_per_day", "tokens_per_month")
_MONEY: Final = ("budget", "budget_per_day", "budget_per_month")


class _Command:
    """A subcommand of `gatehook`, with subcommands of its own."""

    def __init__(self, database: Database, directory: Directory, catalog: Catalog) -> None:
        self._database = database
        self._directory = directory
        self._catalog = catalog

    def __call__(self, words: Sequence[str]) -> int:
        """Run it; gives the exit status."""
        options = self._parser().parse_args(words)
        try:
            asyncio.run(self._opened(options))
        except GatewayError as error:
            listed = "; `gatehook users list` shows them" if error.code == "user_not_found" else ""
            note(error.message + listed)
            return 1
        return 0

    async def _opened(self, options: argparse.Namespace) -> None:
        async with self._database.opened():
            await options.run(options)

    def _parser(self) -> argparse.ArgumentParser:
        raise NotImplementedError

    def _note_unknown(self, models: frozenset[str] | None) -> None:
        """Note names that no model has: misspelt, most likely. Patterns may fit models that come later."""
        unknown = [name for name in sorted(models or ()) if not (_SIGNS & set(name) or self._catalog.group(name))]
        if unknown:
            names = ", ".join(map(repr, unknown))
            note(f"No model of the settings is named {names}; `gatehook models` shows them.")


class KeysCommand(_Command):
    """create, list, rotate, revoke."""

    def _parser(self) -> argparse.ArgumentParser:
        parser, add = _parsers("keys", "Keys of users. A key is shown once, when it is made; only its hash is kept.")
        create = add("create", "make a key", self._create)
        create.add_argument("--user", help='whose; made if new (default: "admin" with --admin, else "default")')
        create.add_argument("--admin", action="store_true", help="a key that may also change the gateway")
        create.add_argument("--name", default="", help="what it is for")
        create.add_argument(
            "--models", type=_names, metavar="A,B", help='models it may use (default, as "none": its user\'s)'
        )
        create.add_argument("--expires", type=_duration, metavar="30d", help="how long it is good (default: for ever)")
        add("list", "list all keys", self._list).add_argument("--user", help="only this user's")
        rotate = add("rotate", "make a new key like this one, and let this one expire", self._rotate)
        rotate.add_argument("key_id", metavar="KEY_ID", help="its id, or as much of its beginning as is unique")
        rotate.add_argument(
            "--overlap", type=_duration, default=86400, metavar="24h", help="how long the old one stays good (24h)"
        )
        revoke = add("revoke", "delete a key; within a second nothing accepts it", self._revoke)
        revoke.add_argument("key_id", metavar="KEY_ID", help="its id, or as much of its beginning as is unique")
        return parser

    async def _create(self, options: argparse.Namespace) -> None:
        user_id = ("admin" if options.admin else "default") if options.user is None else options.user
        try:
            key, text = await self._made(user_id, options)
        except NotFound:  # only now: a user is not made for a key that cannot be
            with contextlib.suppress(Conflict):  # somebody else was quicker
                await self._directory.create_user(_actor(), User(user_id))
            key, text = await self._made(user_id, options)
        _show_new(key, text, options)
        self._note_unknown(key.models)
        user = await self._directory.user(user_id)
        if user is not None and user.disabled:
            note(f"That user is disabled: the key is refused until `gatehook users enable {user_id}`.")

    async def _made(self, user_id: str, options: argparse.Namespace) -> tuple[Key, str]:
        return await self._directory.create_key(
            _actor(),
            user_id,
            name=options.name,
            admin=options.admin,
            models=None if options.models == _NONE else options.models,
            expires=None if options.expires is None else now() + options.expires * 1000,
        )

    async def _list(self, options: argparse.Namespace) -> None:
        keys = await _all(lambda after: self._directory.keys(options.user, after=after, limit=_PAGE))
        head = ("ID", "BEGINS", "USER", "NAME", "ROLE", "MODELS", "LIMITS", "EXPIRES", "STATE")
        say(as_json(keys) if options.json else table(head, [key_row(key, now()) for key in keys]))

    async def _rotate(self, options: argparse.Namespace) -> None:
        key_id = await self._resolved(options.key_id)
        key, text = await self._directory.rotate_key(_actor(), key_id, overlap=options.overlap)
        _show_new(key, text, options)
        if not options.json:
            ends = now() + options.overlap * 1000
            ends = ends if key.expires is None else min(ends, key.expires)  # like the old one, as it was
            note(f"The old one is good until {moment(ends)}; `gatehook keys revoke {key_id}` ends it at once.")

    async def _revoke(self, options: argparse.Namespace) -> None:
        key_id = await self._resolved(options.key_id)
        await self._directory.revoke_key(_actor(), key_id)
        say(as_json({"revoked": key_id}) if options.json else f"revoked {key_id}")

    async def _resolved(self, beginning: str) -> str:
        """The whole id, from the beginning of it or of the key itself."""
        if not beginning:  # of every key: a variable of a script that is not set
            raise InvalidRequest("the id of a key must not be empty; `gatehook keys list` shows them")
        keys = await _all(lambda after: self._directory.keys(after=after, limit=_PAGE))
        found = [key.id for key in keys if key.id.startswith(beginning) or key.prefix == beginning]
        if len(found) == 1 or beginning in found:
            return beginning if beginning in found else found[0]
        if found:
            raise InvalidRequest(f"{beginning!r} is the beginning of {len(found)} keys: {', '.join(found[:5])}")
        raise NotFound(f"there is no key {beginning!r}; `gatehook keys list` shows them")


class UsersCommand(_Command):
    """list, show, create, set, disable, enable, delete."""

    def _parser(self) -> argparse.ArgumentParser:
        parser, add = _parsers("users", "Users, what they may use, and how much.")
        add("list", "list all users", self._list)
        for name, help_, run in (
            ("show", "show one user", self._show),
            ("create", "add a user", self._create),
            ("set", "change a user", self._set),
            ("disable", "refuse all keys of a user", self._disable),
            ("enable", "accept the keys of a user again", self._enable),
            ("delete", "delete a user and its keys; what it used stays on record", self._delete),
        ):
            one = add(name, help_, run)
            one.add_argument("user_id", metavar="USER_ID")
            if name in ("create", "set"):
                _add_fields(one)
        return parser

    async def _list(self, options: argparse.Namespace) -> None:
        users = await _all(lambda after: self._directory.users(after=after, limit=_PAGE))
        head = ("ID", "NAME", "ROLE", "MODELS", "LIMITS", "CAPS", "STATE")
        say(as_json(users) if options.json else table(head, [user_row(user) for user in users]))

    async def _show(self, options: argparse.Namespace) -> None:
        user = await self._directory.user(options.user_id)
        if user is None:
            raise no_user(options.user_id)
        _show_user(user, options)

    async def _create(self, options: argparse.Namespace) -> None:
        fields = _changes(options)
        limits, caps = Limits(**fields.pop("limits", {})), Caps(**fields.pop("caps", {}))
        user = User(options.user_id, **fields, limits=limits, caps=caps)
        _show_user(await self._directory.create_user(_actor(), user), options)
        self._note_unknown(fields.get("models"))

    async def _set(self, options: argparse.Namespace) -> None:
        changes = _changes(options)
        _show_user(await self._directory.change_user(_actor(), options.user_id, changes), options)
        self._note_unknown(changes.get("models"))

    async def _disable(self, options: argparse.Namespace) -> None:
        user = await self._directory.change_user(_actor(), options.user_id, {"disabled": True})
        _show_user(user, options)

    async def _enable(self, options: argparse.Namespace) -> None:
        user = await self._directory.change_user(_actor(), options.user_id, {"disabled": False})
        _show_user(user, options)

    async def _delete(self, options: argparse.Namespace) -> None:
        await self._directory.delete_user(_actor(), options.user_id)
        say(as_json({"deleted": options.user_id}) if options.json else f"deleted {options.user_id}")


def _parsers(
    name: str, description: str
) -> tuple[argparse.ArgumentParser, Callable[[str, str, Callable[[Any], Awaitable[None]]], argparse.ArgumentParser]]:
    """The parser of `gatehook NAME`, and a function that adds a subcommand: its word, its help, and what runs it."""
    parser = argparse.ArgumentParser(prog=f"gatehook {name}", description=description, allow_abbrev=False)
    words = parser.add_subparsers(required=True)

    def add(word: str, help_: str, run: Callable[[Any], Awaitable[None]]) -> argparse.ArgumentParser:
        one = words.add_parser(word, help=help_, description=help_.capitalize() + ".", allow_abbrev=False)
        one.add_argument("--json", action="store_true", help="print JSON")
        one.set_defaults(run=run)
        return one

    return parser, add


def _add_fields(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--name", help="for people to read")
    parser.add_argument("--admin", action=argparse.BooleanOptionalAction, help="may change the gateway, with any key")
    parser.add_argument("--models", type=_names, metavar="A,B", help='models it may use; "none" lifts the restriction')
    for option, name in _LIMITS.items():
        parser.add_argument(
            f"--{option}", type=_count, metavar="N", help=f'{name.replace("_", " ")}; "none" for no limit'
        )
    for name in _TOKENS:
        parser.add_argument(_option(name), type=_count, metavar="N", help='at most so many tokens; "none" for no cap')
    for name in _MONEY:
        parser.add_argument(
            _option(name), type=_dollars, metavar="USD", help='at most so many dollars; "none" for no cap'
        )


def _changes(options: argparse.Namespace) -> dict[str, Any]:
    """The fields of a user that the options name; "none" becomes None."""
    given = {name: None if value == _NONE else value for name, value in vars(options).items() if value is not None}
    changes: dict[str, Any] = {name: given[name] for name in ("name", "admin", "models") if name in given}
    if limits := {name: given[option] for option, name in _LIMITS.items() if option in given}:
        changes["limits"] = limits
    if caps := {name: given[name] for name in (*_TOKENS, *_MONEY) if name in given}:
        changes["caps"] = caps
    return changes


def _option(name: str) -> str:
    return "--" + name.replace("_", "-")


def _names(text: str) -> frozenset[str] | str:
    if text == _NONE:
        return text
    return frozenset(name for part in text.split(",") if (name := part.strip()))


def _count(text: str) -> int | str:
    if text == _NONE:
        return text
    if not (text.isascii() and text.isdigit()):
        raise argparse.ArgumentTypeError('expected a whole number, or "none"')
    return int(text)


def _dollars(text: str) -> int | str:
    if text == _NONE:
        return text
    try:
        amount = nano(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from None
    if amount < 0:
        raise argparse.ArgumentTypeError('expected 0 dollars or more, or "none"')
    return amount


def _duration(text: str) -> int:
    try:
        return seconds(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from None


def _show_new(key: Key, text: str, options: argparse.Namespace) -> None:
    if options.json:
        say(as_json({"key": text, **msgspec.structs.asdict(key)}))
        return
    say(text)
    note(f"That is {key.id} of user {key.user_id}{', an admin key' if key.admin else ''}. It is not shown again.")


def _show_user(user: User, options: argparse.Namespace) -> None:
    say(as_json(user) if options.json else user_lines(user))


async def _all(page: Callable[[str], Awaitable[Sequence[T]]]) -> list[T]:
    found: list[T] = []
    while True:
        some = await page(found[-1].id if found else "")
        found += some
        if len(some) < _PAGE:
            return found


def _actor() -> str:
    try:
        return f"cli:{getpass.getuser()}"
    except (KeyError, OSError, ImportError):  # a user without a name, as in a container
        return "cli"
