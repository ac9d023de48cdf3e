"""`gatehook comfyui` asks the servers what `gatehook check` cannot know."""

import asyncio
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from gatehook import Target
from gatehook.commands.cli import main
from gatehook_plugins.vendor_comfyui.command import node_faults
from gatehook_plugins.vendor_comfyui.options import read_options
from gatehook_plugins.vendor_comfyui.vendor import Deployment
from gatehook_plugins.vendor_comfyui.workflow import load

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


def deployment(tmp_path: Path, node: Mapping[str, Any], **inputs: Any) -> Deployment:
    (tmp_path / "w.json").write_text(json.dumps({"1": node}))
    options = read_options({"workflow": "w.json", "inputs": inputs})
    return Deployment(Target("m#1", "m", "comfyui", "m"), options, load(options, tmp_path), None)  # type: ignore[arg-type]


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
    known = deployment(
        tmp_path, {"class_type": "EmptyImage", "inputs": inputs}, prompt={"node": "1.width", "max": most}
    )
    assert list(node_faults(known, "1", EMPTY_IMAGE)) == faults


@pytest.mark.parametrize("kind", [LOADER, NEWER])
def test_a_checkpoint_that_the_server_does_not_have_is_told(tmp_path: Path, kind: Any) -> None:
    def faults(checkpoint: str) -> list[str]:
        node = {"class_type": "CheckpointLoaderSimple", "inputs": {"ckpt_name": checkpoint}}
        return list(node_faults(deployment(tmp_path, node, prompt="1.ckpt_name"), "1", kind))

    assert faults("sdxl.safetensors") == []
    assert faults("flux.safetensors") == ["ckpt_name: the server has no 'flux.safetensors'"]


async def test_the_command_asks_every_server(comfy: Comfy, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "good.json").write_text(json.dumps({
        "1": {"class_type": "EmptyImage", "inputs": {"width": 1, "height": 1, "color": 0}},
        "2": {"class_type": "SaveImage", "inputs": {"images": ["1", 0], "filename_prefix": "x"}},
    }))  # fmt: skip
    (tmp_path / "bad.json").write_text(json.dumps({"1": {"class_type": "NoSuchNode", "inputs": {"text": ""}}}))
    settings = tmp_path / "settings.toml"
    model = '[[models]]\nname = "{}"\nvendor = "comfyui"\nbase_url = "{}"\n[models.options]\nworkflow = "{}"\n'
    prompt = '[models.options.inputs]\nprompt = "{}"\n'
    settings.write_text(
        "[plugins.vendor_comfyui]\n"
        + (model + prompt).format("good", comfy.url, "good.json", "2.filename_prefix")
        + (model + prompt).format("bad", comfy.url, "bad.json", "1.text")
        + (model + prompt).format("away", "http://127.0.0.1:9", "good.json", "2.filename_prefix")
    )

    async def said(*words: str) -> tuple[int, list[str]]:
        code = await asyncio.to_thread(main, ["comfyui", "--config", str(settings), *words])
        return code, capsys.readouterr().out.splitlines()

    assert await said("good") == (0, [f"good#1 at {comfy.url}: fine"])
    code, lines = await said()
    assert code == 1
    assert lines[0].endswith(": fine")
    assert lines[1].endswith("node 1 (NoSuchNode): the server has no NoSuchNode; a custom node is not installed")
    assert "comfyui: " in lines[2]
    assert (await said("nobody"))[0] == 1
