"""The node "Load OpenCLIP Encoder", and the input that takes its encoder or a CLIP_VISION."""

import json
from pathlib import Path

import folder_paths
import pytest
import torch
from safetensors.torch import save_file

import tiny

VISION = {"image_size": 32, "layers": 2, "width": 32, "patch_size": 8, "head_width": 16}
TEXT = {"context_length": 8, "vocab_size": 64, "width": 16, "heads": 2, "layers": 1}


@pytest.fixture
def module(nodes):
    return nodes("encoders")


@pytest.fixture
def weights(tmp_path, monkeypatch):
    """A file among the host's CLIP Vision models, of a tiny architecture named to open_clip."""
    import open_clip

    config = {"embed_dim": 16, "vision_cfg": VISION, "text_cfg": TEXT}
    (tmp_path / "tiny-node-ViT.json").write_text(json.dumps(config))
    open_clip.add_model_config(tmp_path / "tiny-node-ViT.json")
    torch.manual_seed(0)
    state = open_clip.create_model("tiny-node-ViT").state_dict()
    save_file({k: v.contiguous() for k, v in state.items()}, tmp_path / "tiny.safetensors")
    kinds = folder_paths.folder_names_and_paths["clip_vision"][1]
    monkeypatch.setitem(
        folder_paths.folder_names_and_paths, "clip_vision", ([str(tmp_path)], kinds)
    )
    yield "tiny.safetensors"
    open_clip.factory._MODEL_CONFIGS.pop("tiny-node-ViT")


def test_every_input_and_output_is_explained(module):
    schema = module.LoadOpenClip.GET_SCHEMA()
    assert schema.category == "SeedSelect" and schema.description
    assert all(i.tooltip for i in [*schema.inputs, *schema.outputs])
    page = Path(__file__).parents[1] / "web" / "docs" / f"{schema.node_id}.md"
    text = page.read_text(encoding="utf-8")
    assert text.startswith(f"# {schema.display_name}\n")
    assert all(f"**{i.id}**" in text for i in [*schema.inputs, *schema.outputs])


def test_its_encoder_and_clip_vision_fit_the_same_input(module, weights):
    schema = module.LoadOpenClip.GET_SCHEMA()
    (checkpoint,) = (i for i in schema.inputs if i.id == "checkpoint")
    assert checkpoint.options == [weights]
    (encoder,) = tiny.run_node(
        module.LoadOpenClip, architecture=" tiny-node-ViT", checkpoint=weights
    ).args
    assert module.image_encoder(encoder) is encoder
    images = torch.rand(2, 40, 48, 3, generator=torch.Generator().manual_seed(1))
    assert encoder(images).shape == (2, 16)
    clip_vision = tiny.clip_vision()
    assert module.image_encoder(clip_vision).clip_vision is clip_vision
    entered = module.encoder_input("judges").get_io_type().split(",")
    assert entered == ["CLIP_VISION", schema.outputs[0].get_io_type()]


def test_its_encoder_judges_a_whole_optimization(module, weights):
    """Its weights are made in inference mode, as a node's are, and lent to autograd."""
    from test_optimize import run

    (encoder,) = tiny.run_node(
        module.LoadOpenClip, architecture="tiny-node-ViT", checkpoint=weights
    ).args
    _, _, history = run(tiny.Graph(encoder=encoder))
    assert len({tuple(row) for row in history.semantic}) == 3
