"""`gatehook models add`: local models written into the settings, or nothing."""

import resource
import shutil
import tomllib
from collections.abc import Callable
from pathlib import Path

import pytest

from gatehook.commands.cli import main
from gatehook.config.settings import load

TINY = Path(__file__).parents[2] / "models" / "tiny-chat.gguf"
SETTINGS = '[plugins.openai_api]\n[plugins.vendor_gguf]\nenabled = false\n[[models]]\nname = "taken"\nvendor = "mock"\n'


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    (tmp_path / "settings.toml").write_text(SETTINGS)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def written(folder: Path) -> dict[str, object]:
    return tomllib.loads((folder / "settings.local.toml").read_text())


def test_a_file_becomes_an_entry_and_its_plugin_is_switched_on(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["models", "add", str(TINY)]) == 0
    assert written(folder) == {
        "plugins": {"vendor_gguf": {"enabled": True}},
        "models": [{"name": "tiny-chat", "vendor": "gguf", "options": {"path": str(TINY)}}],
    }
    assert "gatehook chat tiny-chat" in capsys.readouterr().out
    assert {target.name for target in load(folder / "settings.toml").targets} == {"taken", "tiny-chat"}


def test_a_folder_becomes_an_entry_for_each_model_beside_what_was_there(folder: Path) -> None:
    (folder / "settings.local.toml").write_text("[server]\nport = 1\n\n\n[plugins.vendor_gguf]\nenabled = true\n")
    for name in ("a", "b"):
        shutil.copy(TINY, folder / f"{name}.gguf")
    (folder / "c.gguf").write_bytes(b"no model")
    assert main(["models", "add", str(folder)]) == 0
    found = written(folder)
    assert found["server"] == {"port": 1}
    assert [model["name"] for model in found["models"]] == ["a", "b"]  # type: ignore[attr-defined]


def test_where_nothing_can_be_written_what_was_there_stays(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = folder / "settings.local.toml"
    file.write_text("[server]\nport = 1\n")
    file.chmod(0o640)
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (30, before[1]))  # a disk that is nearly full
    try:
        status = main(["models", "add", str(TINY)])
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert (status, file.read_text()) == (1, "[server]\nport = 1\n")
    assert capsys.readouterr().err == f"{file}: cannot be written: File too large\n"
    assert main(["models", "add", str(TINY)]) == 0
    assert file.stat().st_mode & 0o777 == 0o640
    assert sorted(path.name for path in folder.iterdir()) == ["settings.local.toml", "settings.toml"]


def test_of_several_quantizations_the_largest_that_memory_holds_is_written(
    gguf: Callable[..., Path], folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("gatehook_plugins.vendor_gguf.plugin.machine_memory", lambda: 7000)
    gguf("m-Q8_0.gguf", size=8000)
    smaller = gguf("m-Q4_0.gguf", size=4000)
    assert main(["models", "add", str(folder)]) == 0
    assert written(folder)["models"] == [{"name": "m", "vendor": "gguf", "options": {"path": str(smaller)}}]


def test_a_folder_is_added_again_for_what_is_new_in_it(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for name in ("a", "b"):
        shutil.copy(TINY, folder / f"{name}.gguf")
        assert main(["models", "add", str(folder)]) == 0
        assert capsys.readouterr().out.startswith(f"{folder / 'settings.local.toml'}: added {name}\n")
    before = (folder / "settings.local.toml").read_text()
    assert main(["models", "add", str(folder)]) == 1
    assert "in the settings already" in capsys.readouterr().err
    assert (folder / "settings.local.toml").read_text() == before


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["nowhere"], "no such file or folder"),
        (["settings.toml"], "no model that an installed plugin could run"),
        (["broken.gguf"], "broken.gguf"),
        ([str(TINY), "--name", "taken"], "there is a model 'taken' already"),
        (["models", "--name", "x"], "--name: there are 2 models"),
        ([str(TINY), "another"], "expected `gatehook models add PATH`"),
    ],
)
def test_what_cannot_be_added_is_told_and_nothing_is_written(
    folder: Path, capsys: pytest.CaptureFixture[str], words: list[str], told: str
) -> None:
    (folder / "broken.gguf").write_bytes(b"GGUF")
    (folder / "models").mkdir()
    for name in ("a", "b"):
        shutil.copy(TINY, folder / "models" / f"{name}.gguf")
    assert main(["models", "add", *words]) == 1
    assert told in capsys.readouterr().err
    assert not (folder / "settings.local.toml").exists()


def test_a_name_for_a_model_that_is_not_added_is_refused(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["models", "--name", "x"]) == 1
    assert capsys.readouterr() == ("", "--name is for what `gatehook models add PATH` adds\n")


def test_a_plugin_that_the_local_file_switches_off_stays_so(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    text = "[plugins.vendor_gguf]\nenabled = false\n"
    (folder / "settings.local.toml").write_text(text)
    assert main(["models", "add", str(TINY)]) == 1
    assert "set enabled = true in [plugins.vendor_gguf]" in capsys.readouterr().err
    assert (folder / "settings.local.toml").read_text() == text
