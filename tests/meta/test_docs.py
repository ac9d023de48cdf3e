"""PLUGINS.md and the code agree, both ways: hooks, errors, plugins, the API's names; and the examples run."""

import ast
import contextlib
import inspect
import re
import textwrap
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from aiohttp import ClientSession

import gatehook
from gatehook import api, errors, hookspecs, protocols
from gatehook.commands.scaffold import KINDS, rendered
from gatehook.config.sections import Section
from gatehook.config.settings import load
from gatehook.loader.loading import hook_names, installed, settings_classes
from gatehook.testing import Reply, StubUpstream, built, serving
from gatehook.testing.conformance.suite import checks

ROOT = Path(__file__).parents[2]
KERNEL = ROOT / "core" / "gatehook"
MAP = (KERNEL / "README.md").read_text("utf-8")
BOOK = (ROOT / "PLUGINS.md").read_text("utf-8")
BLOCK = re.compile(r"^```(?P<kind>[^\n]*)\n(?P<text>.*?)^```$", re.DOTALL | re.MULTILINE)


def blocks(name: str, kind: str) -> dict[str, str]:
    """The code blocks of one kind in a document of the root, by file and line."""
    text = (ROOT / name).read_text("utf-8")
    return {
        f"{name}:{text[: match.start()].count(chr(10)) + 1}": match["text"]
        for match in BLOCK.finditer(text)
        if match["kind"] == kind
    }


def table(heading: str) -> list[list[str]]:
    """The rows of the first table after a heading of PLUGINS.md."""
    rows = re.findall(r"^\|(.*)\|$", BOOK.partition(f"\n## {heading}\n")[2].partition("\n## ")[0], re.MULTILINE)
    return [[cell.strip() for cell in row.split("|")] for row in rows[2:]]


# --- hooks ---------------------------------------------------------------------------------------------------------


def test_every_hook_is_documented_under_its_exact_signature_in_order_and_there_is_no_ghost() -> None:
    specs = [f"{name}{inspect.signature(getattr(hookspecs, name))}".replace("'", "") for name in hook_names()]
    assert re.findall(r"^### `(.*)`$", BOOK, re.MULTILINE) == specs


def test_no_other_word_of_the_book_looks_like_a_hook() -> None:
    assert set(re.findall(r"register_\w+", BOOK)) == set(hook_names())


@pytest.mark.parametrize("hook", hook_names())
def test_every_hook_is_described_in_its_spec(hook: str) -> None:
    words = inspect.getdoc(getattr(hookspecs, hook)) or ""
    assert words.endswith(".")
    assert "\n" not in words


def test_every_hook_is_tested_under_its_name() -> None:
    tests = {
        node.name
        for file in (ROOT / "tests").rglob("test_*.py")
        for node in ast.walk(ast.parse(file.read_text("utf-8")))
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and node.name.startswith("test_hook_")
    }
    assert [hook for hook in hook_names() if not any(name.startswith(f"test_hook_{hook}_") for name in tests)] == []
    known = tuple(f"test_hook_{hook}_" for hook in hook_names())
    assert [name for name in tests if not name.startswith(known)] == []


# --- the API -------------------------------------------------------------------------------------------------------


def test_every_name_that_a_hook_s_objects_are_made_of_is_in_the_book() -> None:
    words = set(re.findall(r"\w+", BOOK))
    told = {name for name, value in vars(api).items() if inspect.isclass(value) and name in gatehook.__all__}
    # Met only as the values or parts of what is explained.
    details = {"Blob", "Conversation", "Fetched", "MalformedJSON", "Part", "Services", "Turn"}
    assert sorted(told - words) == sorted(details & (told - words))


def test_every_method_of_every_protocol_is_in_the_book() -> None:
    for protocol in (
        "Authenticator",
        "Cache",
        "Limiter",
        "Observer",
        "Permit",
        "Router",
        "Surface",
        "ToolPolicy",
        "Vendor",
    ):
        for name in vars(getattr(gatehook, protocol)):
            if not name.startswith("_"):
                assert re.search(rf"`(async )?{name}\b", BOOK), f"{protocol}.{name}"


