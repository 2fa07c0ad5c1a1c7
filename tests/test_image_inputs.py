"""Every IMAGE and MASK input of every node, given pictures of every kind as the host gives them."""

import asyncio
import types

import execution
import folder_paths
import pytest
import torch
from comfy_api.latest import io

import tiny
from seedselect_core.errors import SeedSelectError
from seedselect_core.references import load_reference_folder, reference_set_from_batch

COUNT = 4


def pictures(channels: int = 3, size: tuple[int, int] = (18, 16), count: int = COUNT):
    generator = torch.Generator().manual_seed(channels)
    return torch.rand(count, *size, channels, generator=generator)


def holding(value: float) -> torch.Tensor:
    images = pictures()
    images[2, 3, 4, 1] = value
    return images


# What is connected, and what the node must take it for; or else what the error says.
GRAY = pictures(1)
CUT_OUT = pictures(4)
FADED = pictures(2)
TAKEN = {
    "RGB": (pictures(), pictures()),
    "gray": (GRAY, GRAY.expand(-1, -1, -1, 3)),
    "gray with alpha": (FADED, FADED[..., :1] * FADED[..., 1:] + 1 - FADED[..., 1:]),
    "alpha": (CUT_OUT, CUT_OUT[..., :3] * CUT_OUT[..., 3:] + 1 - CUT_OUT[..., 3:]),
    "half precision": (pictures().half(), pictures().half().float()),
    "bfloat16": (pictures().bfloat16(), pictures().bfloat16().float()),
    "double precision": (pictures().double(), pictures()),
    "whole numbers": ((pictures() * 255).byte(), (pictures() * 255).byte() / 255),
    "beyond 0..1": (pictures() * 2 - 0.5, (pictures() * 2 - 0.5).clamp(0, 1)),
    "a view": (pictures().movedim(1, 2).flip(0), pictures().movedim(1, 2).flip(0).contiguous()),
    "with a gradient": (pictures().requires_grad_(), pictures()),
}
REFUSED = {
    "empty batch": (pictures(count=0), "no picture in it"),
    "no height": (pictures(size=(0, 16)), "no picture in it"),
    "no width": (pictures(size=(16, 0)), "no picture in it"),
    "no channels": (pictures(0), "no picture in it"),
    "five channels": (pictures(5), "1 to 4 channels"),
    "no batch": (pictures()[0], "1 to 4 channels"),
    "a video": (pictures()[None], "1 to 4 channels"),
    "NaN": (holding(float("nan")), f"picture 3 of {COUNT} .*NaN"),
    "infinite": (holding(float("inf")), f"picture 3 of {COUNT} .*NaN"),
    "NaN in half precision": (holding(float("nan")).half(), f"picture 3 of {COUNT} .*NaN"),
    "integers": (pictures().long(), "int64"),
    "complex": (pictures().to(torch.complex64), "complex64"),
    "nothing": (None, "NoneType"),
    "text": ("picture", "got str"),
}


def run(node, **lists) -> list:
    """The host's own running of a node on lists of inputs; the outputs of each run."""
    with torch.inference_mode():
        made = execution._async_map_node_over_list(
            *("prompt", "1", node, lists, "execute"), v3_data={"hidden_inputs": {}}
        )
        return [output.args for output in asyncio.run(made)]


@pytest.fixture(scope="module")
def models() -> dict:
    return {
        "model": tiny.model("V_PREDICTION"),
        "positive": tiny.conditioning(1),
        "negative": tiny.conditioning(2),
        "vae": tiny.vae(),
        "clip_vision": tiny.clip_vision(),
    }


@pytest.fixture
def pack(nodes, models, tmp_path, monkeypatch):
    """The pack's nodes by their ids, and what each needs beside its pictures."""
    import server

    screen = types.SimpleNamespace(send_progress_text=lambda text, node: None)
    monkeypatch.setattr(server.PromptServer, "instance", screen, raising=False)
    monkeypatch.setattr(folder_paths, "temp_directory", str(tmp_path))
    extension = nodes("extension").SeedSelectExtension()
    found = {node.GET_SCHEMA().node_id: node for node in asyncio.run(extension.get_node_list())}
    sampling = {"steps": 2, "cfg": 1.0, "sampler_name": "ddim", "scheduler": "normal"}
    graph = {name: models[name] for name in ("model", "positive", "negative", "vae")}
    folder = {"pictures": "", "folder": "(none)", "limit": 5, "order": {"order": ["name"]}}
    inputs = {
        "SeedSelectLoadReferenceSet": folder | {"crop": "center", "background": "#FFFFFF"},
        "SeedSelectInvertImage": graph | sampling | {"refinements": 2},
        "SeedSelectDiversityReport": {
            "references": nodes("references").reference_set_from_batch(pictures(count=6)),
            "clip_vision": models["clip_vision"],
            "bins": 2,
            "generated": pictures(),
        },
    }
    return found, inputs


