"""Each module imports alone, `import gatehook` stays light, and nobody imports what is not theirs."""

import ast
import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from functools import cache
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest

import gatehook
from gatehook import api

ROOT = Path(__file__).parents[2]
CORE = ROOT / "core" / "gatehook"
PLUGINS = ROOT / "plugins" / "gatehook_plugins"
FILES = sorted([*CORE.rglob("*.py"), *PLUGINS.rglob("*.py")])
PACKAGES = sorted(path.name for path in PLUGINS.iterdir() if (path / "__init__.py").is_file())


def module_of(file: Path) -> str:
    """The dotted name of a file in core/ or plugins/."""
    parts = file.relative_to(ROOT).with_suffix("").parts[1:]
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


MODULES = [module_of(file) for file in FILES]


@cache
def tree(file: Path) -> ast.Module:
    return ast.parse(file.read_text("utf-8"), str(file))


def imports(file: Path) -> Iterator[tuple[str, str]]:
    """Everything a file imports, at any depth: the module, and the name taken from it ("" for the module itself)."""
    for node in ast.walk(tree(file)):
        if isinstance(node, ast.Import):
            yield from ((alias.name, "") for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{file}:{node.lineno}: imports are written in full"
            yield from ((node.module or "", alias.name) for alias in node.names)


def within(module: str, package: str) -> bool:
    return module == package or module.startswith(package + ".")


# Other people's packages are loaded once, and for plugins what they may import; the rest by a fork for each module, and
# compiled once: a fresh start without its price.
ALONE = """
import os, sys, traceback
import aiohttp.web, dynaconf, hypothesis.stateful, msgspec, pluggy, prometheus_client, pydantic_settings, pytest
import alembic.script, alembic.runtime.environment, cachetools, cryptography.fernet, jsonschema, jwt, packaging.version
import sqlalchemy.ext.asyncio
assert not [name for name in sys.modules if name.startswith("gatehook")]
sys.dont_write_bytecode, sys.pycache_prefix = False, sys.argv[1]
import gatehook
failed = 0
for module in sys.argv[2:]:
    if module.startswith("gatehook_plugins"):
        import gatehook.api
    child = os.fork()
    if not child:
        try:
            __import__(module)
        except BaseException:
            print(module, traceback.format_exc())
            sys.stdout.flush()
            os._exit(1)
        os._exit(0)
    failed += os.waitpid(child, 0)[1] != 0
sys.exit(failed != 0)
"""


@pytest.mark.timeout(300)  # hundreds of processes: what machines do at the same time shows here first
def test_every_module_imports_alone_without_a_warning(tmp_path: Path) -> None:
    words = [sys.executable, "-W", "error", "-c", ALONE, str(tmp_path), *MODULES]
    done = subprocess.run(words, check=False, capture_output=True, text=True)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    assert len(MODULES) > 40


def loaded_by(script: str) -> set[str]:
    """All modules that a fresh Python has loaded after this."""
    script += "\nimport json, sys; print(json.dumps(list(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", script], check=True, capture_output=True, text=True)
    return set(json.loads(done.stdout))


def test_importing_the_package_alone_loads_nothing() -> None:
    loaded = loaded_by("import gatehook")
    assert {name for name in loaded if within(name, "gatehook")} == {"gatehook"}
    assert loaded - loaded_by("import typing") == {"gatehook"}


def test_loading_the_api_loads_no_heavy_module_and_no_plugin() -> None:
    loaded = {name.split(".")[0] for name in loaded_by("from gatehook import *; hookimpl, Section")}
    assert {"aiohttp", "gatehook", "pydantic_settings"} <= loaded
    heavy = {
        "dynaconf",
        "anthropic", "asyncpg", "flask", "gatehook_plugins", "hypothesis", "jsonschema", "numpy", "openai",
        "prometheus_client", "pytest", "redis", "requests", "sqlalchemy", "unittest", "uvloop",
    }  # fmt: skip
    assert sorted(heavy & loaded) == []


def test_flask_is_not_loaded_with_the_settings_and_can_be_imported_afterwards() -> None:
    assert not {"flask", "jinja2", "werkzeug", "dynaconf.vendor.click"} & loaded_by("import gatehook.config.stack")
    assert "flask" in loaded_by("import gatehook.config.stack, flask")
    assert "flask" in loaded_by("import flask, gatehook.config.stack; assert flask.Flask")


def test_sqlalchemy_s_engines_are_loaded_without_its_orm_which_can_be_imported_afterwards() -> None:
    ours = "gatehook_plugins.database.engines"
    loaded = loaded_by(f"import {ours}")
    assert {"sqlalchemy", "sqlalchemy.ext.asyncio.engine"} <= loaded
    assert not {"sqlalchemy.orm", "sqlalchemy.ext.asyncio"} & loaded
    same = f"assert AsyncEngine is sys.modules['{ours}'].AsyncEngine"
    theirs = "from sqlalchemy.ext.asyncio import AsyncEngine, AsyncSession"
    for script in (f"import sys, {ours}; {theirs}; {same}", f"import sys; {theirs}; import {ours}; {same}"):
        assert "sqlalchemy.orm" in loaded_by(script)


