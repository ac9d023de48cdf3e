"""The folder that workers share."""

import subprocess
import sys
from pathlib import Path

import pytest

from gatehook.serving import shared
from gatehook.serving.shared import shared_folder


@pytest.fixture
def base(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(shared, "_IN_MEMORY", tmp_path)
    return tmp_path


def test_a_shared_folder_is_private_and_goes_in_the_end(base: Path) -> None:
    with shared_folder() as folder:
        (folder / "file").touch()
        assert folder.parent == base
        assert folder.stat().st_mode & 0o777 == 0o700
    assert list(base.iterdir()) == []


def test_what_a_killed_gateway_left_is_removed_by_the_next_and_what_is_in_use_is_not(base: Path) -> None:
    (base / "gatehook-note").write_text("a file of somebody")
    (base / "else").mkdir()
    script = (
        "import os, sys, pathlib; from gatehook.serving import shared; shared._IN_MEMORY = pathlib.Path(sys.argv[1])\n"
        "with shared.shared_folder() as folder:\n (folder / 'left').touch(); os.kill(os.getpid(), 9)"
    )
    subprocess.run([sys.executable, "-c", script, str(base)], check=False)
    (left,) = base.glob("gatehook-*/left")
    with shared_folder() as one, shared_folder() as other:
        assert one.exists()
        assert one != other
        assert not left.exists()
    assert sorted(path.name for path in base.iterdir()) == ["else", "gatehook-note"]