def signatures() -> Iterator[str]:
    """The async methods of the protocols as the book writes them, and a vendor's stream."""
    for node in ast.parse(Path(protocols.__file__).read_text("utf-8")).body:
        for method in getattr(node, "body", []):
            if isinstance(method, ast.AsyncFunctionDef) or getattr(method, "name", "") == "stream":
                method.args.args = [one for one in method.args.args if one.arg != "self"]
                result = ast.unparse(method.returns) if method.returns else ""
                given = f"{method.name}({ast.unparse(method.args)})" + (f" -> {result}" if result != "None" else "")
                yield given if method.name == "stream" else f"async {given}"


@pytest.mark.parametrize("signature", list(signatures()))
def test_a_protocol_s_method_is_written_as_it_is(signature: str) -> None:
    assert f"`{signature}`" in " ".join(BOOK.split())


def test_the_table_of_errors_is_true_and_complete() -> None:
    rows = {row[0].strip("`"): [cell.strip("`") for cell in row[1:]] for row in table("Errors")}
    classes = {
        name: cls for name, cls in vars(api).items() if inspect.isclass(cls) and issubclass(cls, errors.GatewayError)
    }
    assert rows == {name: [str(cls.status), cls.type, cls.code or "", cls.retry.value] for name, cls in classes.items()}


def test_the_table_of_services_is_true_and_complete() -> None:
    section = BOOK.partition("### `register_services(")[2].partition("\n### ")[0]
    rows = [
        [cell.strip("` ") for cell in row.split("|")[:3]] for row in re.findall(r"^\|(.*)\|$", section, re.MULTILINE)
    ]
    told = {key: (interface, plugin) for key, interface, plugin in rows[2:]}
    keys = {name: value for name, value in vars(api).items() if isinstance(value, gatehook.ServiceKey)}
    assert {key: plugin for key, (_, plugin) in told.items()} == {name: key.provider for name, key in keys.items()}
    assert [name for name, _ in told.values() if not inspect.isclass(getattr(gatehook, name))] == []


OURS = {name: entry for name, entry in installed().items() if entry.dist is not None and entry.dist.name == "gatehook"}


def test_the_table_of_plugins_has_a_row_for_each_in_order() -> None:
    assert [row[0].strip("`") for row in table("The plugins that are shipped")] == sorted(OURS)


@pytest.mark.parametrize("name", OURS)
def test_a_plugin_s_row_names_its_hooks_and_its_settings(name: str) -> None:
    cls = OURS[name].load()
    hooks = sorted(hook.removeprefix("register_") for hook in hook_names() if hasattr(cls, hook))
    keys = [f"`{key}`" for key in cls.Settings.model_fields if key not in Section.model_fields]
    (told,) = [row[1:] for row in table("The plugins that are shipped") if row[0] == f"`{name}`"] or [["", "…", ""]]
    row = f"| `{name}` | {', '.join(hooks)} | {told[1]} | {', '.join(keys)}{' ' if keys else ''}|"
    assert row in BOOK.splitlines(), f"write this row into the table:\n{row}"


def test_the_book_names_the_modules_that_plugins_may_import() -> None:
    (sentence,) = re.findall(r"What a plugin may import:(.*?)\. That is the API", BOOK, re.DOTALL)
    assert re.findall(r"`(gatehook[\w.]*)`", sentence) == [
        "gatehook.__all__",
        "gatehook.sse",
        "gatehook.chats",
        "gatehook.legacy",
        "gatehook.redis_line",
        "gatehook.tool_schema",
        "gatehook.testing",
    ]


def mapped() -> Iterator[str]:
    """The files and folders that the kernel's map names; a room's heading says whose they are."""
    for heading, rows in re.findall(r"^## (.*?)\n(.*?)(?=^## |\Z)", MAP, re.MULTILINE | re.DOTALL):
        room = "".join(re.findall(r"^`(\w+/)`: ", heading))
        for cell in re.findall(r"^\| (`.*?) \| \S", rows, re.MULTILINE):
            yield from (room + name for name in re.findall(r"`([^`]+)`", cell))


