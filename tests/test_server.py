"""The nodes in a real server process, driven over HTTP and WebSocket as a browser would."""

import io
import json
import os
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors import safe_open
from safetensors.torch import save_file

import host
from api_workflow import CHOICE, changed, complete, find, to_api
from comfy_client import ComfyClient, PromptRejected
from conftest import HOST, REPO
from host_install import Host
from seedselect_core.seeds.seed import SamplingSettings, Seed

OURS = {
    "SeedSelectLoadReferenceSet",
    "SeedSelectOptimize",
    "SeedSelectOptimizeAdvanced",
    "SeedSelectLoadOpenClip",
    "SeedSelectSampleFromSeed",
    "SeedSelectSaveSeed",
    "SeedSelectSaveImageWithSeed",
    "SeedSelectLoadSeed",
    "SeedSelectPickSeeds",
    "SeedSelectJoinSeeds",
    "SeedSelectResizeSeed",
    "SeedSelectSeedVariation",
    "SeedSelectSeedToNoise",
    "SeedSelectInvertImage",
    "SeedSelectSeedCentroid",
    "SeedSelectInterpolateSeeds",
    "SeedSelectDiverseSet",
    "SeedSelectTradeoffSweep",
    "SeedSelectDiversityReport",
    "SeedSelectLoadPocketModel",
    "SeedSelectPocketReferences",
    "SeedSelectHandReferences",
}
SAMPLING = {"steps": 4, "cfg": 3.0, "sampler_name": "ddim", "scheduler": "normal"}
WORKFLOWS = sorted(path.stem for path in (REPO / "workflows").glob("*.json"))


def make_lora(path: Path) -> None:
    """A LoRA of rank 2 on one weight of the pocket UNet, in the host's generic key format."""
    name = "time_embed.0"
    with safe_open(REPO / "pocket/weights/unet.safetensors", "pt") as file:
        rows, columns = file.get_slice(f"{name}.weight").get_shape()
    generator = torch.Generator().manual_seed(0)
    parts = {"up": torch.randn(rows, 2, generator=generator)}
    parts["down"] = torch.randn(2, columns, generator=generator)
    weights = {f"diffusion_model.{name}.lora_{k}.weight": v for k, v in parts.items()}
    path.parent.mkdir(parents=True)
    save_file(weights, path)


def opened(name: str) -> dict:
    return json.loads((REPO / f"workflows/{name}.json").read_text(encoding="utf-8"))


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    base = tmp_path_factory.mktemp("comfyui")
    make_lora(base / "models/loras/tiny.safetensors")
    # The classic cache never drops what a prompt has in common with the one before it.
    arguments = ["--cpu", "--cache-classic", "--deterministic"]
    real = Host(HOST, Path(sys.executable), managed=False)
    with host.server(arguments, base_directory=base, host=real) as running:
        yield running


@pytest.fixture(scope="module")
def client(server):
    return ComfyClient(server.url)


@pytest.fixture(scope="module")
def object_info(client):
    return client.get("object_info")


@pytest.fixture
def api(object_info):
    """Complete a short prompt: node types first, widgets that are not named at their default."""

    def completed(nodes: dict[str, tuple[str, dict]]) -> dict:
        return {
            key: {"class_type": kind, "inputs": complete(object_info[kind], inputs)}
            for key, (kind, inputs) in nodes.items()
        }

    return completed


def pocket(prompt: str = "a red letter S on yellow", batch: int = 1) -> dict:
    """The nodes that every prompt on the pocket model needs, for `api`."""
    return {
        "model": ("SeedSelectLoadPocketModel", {}),
        "pos": ("CLIPTextEncode", {"clip": ["model", 1], "text": prompt}),
        "neg": ("CLIPTextEncode", {"clip": ["model", 1], "text": ""}),
        "latent": ("EmptyLatentImage", {"width": 64, "height": 64, "batch_size": batch}),
    }


def shown(key: str, latent: str) -> dict:
    """Decode a latent and show the picture under `key`."""
    return {
        f"{key} decoded": ("VAEDecode", {"samples": [latent, 0], "vae": ["model", 2]}),
        key: ("PreviewImage", {"images": [f"{key} decoded", 0]}),
    }


