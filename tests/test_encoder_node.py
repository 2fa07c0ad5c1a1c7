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


@pytest.mark.parametrize("ending", ["safetensors", "bin"])
def test_the_file_that_is_for_the_host_is_said_to_be_in_one_sentence(
    module, weights, tmp_path, ending
):
    """The CLIP Vision file that everybody has, CLIP-ViT-H-14-laion2B-s32B-b79K.safetensors."""
    state = {f"vision_model.encoder.layers.{i}.{'x' * 99}": torch.zeros(2) for i in range(200)}
    name = f"CLIP-ViT-H-14.{ending}"
    (save_file if ending == "safetensors" else torch.save)(state, tmp_path / name)
    with pytest.raises(ValueError) as error:
        tiny.run_node(module.LoadOpenClip, architecture="tiny-node-ViT", checkpoint=name)
    assert str(error.value) == (
        f"open_clip checkpoint: '{name}' is laid out for 'Load CLIP Vision'. Load it with that "
        "node, and connect its CLIP_VISION to clip_vision."
    )
    assert error.value.__cause__ is None and error.value.__suppress_context__


def test_weights_of_another_model_are_not_listed(module, weights, tmp_path):
    state = {f"{'layer' * 20}.{i}\x1b[2J\n": torch.zeros(2) for i in range(2000)}
    torch.save(state, tmp_path / "other.bin")
    with pytest.raises(ValueError, match=r"^open_clip checkpoint: 'other\.bin'") as error:
        tiny.run_node(module.LoadOpenClip, architecture="tiny-node-ViT", checkpoint="other.bin")
    assert len(str(error.value)) < 500 and str(error.value).isprintable()


def test_a_megabyte_of_architecture_is_refused_in_words(module, weights):
    with pytest.raises(ValueError, match=r"^open_clip architecture: 'xxx") as error:
        tiny.run_node(module.LoadOpenClip, architecture="x" * 2**20, checkpoint=weights)
    assert len(str(error.value)) <= 2000


def test_its_encoder_judges_a_whole_optimization(module, weights):
    """Its weights are made in inference mode, as a node's are, and lent to autograd."""
    from test_optimize import run

    (encoder,) = tiny.run_node(
        module.LoadOpenClip, architecture="tiny-node-ViT", checkpoint=weights
    ).args
    _, _, history = run(tiny.Graph(encoder=encoder))
    assert len({tuple(row) for row in history.semantic}) == 3