def test_the_map_of_the_kernel_names_every_file_once() -> None:
    apart = ("testing", "templates")  # folders that are named as one
    there = [path.relative_to(KERNEL) for path in KERNEL.rglob("*.py") if not set(path.parts) & set(apart)]
    rooms = [path for path in there if path.name != "__init__.py" or len(path.parts) == 1]
    assert sorted(mapped()) == sorted([*map(str, rooms), "commands/templates/", "testing/"])


# --- examples ------------------------------------------------------------------------------------------------------

EXAMPLES = blocks("PLUGINS.md", "python example")


def run(place: str) -> dict[str, Any]:
    """Execute one example; what it defined."""
    names: dict[str, Any] = {"__name__": "example"}
    line = int(place.rpartition(":")[2])
    exec(compile("\n" * line + EXAMPLES[place], str(ROOT / "PLUGINS.md"), "exec"), names)
    return names


def plugins_in(names: dict[str, Any]) -> dict[str, type]:
    """The plugin classes of an example, by the names their settings would use."""
    return {
        re.sub(r"(?<!^)(?=[A-Z])", "_", name).lower(): value
        for name, value in names.items()
        if inspect.isclass(value) and value.__module__ == "example" and hasattr(value, "Settings")
    }


def test_there_are_examples_and_every_python_block_of_the_book_is_one() -> None:
    assert len(EXAMPLES) >= 5
    assert blocks("PLUGINS.md", "python") == {}


@pytest.mark.parametrize("place", EXAMPLES)
async def test_an_example_of_the_book_runs(place: str) -> None:
    names = run(place)
    plugins = plugins_in(names)
    tests = [value for name, value in names.items() if name.startswith("test_")]
    suites = [value for name, value in names.items() if name.startswith("Test")]
    assert plugins or tests or suites
    if plugins:
        text = "".join(f"[plugins.{name}]\n" for name in plugins)
        async with serving(text, plugins=plugins) as served:
            assert set(served.gateway.plugins.names) == set(plugins)
            served.gateway.plugins.collect("register_commands", gateway=served.gateway)
    for test in tests:
        await test()
    for suite in suites:
        suite.plugin_class = plugins_in(run(next(iter(EXAMPLES)))).get(suite.plugin)
        for method in checks(suite):
            with contextlib.suppress(pytest.skip.Exception):
                await getattr(suite(), method)()


@pytest.fixture
def acme() -> type:
    """The vendor of the first chapter."""
    return plugins_in(run(next(iter(EXAMPLES))))["acme"]


CHAT = {"model": "acme-large", "messages": [{"role": "user", "content": "hi"}], "seed": 7}


def test_the_five_minute_vendor_is_what_the_program_writes_and_short() -> None:
    source = next(iter(EXAMPLES.values()))
    assert source == rendered("vendor", "acme")["src/gatehook_acme/__init__.py"]
    assert len([line for line in source.splitlines() if line.strip()]) < 60


async def test_the_five_minute_vendor_does_all_that_the_chapter_says(acme: type) -> None:
    settings = f"{KINDS['vendor'].settings}\n"
    assert settings in blocks("PLUGINS.md", "toml").values()
    events = b'data: {"text": "Hel"}\n\ndata: {"text": "lo"}\n\ndata: {"in": 3, "out": 2}\n\n'
    async with StubUpstream(Reply.of_json({"text": "Hello", "in": 3, "out": 2})) as stub:
        settings = settings.replace("https://api.acme.example", stub.url).replace("env:ACME_KEY", "acme-key-1")
        more = "\n[plugins.openai_api]\n[plugins.route_models]\n"
        async with serving(settings + more, plugins={"acme": acme}) as served, ClientSession() as session:
            url = f"{served.url}/v1/chat/completions"
            async with session.post(url, json=CHAT) as answer:
                plain = await answer.json()
                assert answer.headers["X-Gatehook-Dropped-Params"] == "seed"
            stub.script(Reply.of_events(events))
            async with session.post(url, json=CHAT | {"stream": True}) as answer:
                streamed = await answer.text()
            stub.script(Reply(b"acme-key-1 is wrong", status=401))
            async with session.post(url, json=CHAT) as answer:
                refused = await answer.json()
                assert answer.status == 502
    assert plain["choices"][0]["message"]["content"] == "Hello"
    assert (plain["model"], plain["usage"]["total_tokens"]) == ("acme-large", 5)
    assert streamed.count("data: ") == 4
    assert streamed.endswith("data: [DONE]\n\n")
    assert refused["error"]["message"] == "acme: [redacted] is wrong"
    first = stub.requests[0]
    assert (first.path, first.headers["x-key"]) == ("/generate", "acme-key-1")
    assert first.json == {"model": "large-2", "prompt": "user: hi", "live": False, "limit": None}


