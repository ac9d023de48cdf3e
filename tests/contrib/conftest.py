import os
import subprocess
import sys
import sysconfig
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


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
    pip = (sys.executable, "-m", "pip", "--disable-pip-version-check", "wheel", "--quiet", "--no-deps")
    run(*pip, "--no-build-isolation", "--wheel-dir", folder, ROOT, *distributions)
    return sorted(folder.glob("*.whl"))


@pytest.fixture(scope="session")
def clean(tmp_path_factory: pytest.TempPathFactory, wheels: Sequence[Path], run: Callable[..., str]) -> Path:
    """The Python of an environment with nothing of this tree but the wheels; other people's packages are this one's."""
    folder = tmp_path_factory.mktemp("clean")
    run(sys.executable, "-m", "venv", "--without-pip", folder)
    python = folder / "bin" / "python"
    pip = (sys.executable, "-m", "pip", "--disable-pip-version-check", "--python", python)
    run(*pip, "install", "--quiet", "--no-deps", "--no-index", *wheels)
    theirs = run(python, "-c", "import sysconfig; print(sysconfig.get_path('purelib'))").strip()
    # A path in a .pth file is searched last, and what .pth files lie there is not read: our editable install is not.
    Path(theirs, "others.pth").write_text(sysconfig.get_path("purelib") + "\n")
    return python