# All of them: a test below counts.
INPUTS = [
    ("SeedSelectLoadReferenceSet", "images"),
    ("SeedSelectInvertImage", "image"),
    ("SeedSelectDiversityReport", "generated"),
    ("SeedSelectDiversityReport", "plain"),
]
LISTED = [each for each in INPUTS if each[0] != "SeedSelectInvertImage"]


def listed(inputs: dict) -> dict:
    """As the host hands them to a node that takes lists; those of a choice are in lists already."""
    return {k: v if isinstance(v, dict) else [v] for k, v in inputs.items()}


def outputs(pack, node: str, name: str, *values) -> list:
    found, inputs = pack
    return run(found[node], **listed(inputs[node]) | {name: list(values)})


def test_every_input_of_pictures_is_among_them(pack):
    there = [
        (name, item.id)
        for name, node in pack[0].items()
        for item in node.GET_SCHEMA().inputs
        if isinstance(item, io.Image.Input)
    ]
    # What is written into a file is the host's own picture; tests/test_seed_pictures.py reads it.
    there.remove(("SeedSelectSaveImageWithSeed", "images"))
    assert sorted(there) == sorted(INPUTS)


def plain(outputs: list) -> list:
    """Everything that can be compared, out of what a node gave."""
    values = []
    for each in (one for run in outputs for one in run):
        if hasattr(each, "resized"):
            each = each.resized(16, 16)
        values.append(each.noise if hasattr(each, "noise") else each)
    return values


@pytest.mark.parametrize("kind", TAKEN)
@pytest.mark.parametrize(("node", "name"), INPUTS)
def test_pictures_of_every_kind_are_taken_for_what_they_show(pack, node, name, kind):
    given, meant = TAKEN[kind]
    found = plain(outputs(pack, node, name, given))
    wanted = plain(outputs(pack, node, name, meant.expand(-1, -1, -1, 3)))
    assert len(found) == len(wanted) > 0
    for one, other in zip(found, wanted, strict=True):
        if isinstance(one, torch.Tensor):
            assert one.isfinite().all()
            torch.testing.assert_close(one, other, atol=1e-4, rtol=1e-4)
        else:
            assert one == other


@pytest.mark.parametrize("kind", REFUSED)
@pytest.mark.parametrize(("node", "name"), INPUTS)
def test_what_is_no_picture_is_refused_by_the_name_of_its_input(pack, node, name, kind):
    given, reason = REFUSED[kind]
    with pytest.raises(ValueError, match=f"^{name}: .*{reason}") as caught:
        outputs(pack, node, name, given)
    assert type(caught.value).__name__ == "SeedSelectError"


@pytest.mark.parametrize(("node", "name"), LISTED)
def test_a_list_of_pictures_is_one_set_whatever_their_sizes(pack, node, name):
    images = [pictures(), pictures(1, (40, 9), 1), pictures(4, (7, 30), 2)]
    made = outputs(pack, node, name, *images)
    assert len(made) == 1
    if name == "images":
        references, preview = made[0]
        assert len(references) == len(preview) == COUNT + 3
        wanted = torch.cat([reference_set_from_batch(each).resized(16, 16) for each in images])
        torch.testing.assert_close(references.resized(16, 16), wanted)
    else:
        assert f"of {COUNT + 3} near-duplicates" in made[0][0]


@pytest.mark.parametrize(("node", "name"), LISTED)
def test_an_empty_list_and_what_is_wrong_in_one_are_refused(pack, node, name):
    with pytest.raises(ValueError, match=f"^{name}: the list is empty"):
        outputs(pack, node, name)
    with pytest.raises(ValueError, match=f"^{name}: there is no picture in it"):
        outputs(pack, node, name, pictures(), pictures(count=0))


def test_each_picture_of_a_list_is_inverted_to_a_seed_of_its_own(pack):
    images = [pictures(count=1), pictures(count=2, size=(24, 16))]
    made = outputs(pack, "SeedSelectInvertImage", "image", *images)
    assert [each[0].noise.shape for each in made] == [(1, 4, 9, 8), (2, 4, 12, 8)]


