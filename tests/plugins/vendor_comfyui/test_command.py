"""`gatehook check` and `gatehook comfyui` ask the servers whether they have what the workflows want."""

import asyncio
import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import msgspec
import pytest

from gatehook.commands.cli import main
from gatehook_plugins.vendor_comfyui.inspection import node_faults, server_faults
from gatehook_plugins.vendor_comfyui.options import Options
from gatehook_plugins.vendor_comfyui.workflow import Workflow, load

House = Any
Comfy = Any

# As ComfyUI 0.12.1 tells of its own nodes.
EMPTY_IMAGE = {
    "input": {
        "required": {
            "width": ["INT", {"default": 512, "min": 1, "max": 16384, "step": 1}],
            "height": ["INT", {"default": 512, "min": 1, "max": 16384, "step": 1}],
            "batch_size": ["INT", {"default": 1, "min": 1, "max": 4096}],
        }
    }
}
LOADER = {"input": {"required": {"ckpt_name": [["sdxl.safetensors"], {"tooltip": "The name of the checkpoint."}]}}}
NEWER = {"input": {"required": {"ckpt_name": ["COMBO", {"options": ["sdxl.safetensors"]}]}}}


def workflow(tmp_path: Path, node: Mapping[str, Any], **inputs: Any) -> Workflow:
    (tmp_path / "w.json").write_text(json.dumps({"1": node}))
    return load(msgspec.convert({"workflow": "w.json", "inputs": inputs}, Options), tmp_path)


@pytest.mark.parametrize(
    ("inputs", "most", "faults"),
    [
        ({"width": 64, "height": 64, "batch_size": 1}, 16384, []),
        ({"width": 64, "height": 64}, 16384, ["batch_size: required, but missing"]),
        ({"width": 64, "height": 64, "batch_size": 1}, 20000,
         ["width: the server takes no more than 16384, and clients may give 20000 as 'prompt'"]),
    ],
)  # fmt: skip
def test_bounds_and_what_is_missing_are_told(tmp_path: Path, inputs: Any, most: int, faults: list[str]) -> None:
    known = workflow(tmp_path, {"class_type": "EmptyImage", "inputs": inputs}, prompt={"node": "1.width", "max": most})
    assert list(node_faults(known, "1", EMPTY_IMAGE)) == faults


@pytest.mark.parametrize("kind", [LOADER, NEWER])
def test_a_checkpoint_that_the_server_does_not_have_is_told(tmp_path: Path, kind: Any) -> None:
    def faults(checkpoint: str) -> list[str]:
        node = {"class_type": "CheckpointLoaderSimple", "inputs": {"ckpt_name": checkpoint}}
        return list(node_faults(workflow(tmp_path, node, prompt="1.ckpt_name"), "1", kind))

    assert faults("sdxl.safetensors") == []
    assert faults("flux.safetensors") == ["ckpt_name: the server has no 'flux.safetensors'"]


def test_a_value_where_only_another_node_will_do_is_told(tmp_path: Path) -> None:
    kind = {"input": {"required": {"images": ["IMAGE", {}], "filename_prefix": ["STRING", {"default": "x"}]}}}
    node = {"class_type": "SaveImage", "inputs": {"images": 5, "filename_prefix": "x"}}
    known = workflow(tmp_path, node, prompt="1.filename_prefix")
    assert list(node_faults(known, "1", kind)) == ["images: wants another node, and is 5"]


@pytest.mark.parametrize(
    ("shows", "faults"), [(False, ["no node saves or shows a picture; add SaveImage"]), (True, [])]
)
async def test_a_workflow_that_gives_nothing_out_is_told(tmp_path: Path, shows: bool, faults: list[str]) -> None:
    class Server:
        async def node_kind(self, kind: str) -> Mapping[str, Any]:
            return {**EMPTY_IMAGE, "output_node": shows}

    inputs = {"width": 64, "height": 64, "batch_size": 1}
    known = workflow(tmp_path, {"class_type": "EmptyImage", "inputs": inputs}, prompt="1.width")
    server: Any = Server()
    assert await server_faults(known, server) == faults


@pytest.fixture
def said(comfy: Comfy, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Callable[..., Any]:
    """Runs the program on settings with these models; gives its status, and what it printed."""
    (tmp_path / "good.json").write_text(json.dumps({
        "1": {"class_type": "EmptyImage", "inputs": {"width": 1, "height": 1, "color": 0}},
        "2": {"class_type": "SaveImage", "inputs": {"images": ["1", 0], "filename_prefix": "x"}},
    }))  # fmt: skip
    (tmp_path / "bad.json").write_text(json.dumps({"1": {"class_type": "NoSuchNode", "inputs": {"text": ""}}}))
    settings = tmp_path / "settings.toml"
    places = {
        "good": (comfy.url, "good.json", "2.filename_prefix"),
        "bad": (comfy.url, "bad.json", "1.text"),
        "away": ("http://127.0.0.1:9", "good.json", "2.filename_prefix"),
    }

    async def run(*words: str, models: Sequence[str] = ("good", "bad", "away")) -> tuple[int, list[str]]:
        text = "[plugins.openai_api]\n[plugins.route_models]\n[plugins.vendor_comfyui]\n"
        for name in models:
            url, file, prompt = places[name]
            text += f'[[models]]\nname = "{name}"\nvendor = "comfyui"\nbase_url = "{url}"\n'
            text += f'[models.options]\nworkflow = "{file}"\n[models.options.inputs]\nprompt = "{prompt}"\n'
        settings.write_text(text)
        code = await asyncio.to_thread(main, [words[0], "--config", str(settings), *words[1:]])
        told = capsys.readouterr()
        return code, (told.out + told.err).splitlines()

    return run


NO_NODE = "node 1 (NoSuchNode): the server has no NoSuchNode; a custom node is not installed"


async def test_the_command_asks_every_server(comfy: Comfy, said: Any) -> None:
    assert await said("comfyui", "good") == (0, [f"good#1 at {comfy.url}: fine"])
    code, lines = await said("comfyui")
    assert code == 1
    assert lines[0].endswith(": fine")
    assert lines[1].endswith(NO_NODE)
    assert "comfyui: " in lines[2]
    assert (await said("comfyui", "nobody"))[0] == 1


async def test_check_asks_the_servers_that_are_up(said: Any) -> None:
    code, lines = await said("check", models=["good", "away"])
    assert code == 0
    assert lines[0].startswith("away#1: its server was not asked: comfyui: ")
    assert lines[1].endswith("2 deployments")
    assert await said("check") == (1, [f"[[models]] bad#1: {NO_NODE}"])
