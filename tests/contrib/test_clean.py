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
VENDORS = [name for name in NAMES if (ROOT / "contrib" / name / "tests" / "test_conformance.py").exists()]
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


@pytest.mark.parametrize("name", NAMES)
def test_its_entry_point_is_found_and_the_settings_of_its_readme_are_right(
    name: str, clean: Path, run: Callable[..., str], tmp_path: Path
) -> None:
    book = (ROOT / "contrib" / name / "README.md").read_text("utf-8")
    settings = book.split("```toml\n")[1].split("```")[0]
    (tmp_path / "settings.toml").write_text(f"[plugins.openai_api]\n[plugins.route_models]\n{settings}")
    said = run(clean, "-m", "gatehook", "plugins", "--config", tmp_path / "settings.toml", cwd=tmp_path)
    assert name in said
    script = "import gatehook, gatehook_NAME, json; print(json.dumps([gatehook.__file__, gatehook_NAME.__file__]))"
    for file in json.loads(run(clean, "-c", script.replace("NAME", name), cwd=tmp_path)):
        assert str(ROOT) not in file, "the wheel, not the tree, is what is tested"


@pytest.mark.parametrize("name", NAMES)
def test_its_own_tests_pass_there(name: str, tested: tuple[str, str]) -> None:
    said, _ = tested
    assert f"\n{name}/tests/" in said
    assert project(name)["tool"]["pytest"] == project(NAMES[0])["tool"]["pytest"], "they ran with the other's options"


@pytest.mark.parametrize("name", VENDORS)
def test_its_readme_shows_its_report(name: str, tested: tuple[str, str]) -> None:
    _, report = tested
    book = (ROOT / "contrib" / name / "README.md").read_text("utf-8")
    shown, found = column(book, name), column(report, name)
    assert shown == found
    assert "FAILED" not in found.values()


def column(text: str, title: str) -> dict[str, str]:
    """A vendor's column in the report that is part of the text, by capability."""
    lines = text[text.index("| vendor |") :].partition("\n\n")[0].splitlines()
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]
    place = rows[0].index(title)
    return {row[0]: row[place] for row in rows[2:]}
