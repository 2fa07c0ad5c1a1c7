"""The full-size files of benchmarks/full_size.py: real layouts, which the host recognizes."""

import math
import subprocess
import sys
from pathlib import Path

import comfy.clip_vision
import comfy.model_detection
import comfy.supported_models
import psutil
import pytest
import torch
from safetensors.torch import load_file

sys.path.append(str(Path(__file__).resolve().parent.parent / "benchmarks"))

import full_size
from comfy_client import Event, Result


def meta(layout: full_size.Layout, prefix: str = "") -> dict[str, torch.Tensor]:
    return {
        name: torch.empty(shape, dtype=torch.float16, device="meta")
        for name, shape in layout.items()
        if name.startswith(prefix)
    }


def weights(tensors: dict[str, torch.Tensor]) -> int:
    return sum(tensor.numel() for tensor in tensors.values())


@pytest.fixture(scope="module")
def checkpoint():
    return full_size.checkpoint_layout()


def test_host_takes_the_checkpoint_for_stable_diffusion_1_5(checkpoint):
    prefix = "model.diffusion_model."
    assert comfy.model_detection.unet_prefix_from_state_dict(meta(checkpoint)) == prefix
    config = comfy.model_detection.model_config_from_unet(meta(checkpoint), prefix)
    assert type(config) is comfy.supported_models.SD15
    unet = meta(checkpoint, prefix)
    config.set_inference_dtype(torch.float32, None)
    model = config.get_model(unet, prefix, device="meta")
    expected = model.diffusion_model.state_dict()
    assert {prefix + name: tensor.shape for name, tensor in expected.items()} == {
        name: tensor.shape for name, tensor in unet.items()
    }


def test_checkpoint_is_as_large_as_the_published_one(checkpoint):
    # Tensors and weights of v1-5-pruned-emaonly, but for its one tensor of positions.
    sizes = {
        prefix: (len(part), weights(part))
        for prefix in ("model.diffusion_model.", "first_stage_model.", "cond_stage_model.")
        for part in [meta(checkpoint, prefix)]
    }
    assert sizes == {
        "model.diffusion_model.": (686, 859_520_964),
        "first_stage_model.": (248, 83_653_863),
        "cond_stage_model.": (196, 123_060_480),
    }
    assert len(checkpoint) == 686 + 248 + 196


def test_host_takes_the_image_encoder_for_vit_h(monkeypatch):
    tensors = meta(full_size.image_encoder_layout())
    assert weights(tensors) == 632_076_800
    with torch.device("meta"):
        # Shapes that do not fit are errors here; names that are missing or unknown are not.
        monkeypatch.setattr(comfy.model_management, "text_encoder_offload_device", lambda: "meta")
        found = comfy.clip_vision.load_clipvision_from_sd(dict(tensors))
    assert (found.config["hidden_size"], found.config["num_hidden_layers"]) == (1280, 32)
    assert set(found.get_sd()) == set(tensors)


def test_file_of_random_weights_is_read_back_as_its_layout(tmp_path):
    layout = {
        "conv.weight": torch.Size([64, 32, 3, 3]),
        "conv.bias": torch.Size([64]),
        "norm.weight": torch.Size([5]),
    }
    path = tmp_path / "models" / "some.safetensors"
    full_size.write_random(path, layout, seed=1)
    found = load_file(path)
    assert {name: tensor.shape for name, tensor in found.items()} == layout
    assert {tensor.dtype for tensor in found.values()} == {torch.float16}
    assert not found["conv.bias"].any()
    assert (found["norm.weight"] == 1).all()
    spread = found["conv.weight"].float().std().item()
    assert spread == pytest.approx(1 / math.sqrt(32 * 9), rel=0.05)
    assert [file.name for file in path.parent.iterdir()] == [path.name]
    full_size.write_random(path, layout, seed=2)
    assert not torch.equal(load_file(path)["conv.weight"], found["conv.weight"])


def test_losses_are_read_from_what_the_workflow_shows():
    result = Result("id", outputs={"loss": {"text": ('{"loss": [1.5, 1.25]}',)}})
    assert full_size.losses_of(result) == [1.5, 1.25]


def test_peak_is_the_process_s_own_and_told_apart_from_that_before_the_first_gradient():
    size = 200_000_000
    code = f"for line in open(0): kept = b'x' * {size}; print(len(kept), flush=True)"
    inputs = {"steps": 20, "preset": "quick"}
    prompt = {"10": {"class_type": "SeedSelectOptimize", "inputs": inputs, "_meta": {"title": ""}}}
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    with subprocess.Popen([sys.executable, "-c", code], **pipes) as child:
        watch = full_size.Watch(psutil.Process(child.pid), prompt)
        for value in (29, 30):  # the last step of the tenth draft, of three steps
            watch(Event("progress", "10", value, 200))
        before = watch.peak
        assert 0 < watch.before == before < size
        child.stdin.write("\n")
        child.stdin.flush()
        assert child.stdout.readline()
        watch(Event("progress", "10", 31, 200))
        assert watch.before == before
        assert before + 0.9 * size < watch.peak < before + 1.5 * size
        child.stdin.close()