def test_the_five_minute_vendor_is_registered_under_its_name(acme: type) -> None:
    gateway = built("[plugins.acme]", plugins={"acme": acme})
    assert isinstance(gateway.vendors["acme"], gatehook.Vendor)


def test_its_entry_point_is_the_class_of_the_example(acme: type) -> None:
    (text,) = blocks("PLUGINS.md", "toml pyproject").values()
    told = tomllib.loads(text)["project"]
    assert told["entry-points"]["gatehook"] == {"acme": f"gatehook_acme:{acme.__name__}"}
    written = tomllib.loads(rendered("vendor", "acme")["pyproject.toml"])["project"]
    assert told == {key: written[key] for key in told}


def test_the_kinds_that_the_chapter_names_are_those_there_are() -> None:
    (others,) = re.findall(r"^gatehook new-plugin vendor acme  # or: (.*)$", BOOK, re.MULTILINE)
    assert ["vendor", *others.split(", ")] == list(KINDS)


# --- other blocks --------------------------------------------------------------------------------------------------

DOCUMENTS = ["README.md", "PLUGINS.md", "CHANGELOG.md"]
SETTINGS = {place: text for name in DOCUMENTS for place, text in blocks(name, "toml").items()}


@pytest.mark.parametrize("place", SETTINGS)
def test_a_settings_block_of_the_documents_loads(place: str, tmp_path: Path) -> None:
    file = tmp_path / "settings.toml"
    file.write_text(SETTINGS[place], "utf-8")
    referred = re.findall(r"env:(\w+)", SETTINGS[place])
    settings = load(file, environ={name: f"a-made-up-key-for-{name}" for name in referred})
    classes = settings_classes(installed())
    for name in settings.plugin_names():
        if name in classes:
            settings.plugin_section(name, classes[name])
        else:
            assert name == "acme", f"{place}: there is no plugin {name!r}"


def commands() -> Iterator[tuple[str, str]]:
    """The `gatehook …` commands that the documents tell people to type."""
    for name in DOCUMENTS:
        text = (ROOT / name).read_text("utf-8")
        for words in re.findall(r"`gatehook ([a-z][\w-]*)", text):
            yield name, words


def test_every_command_that_the_documents_name_is_there() -> None:
    from gatehook.commands.cli import _COMMANDS

    gateway = built("[plugins.database]\n[plugins.ledger]\n[plugins.vendor_comfyui]\n")
    added = {command.name for _, command in gateway.plugins.collect("register_commands", gateway=gateway)}
    assert sorted({words for _, words in commands()} - set(_COMMANDS) - added) == []
    assert {words for _, words in commands()}


@pytest.mark.parametrize("name", DOCUMENTS)
def test_python_blocks_of_the_documents_are_python(name: str) -> None:
    for place, text in (blocks(name, "python") | blocks(name, "python example")).items():
        compile(textwrap.dedent(text), place, "exec", flags=ast.PyCF_ALLOW_TOP_LEVEL_AWAIT)


@pytest.mark.parametrize("name", DOCUMENTS)
def test_links_within_the_tree_lead_somewhere(name: str) -> None:
    text = BLOCK.sub("", (ROOT / name).read_text("utf-8"))
    headings = re.findall(r"^#+ (.*)$", text, re.MULTILINE)
    anchors = {re.sub(r"[^\w -]", "", heading).strip().lower().replace(" ", "-") for heading in headings}
    assert sorted(set(re.findall(r"\]\(#([^)]+)\)", text)) - anchors) == []
    for goal in re.findall(r"\]\((?!https?:|#|mailto:)([^)#\s]+)", text):
        assert (ROOT / goal).exists(), goal
