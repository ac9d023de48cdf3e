"""Each distribution of contrib/ works where only wheels are installed, as a stranger would install them."""

import ast
import json
import sys
import tomllib
import zipfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest

import gatehook

ROOT = Path(__file__).parents[2]
NAMES = sorted(path.parent.name for path in (ROOT / "contrib").glob("*/pyproject.toml"))
ON_A_SUITE = [name for name in NAMES if (ROOT / "contrib" / name / "tests" / "test_conformance.py").exists()]
KINDS = ("| vendor |", "| transform |", "| observer |")
PUBLIC = {"gatehook", "gatehook.legacy", "gatehook.sse"}
MODULES = {"opentelemetry": ("opentelemetry-sdk", "opentelemetry-exporter-otlp-proto-http")}
"""Which distributions a module is from, where they are not named alike."""

# The first test that wants the environment waits until everything is built and installed.
pytestmark = pytest.mark.timeout(300)


def project(name: str) -> dict[str, Any]:
    return tomllib.loads((ROOT / "contrib" / name / "pyproject.toml").read_text("utf-8"))


def imports(folder: Path) -> set[tuple[str, str]]:
    found = set()
    for file in folder.rglob("*.py"):
        for node in ast.walk(ast.parse(file.read_text("utf-8"))):
            if isinstance(node, ast.Import):
                found |= {(alias.name, "") for alias in node.names}
            elif isinstance(node, ast.ImportFrom):
                found |= {(node.module or "", alias.name) for alias in node.names}
    return found


@pytest.mark.parametrize("name", NAMES)
def test_a_distribution_imports_the_public_api_and_what_it_declares(name: str) -> None:
    given = project(name)["project"]
    declared = {word.split(">")[0].split("[")[0] for word in given["dependencies"]}
    for module, taken in imports(ROOT / "contrib" / name / "src"):
        top = module.split(".")[0]
        if top == "gatehook":
            assert module in PUBLIC, module
            assert module != "gatehook" or taken in gatehook.__all__, taken
        elif top != f"gatehook_{name}" and top not in sys.stdlib_module_names:
            assert declared.issuperset(MODULES.get(top, (top,))), f"{module} is of no declared dependency"


@pytest.mark.parametrize("name", NAMES)
def test_a_wheel_holds_its_package_its_types_and_nothing_else(name: str, wheels: Sequence[Path]) -> None:
    (wheel,) = (one for one in wheels if one.name.startswith(f"gatehook_{name}-"))
    with zipfile.ZipFile(wheel) as archive:
        names = archive.namelist()
    assert f"gatehook_{name}/py.typed" in names
    assert {one.split("/")[0].split("-")[0] for one in names} == {f"gatehook_{name}"}


def test_entry_points_are_found_and_the_settings_of_the_readmes_are_right(
    clean: Path, run: Callable[..., str], tmp_path: Path
) -> None:
    books = [(ROOT / "contrib" / name / "README.md").read_text("utf-8") for name in NAMES]
    tables = [book.split("```toml\n")[1].split("```")[0] for book in books]
    file = tmp_path / "settings.toml"
    file.write_text("\n".join(["[plugins.openai_api]\n[plugins.route_models]", *tables]))
    told = json.loads(run(clean, "-m", "gatehook", "plugins", "--json", "--config", file, cwd=tmp_path))
    assert set(NAMES) <= {one["name"] for one in told if one["enabled"]}


def test_what_is_tested_are_the_wheels(clean: Path, run: Callable[..., str], tmp_path: Path) -> None:
    modules = ["gatehook", *(f"gatehook_{name}" for name in NAMES)]
    script = f"import json, {', '.join(modules)}; print(json.dumps([{'.__file__, '.join(modules)}.__file__]))"
    for file in json.loads(run(clean, "-c", script, cwd=tmp_path)):
        assert str(ROOT) not in file, "this is the tree's"


@pytest.mark.parametrize("name", NAMES)
def test_its_own_tests_pass_there(name: str, tested: tuple[str, str]) -> None:
    said, _ = tested
    assert f"\ncontrib/{name}/tests/" in said
    assert project(name)["tool"]["pytest"] == project(NAMES[0])["tool"]["pytest"], "they ran with the other's options"


@pytest.mark.parametrize("name", ON_A_SUITE)
def test_its_readme_shows_its_report(name: str, tested: tuple[str, str]) -> None:
    _, report = tested
    book = (ROOT / "contrib" / name / "README.md").read_text("utf-8")
    shown, found = column(book, name), column(report, name)
    assert shown == found
    assert "FAILED" not in found.values()


def column(text: str, title: str) -> dict[str, str]:
    """A plugin's column in the report that is part of the text, by capability."""
    (head,) = (line for line in text.splitlines() if f"| {title} |" in line and line.startswith(KINDS))
    lines = text[text.index(head) :].partition("\n\n")[0].splitlines()
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]
    place = rows[0].index(title)
    return {row[0]: row[place] for row in rows[2:]}