@pytest.mark.parametrize(
    ("node", "name", "values"),
    [
        ("SeedSelectLoadReferenceSet", "crop", ["center", "pad"]),
        ("SeedSelectLoadReferenceSet", "limit", [1, 2]),
        ("SeedSelectDiversityReport", "bins", [0, 3]),
    ],
)
def test_a_list_into_a_setting_is_refused_by_its_name(pack, node, name, values):
    with pytest.raises(ValueError, match=f"^{name}: a list of 2 values"):
        outputs(pack, node, name, *values)


# Cut-outs, as Load Image hands them over


def references_of(pack, images, mask, **more):
    found, inputs = pack
    values = listed(inputs["SeedSelectLoadReferenceSet"])
    lists = {k: v if isinstance(v, list) else [v] for k, v in more.items()}
    return run(found["SeedSelectLoadReferenceSet"], **values | lists, images=images, mask=mask)


@pytest.fixture
def cut_out(tmp_path, monkeypatch):
    """A picture whose transparent half is red below, as IMAGE and MASK and as a folder."""
    from PIL import Image

    import nodes as host_nodes

    folder = tmp_path / "input"
    folder.mkdir()
    image = Image.new("RGBA", (32, 16), (0, 0, 255, 255))
    image.paste((255, 0, 0, 0), (16, 0, 32, 16))
    image.paste((255, 0, 0, 128), (12, 0, 16, 16))
    image.save(folder / "a.png")
    monkeypatch.setattr(folder_paths, "input_directory", str(folder))
    return *host_nodes.LoadImage().load_image("a.png"), folder


@pytest.mark.parametrize("background", ["#FFFFFF", "#00FF00"])
def test_a_cut_out_of_load_image_shows_what_its_file_shows(pack, cut_out, background):
    image, mask, folder = cut_out
    assert image[0, 0, 20].tolist() == [1, 0, 0]  # the host leaves the color in
    references = references_of(pack, [image], [mask], background=[background])[0][0]
    color = tuple(int(background[i : i + 2], 16) / 255 for i in (1, 3, 5))
    wanted = load_reference_folder(folder, background=color)[0]
    torch.testing.assert_close(references[0], wanted[0], atol=1e-3, rtol=0)


def test_masks_fit_pictures_one_by_one(pack):
    images = [torch.zeros(2, 16, 16, 3), torch.zeros(1, 20, 30, 3)]
    hidden = torch.zeros(2, 16, 16)
    hidden[1] = 1
    empty = torch.zeros(1, 64, 64)  # the host's, of a picture without transparency
    references = references_of(pack, images, [hidden, empty])[0][0]
    assert [float(image.mean()) for image in references] == [0, 1, 0]
    assert references[2].shape == (20, 30, 3)
    half = torch.zeros(64, 64)
    half[:, 32:] = 1
    references = references_of(pack, images[1:], [half])[0][0]
    assert references[0][:, :14].max() == 0 and references[0][:, 16:].min() > 0.999
    # One mask for all, and alpha that the picture has already is not applied twice.
    faded = torch.cat([torch.zeros(3, 8, 8, 3), torch.full((3, 8, 8, 1), 0.5)], 3)
    references = references_of(pack, [faded], [torch.full((1, 8, 8), 0.5)])[0][0]
    assert [float(image.mean()) for image in references] == [0.5] * 3


@pytest.mark.parametrize(
    ("images", "mask", "reason"),
    [
        ([pictures()], [torch.zeros(3, 8, 8)], "it is for 3 pictures, but there are 4"),
        ([pictures()], [torch.zeros(1)], "expected a MASK"),
        ([pictures()], [torch.zeros(4, 0, 8)], "expected a MASK"),
        ([pictures()], ["mask"], "expected a MASK"),
        ([pictures()], [torch.full((4, 8, 8), float("nan"))], "no numbers"),
        ([pictures(), pictures()], [torch.zeros(4, 8, 8)] * 3, "a list of 3 came, but 2 images"),
        (None, [torch.zeros(4, 8, 8)], "no pictures that it belongs to"),
    ],
)
def test_a_mask_that_does_not_fit_is_refused(pack, images, mask, reason):
    found, inputs = pack
    lists = listed(inputs["SeedSelectLoadReferenceSet"]) | {"mask": mask}
    if images is not None:
        lists["images"] = images
    with pytest.raises(ValueError, match=f"^mask: .*{reason}"):
        run(found["SeedSelectLoadReferenceSet"], **lists)


def test_the_message_names_the_remedy():
    with pytest.raises(SeedSelectError, match="Leave it out; if a VAE made it"):
        reference_set_from_batch(holding(float("nan")))
