"""`gatehook new-plugin`: what it writes installs, type-checks strictly, is linted, and passes its tests, at once."""

import importlib.metadata
import os
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
from packaging.requirements import Requirement

from gatehook.commands import cli
from gatehook.commands.scaffold import KINDS, rendered, write
from gatehook.errors import StartupError

ROOT = Path(__file__).parents[2]
NAMES = {kind: f"sample_{kind.replace('-', '_')}" for kind in KINDS}
LONGEST = "abcdefgh_klmnopq_stuvwxy"


def done(*words: str | Path, cwd: Path, **environ: str) -> str:
    """What a program says that must succeed."""
    run = subprocess.run(words, check=False, cwd=cwd, capture_output=True, text=True, env={**os.environ, **environ})
    assert run.returncode == 0, run.stdout + run.stderr
    return run.stdout


@pytest.fixture(scope="module")
def workshop(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with one distribution of each kind, and `site`, where they are installed."""
    place = tmp_path_factory.mktemp("workshop")
    folders = [write(kind, name, place)[0] for kind, name in NAMES.items()]
    options = ["--quiet", "--no-deps", "--no-build-isolation", "--no-index", "--disable-pip-version-check"]
    done(sys.executable, "-m", "pip", "install", *options, "--target", place / "site", *folders, cwd=place)
    return place


# --- what is written works -----------------------------------------------------------------------------------------


def test_each_installs_as_a_plugin_with_its_types(workshop: Path) -> None:
    found = {
        entry.name: entry
        for dist in importlib.metadata.distributions(path=[str(workshop / "site")])
        for entry in dist.entry_points
    }
    assert sorted(found) == sorted(NAMES.values())
    assert {entry.group for entry in found.values()} == {"gatehook"}
    for name in NAMES.values():
        assert (workshop / "site" / f"gatehook_{name}" / "py.typed").is_file()


@pytest.mark.timeout(120)
def test_each_passes_its_own_tests(workshop: Path) -> None:
    tests = sorted(workshop.glob("gatehook-*/tests"))
    assert len(tests) == len(KINDS)
    # One process for all of them: what pyproject.toml says of pytest is the same in each.
    options: list[str | Path] = [
        "-c",
        tests[0].parent / "pyproject.toml",
        "--rootdir",
        workshop,
        "-p",
        "no:cacheprovider",
    ]
    site = str(workshop / "site")
    said = done(sys.executable, "-m", "pytest", "-qrs", *options, *tests, cwd=workshop, PYTHONPATH=site)
    passed = re.search(r"(\d+) passed", said)
    assert passed is not None
    assert int(passed[1]) >= 3 * len(KINDS)
    assert not re.search(r"warning|xfail", said)
    assert all(": not offered: " in line for line in said.splitlines() if line.startswith("SKIPPED"))


@pytest.mark.timeout(180)
def test_each_is_typed_strictly(workshop: Path) -> None:
    folders = sorted(workshop.glob("gatehook-*"))
    config = tomllib.loads((folders[0] / "pyproject.toml").read_text("utf-8"))["tool"]["mypy"]
    assert config == {"strict": True, "mypy_path": ["src"], "files": ["src", "tests"]}
    sources = [folder / part for folder in folders for part in ("src", "tests")]
    path = ":".join(str(folder / "src") for folder in folders)
    # Its own cache: what it says of the kernel and of aiohttp is worth keeping from run to run.
    options: list[str | Path] = ["--strict", "--config-file=", "--cache-dir", ROOT / ".mypy_cache" / "scaffold"]
    said = done(sys.executable, "-m", "mypy", *options, *sources, cwd=workshop, MYPYPATH=path)
    assert said == f"Success: no issues found in {2 * len(KINDS)} source files\n"


@pytest.mark.parametrize("name", ["ab", "acme", LONGEST])
def test_each_is_linted_and_formatted_whatever_the_length_of_its_name(tmp_path: Path, name: str) -> None:
    for kind in KINDS:
        write(kind, name, tmp_path / kind)
    done(sys.executable, "-m", "ruff", "check", "--no-cache", ".", cwd=tmp_path)
    done(sys.executable, "-m", "ruff", "format", "--no-cache", "--check", ".", cwd=tmp_path)


@pytest.mark.parametrize("kind", KINDS)
def test_nothing_is_left_of_the_template_s_own_words(kind: str) -> None:
    for path, text in rendered(kind, "zebra").items():
        assert "acme" not in (path + text).lower(), path
        assert "@" not in re.sub(r"@(pytest|hookimpl|gatehook|staticmethod|v\d)", "", text), path


@pytest.mark.parametrize("name", ["acme", "acme2", "my_acme"])
@pytest.mark.parametrize("kind", KINDS)
def test_a_name_may_hold_the_template_s_own(kind: str, name: str) -> None:
    plain = rendered(kind, "zebra")
    camel, dashed = "".join(map(str.capitalize, name.split("_"))), name.replace("_", "-")
    spelt = (("gatehook-zebra", f"gatehook-{dashed}"), ("Zebra", camel), ("ZEBRA", name.upper()), ("zebra", name))
    for theirs, ours in spelt:
        plain = {path.replace(theirs, ours): text.replace(theirs, ours) for path, text in plain.items()}
    assert rendered(kind, name) == plain


@pytest.mark.parametrize("kind", KINDS)
def test_it_is_bound_to_this_version_of_the_plugin_api(kind: str) -> None:
    project = tomllib.loads(rendered(kind, "zebra")["pyproject.toml"])["project"]
    (asked,) = map(Requirement, project["dependencies"])
    mine = importlib.metadata.version("gatehook")
    assert asked.name == "gatehook"
    assert asked.specifier.contains(mine)
    assert not asked.specifier.contains(f"{int(mine.split('.')[0]) + 1}.0")
    assert project["entry-points"]["gatehook"] == {"zebra": "gatehook_zebra:Zebra"}


@pytest.mark.parametrize("kind", KINDS)
def test_its_readme_shows_settings_that_load(kind: str, tmp_path: Path) -> None:
    files = rendered(kind, "zebra")
    (settings,) = re.findall(r"```toml\n(.*?)```", files["README.md"], re.DOTALL)
    assert "zebra" in tomllib.loads(settings)["plugins"]
    fields = set(re.findall(r"^        (\w+): .* = Field\(", files["src/gatehook_zebra/__init__.py"], re.MULTILINE))
    assert set(tomllib.loads(settings)["plugins"]["zebra"]) <= fields


def test_the_workflow_checks_what_the_readme_tells_to(tmp_path: Path) -> None:
    files = rendered("vendor", "zebra")
    steps = re.findall(r"- run: (.*)", files[".github/workflows/ci.yml"])
    assert steps[0] == "python -m pip install --editable '.[dev]'"
    assert steps[1:] == ["ruff check .", "ruff format --check .", "mypy", "pytest"]
    assert all(step in files["README.md"] for step in steps[1:])


# --- what is refused -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "told"),
    [
        ("Acme", "how about 'acme'"),
        ("acme-ai", "how about 'acme_ai'"),
        ("acme ai", "how about 'acme_ai'"),
        ("a", "2 to 24 small letters"),
        ("a" * 25, "2 to 24 small letters"),
        ("1st", "how about 'st'"),
        ("a__b", "how about 'a_b'"),
        ("acme_", "how about 'acme'"),
        ("_acme", "how about 'acme'"),
        ("", "2 to 24 small letters"),
        ("../acme", "how about 'acme'"),
        ("acmé", "2 to 24 small letters"),
        ("rate_limit", "there is a plugin 'rate_limit' already, of gatehook "),
        ("openai", "there is a plugin 'vendor_openai' already"),
        ("plugins", "there is a module 'gatehook_plugins' already"),
    ],
)
def test_names_that_would_not_do_are_refused_and_nothing_is_written(tmp_path: Path, name: str, told: str) -> None:
    with pytest.raises(StartupError) as caught:
        write("vendor", name, tmp_path)
    assert told in caught.value.faults[0]
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(("kind", "name"), [("auth", "principal"), ("tool-policy", "section"), ("router", "catalog")])
def test_a_name_that_would_hide_one_of_gatehook_s_is_refused(tmp_path: Path, kind: str, name: str) -> None:
    with pytest.raises(StartupError, match=f"would call a class {name.capitalize()}"):
        write(kind, name, tmp_path)


def test_a_folder_with_something_in_it_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "gatehook-acme").mkdir()
    write("auth", "acme", tmp_path)
    before = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    with pytest.raises(StartupError, match="is there already; move it away"):
        write("vendor", "acme", tmp_path)
    assert {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()} == before


def test_what_cannot_be_written_is_told(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(StartupError, match=r"file.*: cannot be written: Not a directory"):
        write("vendor", "acme", tmp_path / "file")


# --- the command ---------------------------------------------------------------------------------------------------


def test_the_command_knows_the_kinds_that_there_are() -> None:
    assert tuple(KINDS) == cli._KINDS


def test_the_command_says_what_it_wrote_and_what_comes_next(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["new-plugin", "observer", "acme", "--into", str(tmp_path / "my plugins")]) == 0
    lines = capsys.readouterr().out.splitlines()
    folder = tmp_path / "my plugins" / "gatehook-acme"
    assert lines[0] == (
        f"{folder}: .github/workflows/ci.yml, .gitignore, README.md, pyproject.toml, src/gatehook_acme/__init__.py, "
        "src/gatehook_acme/py.typed, tests/test_acme.py"
    )
    assert lines[2:] == [
        f"  cd '{folder}'",
        "  python -m pip install --editable '.[dev]'",
        "  pytest && mypy && ruff check .",
    ]
    assert sum(path.is_file() for path in folder.rglob("*")) == 7


def test_the_command_tells_a_bad_name_and_an_unknown_kind(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["new-plugin", "vendor", "Acme AI", "--into", str(tmp_path)]) == 1
    assert "how about 'acme_ai'?" in capsys.readouterr().err
    with pytest.raises(SystemExit) as caught:
        cli.main(["new-plugin", "database", "acme"])
    assert caught.value.code == 2
    assert "choose from" in capsys.readouterr().err
