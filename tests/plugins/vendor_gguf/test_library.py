"""Files become models: by their names, in all their quantizations, and never from outside the folder."""

import logging
import os
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gatehook import InvalidRequest, ModelNotFound, Target
from gatehook_plugins.vendor_gguf.deployments import Defaults, Deployments
from gatehook_plugins.vendor_gguf.library import Library, _model_name

Write = Callable[..., Path]


def deployments(
    folder: Path, *, quantization: str = "", memory: int = 1 << 40, trusted: tuple[str, ...] = ()
) -> Deployments:
    defaults = Defaults(
        quantization, context=0, slots=4, batch=512, threads=0, gpu_layers=0, step_timeout=9, memory=lambda: memory
    )
    return Deployments(Library(folder), defaults, folder, trusted, stamp=1.0)


@pytest.mark.parametrize(
    ("file", "name"),
    [
        ("Llama-3.2-1B-Instruct-Q4_K_M.gguf", "Llama-3.2-1B-Instruct"),
        ("qwen2.5-0.5b-instruct.q8_0.gguf", "qwen2.5-0.5b-instruct"),
        ("gemma-3-UD-IQ2_XXS.gguf", "gemma-3"),
        ("gpt-oss-20b-MXFP4.gguf", "gpt-oss-20b"),
        ("model-bf16-00001-of-00003.gguf", "model"),
        ("plain.gguf", "plain"),
        ("Q4_0.gguf", "Q4_0"),
        ("phi-4.GGUF", "phi-4"),
    ],
)
def test_a_model_is_called_as_its_file_without_the_quantization(file: str, name: str) -> None:
    assert _model_name(Path(file)) == name


@given(st.text(st.characters(codec="ascii", exclude_characters="/\0"), min_size=1, max_size=40))
def test_every_file_has_a_name(stem: str) -> None:
    assert _model_name(Path(f"{stem}.gguf"))


def test_quantizations_are_one_model_the_largest_first(gguf: Write, tmp_path: Path) -> None:
    gguf("deep/er/m-Q4_0.gguf", {"general.file_type": 2}, size=4000)
    gguf("m-Q8_0.gguf", size=8000)
    gguf("m-F16.gguf", {"general.file_type": 1}, size=16000)
    (family,) = Library(tmp_path).families().values()
    assert (family.name, [one.quantization for one in family.variants]) == ("m", ["F16", "Q8_0", "Q4_0"])


def test_of_several_quantizations_the_settings_choose_or_memory_does(gguf: Write, tmp_path: Path) -> None:
    gguf("m-Q8_0.gguf", size=8000)
    gguf("m-Q4_0.gguf", {"general.file_type": 2}, size=4000)
    target = Target("m#1", "m", "gguf", "m")
    assert deployments(tmp_path).variant(target).quantization == "Q8_0"
    assert deployments(tmp_path, memory=5000).variant(target).quantization == "Q4_0"
    assert deployments(tmp_path, memory=10).variant(target).quantization == "Q4_0"
    assert deployments(tmp_path, quantization="q4_0").variant(target).quantization == "Q4_0"
    assert deployments(tmp_path, quantization="Q2_K").variant(target).quantization == "Q8_0"
    own = Target("m#1", "m", "gguf", "m", options={"quantization": "Q4_0"})
    assert deployments(tmp_path).variant(own).quantization == "Q4_0"
    assert deployments(tmp_path).spec(own, "q8_0").quantization == "Q8_0"
    with pytest.raises(InvalidRequest, match="no quantization 'Q5_0'; there is Q8_0, Q4_0") as refused:
        deployments(tmp_path).spec(own, "Q5_0")
    assert (refused.value.param, refused.value.code) == ("quantization", "unknown_quantization")


def test_parts_are_listed_once_and_projectors_and_other_files_not_at_all(gguf: Write, tmp_path: Path) -> None:
    gguf("m-00001-of-00002.gguf")
    gguf("m-00002-of-00002.gguf")
    gguf("mmproj-m-f16.gguf")
    gguf(".hidden.gguf")
    gguf("notes.txt")
    assert list(Library(tmp_path).families()) == ["m"]


