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
    assert schema.category == "SeedSelect/loaders" and schema.description
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
    entered = module.encoder_input("clip_vision", "judges").get_io_type().split(",")
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


# --- where nothing is connected -------------------------------------------------------------------


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """The host's folder of CLIP Vision models, empty."""
    kinds = folder_paths.folder_names_and_paths["clip_vision"][1]
    paths = ([str(tmp_path)], kinds)
    monkeypatch.setitem(folder_paths.folder_names_and_paths, "clip_vision", paths)
    monkeypatch.setattr(folder_paths, "filename_list_cache", {})
    return tmp_path


@pytest.fixture
def loaded(monkeypatch):
    """Files that the host was told to load as image encoders."""
    paths = []

    def load(path):
        paths.append(Path(path).name)
        return tiny.clip_vision()

    monkeypatch.setattr("comfy.clip_vision.load", load)
    return paths


def put(folder: Path, name: str, *weights: str) -> None:
    (folder / name).parent.mkdir(exist_ok=True)
    save_file({weight: torch.zeros(1) for weight in weights}, folder / name)


def test_the_first_known_file_is_taken_and_told_of(module, folder, loaded):
    told = []
    put(folder, "another.safetensors", "visual_projection.weight")
    put(folder, "clip_vision_g.safetensors", "visual_projection.weight")
    put(folder, "below/CLIP-ViT-H-14-laion2B-s32B-b79K.safetensors", "visual.proj")
    encoder = module.image_encoder(None, tiny.model(), told.append)
    assert loaded == ["CLIP-ViT-H-14-laion2B-s32B-b79K.safetensors"]
    (sentence,) = told
    assert sentence.startswith("Image encoder: ") and sentence.endswith(loaded[0])
    assert encoder(torch.rand(1, 16, 16, 3)).shape == (1, 16)
    put(folder, "sigclip_vision_patch14_384.safetensors", "vision_model.head.probe")
    folder_paths.filename_list_cache.clear()
    module.image_encoder(None, tiny.model(), told.append)
    assert loaded[-1] == "sigclip_vision_patch14_384.safetensors"


def test_a_file_whose_embedding_would_be_made_up_is_passed_over(module, folder, loaded):
    put(folder, "clip_vision_h.safetensors", "vision_model.post_layernorm.weight")
    (folder / "CLIP-ViT-H-14-laion2B-s32B-b79K.safetensors").write_bytes(b"cut short")
    put(folder, "clip_vision_g.safetensors", "visual_projection.weight")
    module.image_encoder(None, tiny.model())
    assert loaded == ["clip_vision_g.safetensors"]


def test_without_any_the_file_its_source_and_its_folder_are_named(module, folder):
    put(folder, "another.safetensors", "visual_projection.weight")
    with pytest.raises(ValueError, match=r"^clip_vision: nothing is connected") as told:
        module.image_encoder(None, tiny.model())
    for part in (module.KNOWN[0], "https://huggingface.co/Comfy-Org/", "models/clip_vision"):
        assert part in str(told.value)


def test_the_toy_model_is_judged_by_its_own(module, folder, nodes):
    told = []
    model, _, _, vision, _ = tiny.run_node(nodes("pocket").LoadPocketModel).args
    encoder = module.image_encoder(None, model.clone(), told.append)
    images = torch.rand(1, 64, 64, 3)
    assert encoder.clip_vision is not vision
    own = module.image_encoder(vision)
    with torch.inference_mode():
        assert torch.equal(encoder(images), own(images))
    assert told == ["Image encoder: that of the toy model"]
