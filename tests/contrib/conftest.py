import os
import shutil
import subprocess
import sys
import sysconfig
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PIP = (sys.executable, "-m", "pip", "--disable-pip-version-check")


@pytest.fixture(scope="session")
def run() -> Callable[..., str]:
    """Runs a program and gives what it says; its failure is the test's."""

    def ran(*words: str | Path, cwd: Path | None = None) -> str:
        environ = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
        texts = [str(word) for word in words]
        done = subprocess.run(texts, check=False, capture_output=True, text=True, cwd=cwd, env=environ)
        assert done.returncode == 0, done.stdout[-4000:] + done.stderr[-4000:]
        return done.stdout

    return ran


@pytest.fixture(scope="session")
def distributions() -> Sequence[Path]:
    """The folders of contrib/ that are distributions."""
    return sorted(path.parent for path in (ROOT / "contrib").glob("*/pyproject.toml"))


@pytest.fixture(scope="session")
def wheels(
    tmp_path_factory: pytest.TempPathFactory, distributions: Sequence[Path], run: Callable[..., str]
) -> Sequence[Path]:
    """Gatehook's wheel and that of each distribution, built from this tree."""
    folder = tmp_path_factory.mktemp("wheels")
    options = ("--quiet", "--no-deps", "--no-build-isolation", "--wheel-dir", folder)
    run(*PIP, "wheel", *options, ROOT, *distributions)
    return sorted(folder.glob("*.whl"))


@pytest.fixture(scope="session")
def clean(tmp_path_factory: pytest.TempPathFactory, wheels: Sequence[Path], run: Callable[..., str]) -> Path:
    """The Python of an environment with nothing of this tree but the wheels, and what they ask for.

    That comes from the index that pip knows; where none can be reached, it is this environment's.
    """
    folder = tmp_path_factory.mktemp("clean")
    run(sys.executable, "-m", "venv", "--without-pip", folder)
    python = folder / "bin" / "python"
    install = (*PIP, "--python", python, "install", "--quiet")
    if _has_index(tmp_path_factory.mktemp("probe")):
        extras = (f"{wheel}[test]" if wheel.name.startswith("gatehook_") else wheel for wheel in wheels)
        run(*install, "--no-compile", *extras)
        return python
    run(*install, "--no-deps", "--no-index", *wheels)
    theirs = run(python, "-c", "import sysconfig; print(sysconfig.get_path('purelib'))").strip()
    # A path in a .pth file is searched last, and what .pth files lie there is not read: our editable install is not.
    Path(theirs, "others.pth").write_text(sysconfig.get_path("purelib") + "\n")
    return python


def _has_index(folder: Path) -> bool:
    """Whether pip can get a small package."""
    words = [
        *PIP,
        "--retries",
        "1",
        "--timeout",
        "10",
        "download",
        "--quiet",
        "--no-deps",
        "--dest",
        folder,
        "iniconfig",
    ]
    return subprocess.run(words, check=False, capture_output=True).returncode == 0


@pytest.fixture(scope="session")
def tested(
    clean: Path, distributions: Sequence[Path], run: Callable[..., str], tmp_path_factory: pytest.TempPathFactory
) -> tuple[str, str]:
    """What pytest says of all their own tests, which ran in the clean environment, and its report of the suites."""
    folder = tmp_path_factory.mktemp("tested")
    for one in distributions:
        shutil.copytree(one / "tests", folder / one.name / "tests", ignore=shutil.ignore_patterns("__pycache__"))
    # Their tables for pytest are alike (a test sees to it), so all of them can run at once.
    shutil.copy(distributions[0] / "pyproject.toml", folder)
    said = run(
        clean, "-m", "pytest", "--verbose", "--gatehook-report=report.md", "--override-ini=testpaths=.", cwd=folder
    )
    return said, (folder / "report.md").read_text("utf-8")