def ksampler(model: list | None = None, **changes) -> tuple[str, dict]:
    inputs = {"model": model or ["model", 0], "positive": ["pos", 0], "negative": ["neg", 0]}
    return "KSampler", inputs | {"latent_image": ["latent", 0], "seed": 5} | SAMPLING | changes


def optimize(**changes) -> dict:
    """Pocket references and the node that optimizes, with two short iterations."""
    inputs = {"model": ["model", 0], "positive": ["pos", 0], "negative": ["neg", 0]}
    inputs |= {"vae": ["model", 2], "clip_vision": ["model", 3], "references": ["refs", 0]}
    inputs |= {"latent": ["latent", 0], "seed": 5, "preset": "custom", "first_draws": 1}
    inputs |= {"iterations": 2} | SAMPLING
    return {
        "letters": ("SeedSelectPocketReferences", {"letter": "S", "count": 2}),
        "refs": ("SeedSelectLoadReferenceSet", {"folder": "(none)", "images": ["letters", 0]}),
        "opt": ("SeedSelectOptimize", inputs | changes),
    }


def pictures(client: ComfyClient, result, key: str) -> np.ndarray:
    """What a node shows, [B, H, W, 3] bytes; each must be an RGB PNG."""
    found = []
    for entry in result.images(key):
        with Image.open(io.BytesIO(client.fetch(entry))) as image:
            assert (image.format, image.mode) == ("PNG", "RGB")
            found.append(np.asarray(image))
    return np.stack(found)


def every_input(inputs: dict) -> Iterator[tuple[str, list]]:
    """Name and description of each, and of those that a choice brings along."""
    for section in ("required", "optional"):
        for name, told in inputs.get(section, {}).items():
            yield name, told
            for option in told[1]["options"] if told[0] == CHOICE else ():
                yield from every_input(option["inputs"])


def test_every_node_explains_itself(client, object_info):
    ours = {key for key, info in object_info.items() if info["category"].startswith("SeedSelect")}
    assert ours == OURS
    for key in ours:
        info = object_info[key]
        assert info["description"], key
        assert info["python_module"] == f"custom_nodes.{host.PACK}"
        assert all(info["output_tooltips"] or []), key
        page = client.get_bytes(f"extensions/{host.PACK}/docs/{key}.md").decode()
        title = info["display_name"]
        assert page.startswith(f"# {title}\n\n![{title}]({key}.png)\n")
        picture = client.get_bytes(f"extensions/{host.PACK}/docs/{key}.png")
        assert picture.startswith(b"\x89PNG") and len(picture) < 60_000
        for name, (_, *options) in every_input(info["input"]):
            assert options and options[0].get("tooltip"), f"{key}.{name} has no tooltip"
            said = options[0].get("display_name", name)
            assert f"**{said}**" in page, f"{key}.{name} is not in its help page"
        assert info["search_aliases"], key


def test_template_browser_lists_our_workflows(client):
    assert sorted(client.get("workflow_templates")[host.PACK]) == WORKFLOWS
    for name in WORKFLOWS:
        place = f"api/workflow_templates/{host.PACK}/{name}"
        assert client.get(f"{place}.json")["version"] == 0.4
        thumbnail = client.get_bytes(f"{place}.jpg")
        assert len(thumbnail) < 60_000
        with Image.open(io.BytesIO(thumbnail)) as image:
            assert image.format == "JPEG" and min(image.size) >= 200