def test_a_folder_that_is_not_there_is_told_once_and_found_when_it_is(
    gguf: Write, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    library = Library(tmp_path / "modles")
    for _ in range(2):
        assert list(library.families()) == []
    assert caplog.messages == [
        f"{tmp_path}/modles is no folder, so there are no models in it ([plugins.vendor_gguf] models_dir)"
    ]
    gguf("modles/late.gguf")
    assert list(library.families()) == ["late"]


def test_a_link_out_of_the_folder_is_not_followed_and_one_within_is(
    gguf: Write, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    outside, folder = gguf("outside.gguf"), tmp_path / "models"
    gguf("models/inside.gguf")
    (folder / "sneaky.gguf").symlink_to(outside)
    (folder / "other.gguf").symlink_to(folder / "inside.gguf")
    (folder / "round.gguf").symlink_to(folder / "round.gguf")
    (folder / "up").symlink_to(tmp_path)
    library = Library(folder)
    assert list(library.families()) == ["inside", "other"]
    assert list(library.families()) == ["inside", "other"]
    assert caplog.text.count("sneaky.gguf is a link that leads out of models_dir") == 1


def test_what_is_no_model_is_told_once_and_again_when_it_has_changed(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.WARNING)
    (tmp_path / "bad.gguf").write_bytes(b"nonsense")
    library = Library(tmp_path)
    for _ in range(3):
        assert library.families() == {}
    (tmp_path / "bad.gguf").write_bytes(b"GGUF\x09\x00\x00\x00 and so on")
    assert library.families() == {}
    assert [one.getMessage().split("bad.gguf ")[1] for one in caplog.records] == [
        "is no GGUF file",
        "has the GGUF version 9; 2 and 3 can be read",
    ]


def test_a_folder_that_is_not_there_holds_nothing(tmp_path: Path) -> None:
    assert Library(tmp_path / "none").families() == {}
    assert Library(None).families() == {}
    assert not Library(None).holds(tmp_path)


@pytest.mark.parametrize(
    "path",
    [
        "/etc/passwd",
        "../outside.gguf",
        "models/../../outside.gguf",
        "sneaky.gguf",
        "nul\0.gguf",
        "half\ud800.gguf",
    ],
)
def test_a_path_out_of_the_folder_is_refused_unless_the_settings_have_it(
    gguf: Write, tmp_path: Path, path: str
) -> None:
    outside, folder = gguf("outside.gguf"), tmp_path / "models"
    gguf("models/inside.gguf")
    (folder / "sneaky.gguf").symlink_to(outside)
    target = Target("x#1", "x", "gguf", "x", options={"path": path})
    with pytest.raises(InvalidRequest, match="is not in models_dir"):
        deployments(folder).family(target)
    if path == "../outside.gguf":
        assert deployments(folder, trusted=(path,)).variant(target).path.resolve() == outside


def test_a_model_of_the_settings_stands_for_its_file(gguf: Write, tmp_path: Path) -> None:
    gguf("a-Q8_0.gguf")
    gguf("b.gguf")
    gguf("c.gguf")
    others = [
        Target("mine#1", "mine", "gguf", "mine", options={"path": "a-Q8_0.gguf"}),
        Target("yours#1", "yours", "gguf", "b"),
        Target("c#1", "c", "openai", "c"),
    ]
    assert deployments(tmp_path).scan(others) == []
    assert [one.name for one in deployments(tmp_path).scan()] == ["a", "b", "c"]


def test_a_deployment_tells_what_its_file_does_unless_the_settings_say_otherwise(gguf: Write, tmp_path: Path) -> None:
    gguf("chat.gguf")
    gguf("embed.gguf", {"llama.pooling_type": 1, "llama.context_length": 512})
    chat, embed = deployments(tmp_path).scan()
    assert (chat.context_window, "tools" in chat.capabilities) == (1024, True)
    assert (embed.context_window, embed.capabilities) == (512, ("embeddings",))
    own = Target("x#1", "x", "gguf", "chat", context_window=99, capabilities=("text-generation",))
    header = deployments(tmp_path).variant(own).header
    assert deployments(tmp_path).described(own, header) == own


def test_a_model_that_is_not_in_the_folder_is_not_found(tmp_path: Path) -> None:
    with pytest.raises(ModelNotFound, match="no file of the model 'x' in models_dir"):
        deployments(tmp_path).family(Target("x#1", "x", "gguf", "x"))


def test_what_would_run_is_told_apart_by_everything_that_matters(gguf: Write, tmp_path: Path) -> None:
    path = gguf("m.gguf")
    target = Target("m#1", "m", "gguf", "m")
    here = deployments(tmp_path)
    first = here.spec(target)
    assert here.spec(target) == first
    gpu = here.spec(target, prefer_gpu=True)
    assert (gpu.options.gpu_layers, gpu.origin) == (-1, first.origin)
    assert gpu.content != first.content
    gguf("m.gguf", {"general.name": "anew"})
    os.utime(path, ns=(1, 2 * first.modified))
    here.scan()
    assert here.spec(target).content != first.content


def test_one_file_that_is_none_or_cannot_be_named_hides_no_others(
    gguf: Write, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = gguf("good.gguf")
    (tmp_path / os.fsdecode(b"caf\xe9.gguf")).write_bytes(path.read_bytes())
    os.mkfifo(tmp_path / "pipe.gguf")  # reading it would wait for who writes to it
    assert list(Library(tmp_path).families()) == ["good"]
    assert r"caf\udce9.gguf has a name that is no UTF-8; rename it" in caplog.text
    assert "pipe.gguf is no regular file" in caplog.text