STARTED = """
import asyncio, json, sys
from pathlib import Path
from gatehook.app import Gateway
from gatehook.config.settings import load

async def start():
    async with Gateway(load(Path(sys.argv[1]))).lifespan():
        pass

asyncio.run(start())
print(json.dumps(sorted(sys.modules)))
"""


def loaded_by_a_start(settings: Path) -> set[str]:
    """All modules that are there when a gateway serves; its database has been made by an earlier start."""
    env = {name: value for name, value in os.environ.items() if not name.startswith("GATEHOOK_")}
    for _ in range(2):
        done = subprocess.run(
            [sys.executable, "-c", STARTED, str(settings)], check=True, capture_output=True, text=True, env=env
        )
    return set(json.loads(done.stdout))


UNNEEDED = {
    "alembic", "boto3", "cryptography", "difflib", "flask", "jinja2", "jsonschema", "jwt", "llama_cpp", "mcp", "numpy",
    "prometheus_client", "redis", "referencing", "sqlalchemy.dialects.postgresql", "sqlalchemy.ext.asyncio.session",
    "sqlalchemy.orm", "dynaconf.vendor.click",
    "gatehook_plugins.database.commands", "gatehook_plugins.database.postgresql", "gatehook_plugins.ledger.command",
    "gatehook_plugins.vendor_comfyui.command",
}  # fmt: skip


def test_a_start_as_shipped_loads_no_library_of_what_is_off_or_not_asked_for(tmp_path: Path) -> None:
    (tmp_path / "settings.toml").write_text((ROOT / "settings.toml").read_text("utf-8"))
    loaded = loaded_by_a_start(tmp_path / "settings.toml")
    assert {"gatehook_plugins.metrics", "gatehook_plugins.vendor_openai"} <= loaded
    off = {"asyncpg", "cachetools", "greenlet", "sqlalchemy", "sqlite3", "gatehook_plugins.database"}
    assert sorted((UNNEEDED | off) & loaded) == []


def test_a_start_with_all_plugins_loads_what_it_needs_and_no_more(tmp_path: Path) -> None:
    on = re.sub(r"^enabled = false", "enabled = true", (ROOT / "settings.toml").read_text("utf-8"), flags=re.MULTILINE)
    (tmp_path / "settings.toml").write_text(on)
    (tmp_path / "settings.local.toml").write_text(
        f'[plugins.auth_keys]\nkeys = ["sk-{"k" * 32}"]\n'
        f'[plugins.auth_jwt]\nsecret = "{"s" * 40}"\n'
        "[plugins.vendor_gguf]\nenabled = false\n"
    )
    loaded = loaded_by_a_start(tmp_path / "settings.toml")
    assert {"sqlalchemy", "gatehook_plugins.jobs", "gatehook_plugins.ledger"} <= loaded
    assert sorted(UNNEEDED & loaded) == []


@pytest.mark.parametrize("words", [["--help"], ["serve", "--help"], ["plugins", "--help"]])
def test_the_program_loads_no_server_where_none_is_needed(words: list[str]) -> None:
    loaded = loaded_by(
        "import contextlib, io\n"
        "from gatehook.commands.cli import main\n"
        "with contextlib.suppress(SystemExit), contextlib.redirect_stdout(io.StringIO()):\n"
        f"    main({words!r})"
    )
    heavy = {"aiohttp", "asyncio", "msgspec", "pluggy", "pydantic", "uvloop"}
    assert sorted(heavy & loaded) == []


# --- layers --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("file", sorted(CORE.rglob("*.py")), ids=module_of)
def test_the_kernel_imports_no_plugin(file: Path) -> None:
    assert [module for module, _ in imports(file) if within(module, "gatehook_plugins")] == []


PUBLIC = {
    "gatehook",
    "gatehook.chats",
    "gatehook.legacy",
    "gatehook.redis_line",
    "gatehook.sse",
    "gatehook.tool_schema",
}
"""What a plugin may import of the kernel; PLUGINS.md names the same."""


@pytest.mark.parametrize("file", sorted(PLUGINS.rglob("*.py")), ids=module_of)
def test_a_plugin_imports_the_public_kernel_and_its_own_package_only(file: Path) -> None:
    own = ".".join(module_of(file).split(".")[:2])
    for module, name in imports(file):
        if within(module, "gatehook"):
            assert module in PUBLIC or (module, name) == ("gatehook.app", "Gateway"), (module, name)
            assert module != "gatehook" or name in gatehook.__all__, (module, name)
        elif within(module, "gatehook_plugins"):
            assert own != "gatehook_plugins"
            assert within(module, own), f"{module} is another plugin's"