def test_pocket_workflow_end_to_end(client, server, api, object_info):
    graph = json.loads((REPO / "workflows/pocket_demo.json").read_text(encoding="utf-8"))
    prompt = to_api(graph, object_info)
    node = find(prompt, "SeedSelectOptimize")
    settings = prompt[node]["inputs"]
    short = {"preset": "custom", "iterations": 2, "first_draws": 1}
    settings |= changed(object_info["SeedSelectOptimize"], settings, short)
    prompt[find(prompt, "EmptyLatentImage")]["inputs"]["batch_size"] = 2
    prompt |= api(
        {
            "seen": ("PreviewImage", {"images": [node, 1]}),
            "noise": ("SeedSelectSeedToNoise", {"seed": [node, 0]}),
            "guider": (
                "CFGGuider",
                {k: settings[k] for k in ("model", "positive", "negative", "cfg")},
            ),
            "sampler": ("KSamplerSelect", {"sampler_name": settings["sampler_name"]}),
            "sigmas": (
                "BasicScheduler",
                {k: settings[k] for k in ("model", "scheduler", "steps")},
            ),
            "custom": (
                "SamplerCustomAdvanced",
                {
                    **{k: [k, 0] for k in ("noise", "guider", "sampler", "sigmas")},
                    "latent_image": settings["latent"],
                },
            ),
            "custom decoded": ("VAEDecode", {"samples": ["custom", 0], "vae": settings["vae"]}),
            "advanced": ("PreviewImage", {"images": ["custom decoded", 0]}),
        }
    )
    events = []
    result = client.run(prompt, events.append)
    assert result.status == "success", result.error

    mine = [event for event in events if event.node == node]
    progress = [event for event in mine if event.kind == "progress"]
    steps = settings["steps"]
    # Two gradients, the noise after the second, and the best noises once more. The host leaves
    # out reports that follow each other too closely.
    assert [e.value for e in progress] == sorted(e.value for e in progress)
    assert len({e.value for e in progress}) >= 3 and progress[-1].value == 4 * steps
    assert {e.maximum for e in progress} == {4 * steps}
    texts = [event.text for event in mine if event.kind == "text"]
    assert "GB free" in texts.pop(0) and all("likeness" in text for text in texts)
    *first, last = [event.image for event in mine if event.kind == "preview"]
    with Image.open(io.BytesIO(last)) as preview:
        assert len(first) >= 2 and preview.width == 512 and preview.height > 352  # curve, text

    kept = client.get(f"history/{result.prompt_id}")[result.prompt_id]
    assert kept["status"]["status_str"] == "success"
    saved = {title: find(prompt, "SaveImage", title) for title in ("Before", "After")}
    assert {kept["outputs"][key]["images"][0]["type"] for key in saved.values()} == {"output"}
    before, after = (pictures(client, result, saved[title]) for title in ("Before", "After"))
    assert before.shape == after.shape == (2, 64, 64, 3)
    assert (before != after).any(axis=(1, 2, 3)).all()
    for key in ("seen", "advanced", node):  # the node's own picture stays in the page
        np.testing.assert_array_equal(pictures(client, result, key), after)
    assert list((server.base_directory / "output/seeds").glob("*.seed.safetensors"))


def test_references_are_read_again_when_a_file_changes(client, server, api):
    folder = server.base_directory / "input/letters/rare"
    folder.mkdir(parents=True)
    Image.new("RGB", (80, 60), "red").save(folder / "a.png")
    (folder / "broken.png").write_bytes(b"no picture")
    prompt = api(
        {
            "refs": ("SeedSelectLoadReferenceSet", {"folder": "letters/rare"}),
            "seen": ("PreviewImage", {"images": ["refs", 1]}),
        }
    )
    events = []
    first = client.run(prompt, events.append)
    assert "refs" in first.executed and len(first.images("refs")) == 1
    assert any(e.node == "refs" and "broken.png" in e.text for e in events)
    again = client.run(prompt)
    assert "refs" in again.cached and "refs" not in again.executed

    Image.new("RGB", (80, 60), "blue").save(folder / "a.png")
    changed = os.stat(folder / "a.png").st_mtime_ns + 10**9
    os.utime(folder / "a.png", ns=(changed, changed))
    fresh = client.run(prompt)
    assert "refs" in fresh.executed
    red, blue = (pictures(client, result, "seen")[0, 256, 256] for result in (first, fresh))
    assert list(red) == [255, 0, 0] and list(blue) == [0, 0, 255]


def test_a_list_of_pictures_is_one_set_and_a_cut_out_shows_the_background(client, server, api):
    cut_out = Image.new("RGBA", (64, 64), (0, 0, 255, 255))
    cut_out.paste((255, 0, 0, 0), (32, 0, 64, 64))
    cut_out.save(server.base_directory / "input/cut out.png")
    of_list = {"folder": "(none)", "images": ["list", 0]}
    of_file = {"folder": "(none)", "images": ["load", 0], "mask": ["load", 1]}
    prompt = api(
        {
            "letters": ("SeedSelectPocketReferences", {"letter": "S", "count": 3}),
            "list": ("RebatchImages", {"images": ["letters", 0], "batch_size": 1}),
            "refs": ("SeedSelectLoadReferenceSet", of_list),
            "load": ("LoadImage", {"image": "cut out.png"}),
            "cut": ("SeedSelectLoadReferenceSet", of_file),
            "seen": ("PreviewImage", {"images": ["cut", 1]}),
            "seen too": ("PreviewImage", {"images": ["refs", 1]}),
        }
    )
    events = []
    result = client.run(prompt, events.append)
    told = [e.text for e in events if e.node == "refs" and e.text]
    assert told == ["3 of 3 pictures used"]
    assert len(pictures(client, result, "seen too")) == 3
    cut = pictures(client, result, "seen")[0]
    assert list(cut[256, 100]) == [0, 0, 255] and list(cut[256, 400]) == [255, 255, 255]


def test_cancel_keeps_the_best_seed_and_leaves_the_model_alone(client, server, api):
    plain = api(pocket() | {"ks": ksampler()} | shown("plain", "ks"))
    untouched = pictures(client, client.run(plain), "plain")
    texts = []

    def cancel_after_an_iteration(event):
        if event.kind == "text" and event.node == "opt":
            texts.append(event.text)
            if len(texts) == 3:
                client.interrupt()

    endless = optimize(iterations=10_000)
    endless["sink"] = ("SeedSelectSaveSeed", {"seed": ["opt", 0], "filename_prefix": "never"})
    result = client.run(api(pocket() | endless), cancel_after_an_iteration, timeout=600)
    assert result.status == "interrupted"
    output = server.base_directory / "output"
    assert not list(output.glob("never*"))
    (unfinished,) = (output / "seeds").glob("unfinished*.seed.safetensors")
    assert unfinished.name in texts[-1]

    later = pocket() | {"ks": ksampler()} | shown("plain", "ks")
    later["seed"] = ("SeedSelectLoadSeed", {"seed_file": f"[output] seeds/{unfinished.name}"})
    inputs = {"model": ["model", 0], "positive": ["pos", 0], "negative": ["neg", 0]}
    later["sample"] = ("SeedSelectSampleFromSeed", inputs | {"seed": ["seed", 0]})
    result = client.run(api(later | shown("found", "sample")))
    assert result.status == "success", result.error
    assert "model" in result.cached and "ks" in result.executed  # the very model, sampled anew
    np.testing.assert_array_equal(pictures(client, result, "plain"), untouched)
    assert (pictures(client, result, "found") != untouched).any()


def save_seed(server, name: str, latent_format: str = "PocketLatent") -> str:
    noise = torch.randn(1, 4, 8, 8, generator=torch.Generator().manual_seed(1))
    sampling = SamplingSettings(seed=5, **SAMPLING)
    path = server.base_directory / "input" / f"{name}.seed.safetensors"
    Seed(noise, sampling, latent_format).save(path)
    return f"[input] {path.name}"


@pytest.mark.parametrize(
    "changes, named",
    [
        ({"refs": {"folder": "no such folder"}}, ["folder:", "no such folder"]),
        ({"opt": {"sampler_name": "midnight"}}, ["sampler_name", "midnight"]),
        ({"opt": {"latent": ["pos", 0]}}, ["latent", "CONDITIONING"]),
        ({"opt": {"preset.iterations": -1}}, ["iterations", "-1"]),
    ],
)
def test_wrong_inputs_are_refused_before_the_run(client, api, changes, named):
    prompt = api(pocket() | optimize() | {"seen": ("PreviewImage", {"images": ["opt", 1]})})
    for key, inputs in changes.items():
        prompt[key]["inputs"] |= inputs
    with pytest.raises(PromptRejected) as refusal:
        client.run(prompt)
    assert set(refusal.value.node_errors) == set(changes)
    assert all(part in str(refusal.value) for part in named), str(refusal.value)


def fails(client, prompt: dict, node: str) -> str:
    """Run a prompt that must fail in `node`, and return what the user is told."""
    result = client.run(prompt)
    assert (result.status, result.error.get("node_id")) == ("error", node)
    assert result.error["exception_type"].endswith("SeedSelectError")
    return result.error["exception_message"]