def test_only_the_settings_know_dynaconf() -> None:
    knowing = {file.name for file in FILES for module, _ in imports(file) if within(module, "dynaconf")}
    assert knowing == {"stack.py"}


ROOMS = ["services", "config", "loader", "dialect", "tools", "upstream", "calls", "app", "serving", "commands"]
"""The kernel's rooms and the gateway itself, from the ground up."""


@pytest.mark.parametrize("room", ROOMS)
def test_a_room_of_the_kernel_knows_only_those_below_it(room: str) -> None:
    above = [f"gatehook.{name}" for name in ROOMS[ROOMS.index(room) + 1 :]]
    files = [file for file in FILES if within(module_of(file), f"gatehook.{room}")]
    found = [(file.name, module) for file in files for module, _ in imports(file)]
    assert [(file, module) for file, module in found if any(within(module, other) for other in above)] == []
    assert files


def test_only_the_egress_knows_an_http_client() -> None:
    server_side = {"HttpVersion11", "compression_utils", "hdrs", "http_exceptions", "web"}
    others = ("requests", "httpx", "urllib3", "urllib.request", "http.client", "aiohttp.client", "aiohttp.connector")
    for file in FILES:
        for module, name in imports(file):
            # The terminal, and the tests that authors of plugins run, are clients of ours.
            if file.name != "terminal.py" and not {CORE / "testing", CORE / "upstream"} & {*file.parents}:
                assert module != "aiohttp" or name in server_side, f"{file}: {module}.{name}"
                assert not any(within(module, other) for other in others), f"{file}: {module}"
                assert module != "gatehook.upstream.direct", f"{file}: only the egress may go there"


def test_the_two_roots_are_no_packages_and_nobody_imports_them() -> None:
    assert [name for name in ("core", "plugins") if (ROOT / name / "__init__.py").exists()] == []
    for file in [*FILES, *(ROOT / "tests").rglob("*.py"), *(ROOT / "contrib").rglob("*.py")]:
        roots = {module.split(".")[0] for module, _ in imports(file)}
        assert not roots & {"core", "plugins"}, file
        assert "tests" not in roots or file not in FILES, file


# --- what modules promise ------------------------------------------------------------------------------------------


def test_the_api_s_promise_is_a_sorted_tuple_of_all_it_exports() -> None:
    promise = gatehook.__all__
    assert isinstance(promise, tuple)
    assert list(promise) == sorted(set(promise), key=lambda name: (not name.isupper(), not name[0].isupper(), name))
    exported = {
        name
        for name, value in vars(api).items()
        if not name.startswith("_") and not isinstance(value, type(sys)) and name != "annotations"
    }
    assert exported == set(promise)
    assert set(promise) <= set(dir(gatehook))
    assert all(getattr(gatehook, name) is getattr(api, name) for name in promise)


def test_a_promised_name_is_no_module_s_too() -> None:
    # Which of both it meant would depend on what has been loaded before.
    assert sorted({f"gatehook.{name}" for name in gatehook.__all__} & set(MODULES)) == []


def test_a_module_can_be_had_from_the_package_before_the_api_and_what_is_not_there_cannot() -> None:
    assert "gatehook.api" not in loaded_by(
        "from gatehook import counting; import gatehook; gatehook.errors.StartupError"
    )
    assert "gatehook.api" not in loaded_by("import gatehook; assert not hasattr(gatehook, '__wrapped__')")
    with pytest.raises(ImportError, match="cannot import name 'Nothing' from 'gatehook'"):
        exec("from gatehook import Nothing")
    with pytest.raises(AttributeError, match="module 'gatehook' has no attribute 'Nothing'"):
        getattr(gatehook, "Nothing")  # noqa: B009


@pytest.mark.parametrize("module", [name for name in MODULES if name != "gatehook.__main__"])
def test_every_name_that_a_module_promises_is_there(module: str) -> None:
    loaded: Any = import_module(module)
    promise = getattr(loaded, "__all__", ())
    assert len(promise) == len(set(promise))
    assert [name for name in promise if not hasattr(loaded, name)] == []
    assert loaded.__doc__, "a module says in its first line what it is for"


def test_every_module_with_public_names_promises_them() -> None:
    for file in FILES:
        defined = {
            node.name
            for node in tree(file).body
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef) and not node.name.startswith("_")
        }
        if defined and file.name != "__main__.py" and "migrations" not in file.parts:  # alembic's own form
            assert hasattr(import_module(module_of(file)), "__all__"), file


def test_every_plugin_package_is_an_installed_plugin() -> None:
    from gatehook.loader.loading import installed

    assert sorted(entry.value.split(":")[0] for entry in installed().values() if "gatehook_plugins" in entry.value) == [
        f"gatehook_plugins.{package}" for package in PACKAGES
    ]