def test_things_that_do_not_fit_name_the_input(client, server, api):
    seen = {"seen": ("PreviewImage", {"images": ["opt", 1]})}

    nothing = pocket() | optimize() | seen
    nothing["refs"] = ("SeedSelectLoadReferenceSet", {"folder": "(none)"})
    assert fails(client, api(nothing), "refs").startswith("pictures: no references.")

    pixels = pocket() | optimize(vae=["pixels", 0]) | seen
    pixels["pixels"] = ("VAELoader", {"vae_name": "pixel_space"})
    assert fails(client, api(pixels), "opt").startswith("vae: its latents have 3 channels")

    weights = pocket() | optimize(step_weights="0.5, half") | seen
    assert fails(client, api(weights), "opt").startswith("step_weights: ")

    inputs = {"model": ["model", 0], "positive": ["pos", 0], "negative": ["neg", 0]}
    foreign = pocket() | shown("plain", "sample")
    foreign["seed"] = ("SeedSelectLoadSeed", {"seed_file": save_seed(server, "foreign", "SDXL")})
    foreign["sample"] = ("SeedSelectSampleFromSeed", inputs | {"seed": ["seed", 0]})
    told = fails(client, api(foreign), "sample")
    assert told.startswith("seed: made for latents of SDXL") and "PocketLatent" in told

    other_size = pocket(batch=2) | advanced(["noise", 0]) | shown("plain", "custom")
    other_size["seed"] = ("SeedSelectLoadSeed", {"seed_file": save_seed(server, "one")})
    other_size["noise"] = ("SeedSelectSeedToNoise", {"seed": ["seed", 0]})
    told = fails(client, api(other_size), "custom")
    assert told.startswith("latent: ") and "1 x 64 x 64" in told and "2 x 64 x 64" in told


def advanced(noise: list) -> dict:
    """SamplerCustomAdvanced with the settings of `ksampler`."""
    model = {"model": ["model", 0]}
    parts = {k: [k, 0] for k in ("guider", "sampler", "sigmas")}
    return {
        "guider": (
            "CFGGuider",
            model | {"positive": ["pos", 0], "negative": ["neg", 0], "cfg": SAMPLING["cfg"]},
        ),
        "sampler": ("KSamplerSelect", {"sampler_name": SAMPLING["sampler_name"]}),
        "sigmas": ("BasicScheduler", model | {k: SAMPLING[k] for k in ("scheduler", "steps")}),
        "custom": (
            "SamplerCustomAdvanced",
            parts | {"noise": noise, "latent_image": ["latent", 0]},
        ),
    }


def test_stock_nodes_work_on_the_pocket_model(client, api):
    nodes = pocket() | {"ks": ksampler()} | shown("plain", "ks")
    nodes |= advanced(["noise", 0]) | shown("advanced", "custom")
    nodes["noise"] = ("RandomNoise", {"noise_seed": 5})
    nodes["letters"] = ("SeedSelectPocketReferences", {"letter": "S", "count": 2})
    nodes["letters shown"] = ("PreviewImage", {"images": ["letters", 0]})
    nodes["encoded"] = ("VAEEncode", {"pixels": ["letters", 0], "vae": ["model", 2]})
    nodes |= shown("again", "encoded")
    nodes["vision"] = (
        "CLIPVisionEncode",
        {"clip_vision": ["model", 3], "image": ["plain decoded", 0], "crop": "center"},
    )
    nodes["vision shown"] = ("PreviewAny", {"source": ["vision", 0]})
    for name, strength in (("with", 1.0), ("without", 0.0)):
        nodes[f"lora {name}"] = (
            "LoraLoaderModelOnly",
            {
                "model": ["model", 0],
                "lora_name": "tiny.safetensors",
                "strength_model": strength,
            },
        )
        nodes[f"ks {name}"] = ksampler([f"lora {name}", 0])
        nodes |= shown(name, f"ks {name}")
    result = client.run(api(nodes))
    assert result.status == "success", result.error
    plain = pictures(client, result, "plain")
    assert plain.shape == (1, 64, 64, 3)
    np.testing.assert_array_equal(pictures(client, result, "advanced"), plain)
    np.testing.assert_array_equal(pictures(client, result, "without"), plain)
    assert (pictures(client, result, "with") != plain).any()
    letters = pictures(client, result, "letters shown").astype(float)
    assert np.abs(pictures(client, result, "again") - letters).mean() < 0.1 * 255
    assert "comfy.clip_vision.Output" in result.outputs["vision shown"]["text"][0]
