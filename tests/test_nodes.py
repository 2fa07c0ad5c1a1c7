"""What nodes do around the core: keep what would be lost, and refuse what cannot go well."""

import asyncio
import re
import sys
import types
from collections.abc import Iterator
from pathlib import Path

import comfy.utils
import folder_paths
import numpy as np
import pytest
import torch
from comfy_api.latest import io
from PIL import Image

import tiny


@pytest.fixture(autouse=True)
def host(tmp_path, monkeypatch):
    """Of the running host what nodes write to."""
    import server

    monkeypatch.setattr(folder_paths, "output_directory", str(tmp_path))
    screen = types.SimpleNamespace(send_progress_text=lambda text, node: None)
    monkeypatch.setattr(server.PromptServer, "instance", screen, raising=False)


def run(node, **inputs):
    return tiny.run_node(node, **inputs).args


SEED = "SEEDSELECT_SEED"
SAMPLING = {"seed": 5, "steps": 3, "cfg": 3.0, "sampler_name": "euler", "scheduler": "normal"}


@pytest.mark.parametrize("kind", ["optimize", "advanced"])
def test_a_found_seed_is_kept_when_its_pictures_cannot_be_decoded(
    nodes, connected, kind, tmp_path, monkeypatch
):
    module = nodes(kind)
    own = sys.modules[nodes("sockets").Seed.__module__]
    seed = own.Seed(tiny.normal(2, 4, 8, 8, seed=1), nodes("inputs").SamplingSettings(**SAMPLING))
    found = (seed, {"samples": seed.noise}, None)
    name = {"optimize": "optimize_seed", "advanced": "optimize_noise"}[kind]
    monkeypatch.setattr(module, name, lambda *args, **more: found)

    class Vae:
        def decode(self, samples):
            raise tiny.Broken

    node = {"optimize": "SeedSelectOptimize", "advanced": "SeedSelectOptimizeAdvanced"}[kind]
    node = getattr(module, node)
    with pytest.raises(tiny.Broken):
        run(node, **connected(node, vae=Vae()))
    (file,) = (tmp_path / "seeds").glob("unfinished*")
    assert torch.equal(own.load_seed(file).noise, seed.noise)


def test_preview_of_values_beyond_white_and_black(nodes):
    pictures = torch.tensor([-0.01, 1.01]).view(2, 1, 1, 1).expand(2, 1, 1, 3)
    sheet = nodes("display").draw_grid(pictures)
    assert [sheet.getpixel((x, 0)) for x in (0, 1)] == [(0,) * 3, (255,) * 3]


@pytest.mark.parametrize(
    ("module", "node", "inputs", "named"),
    [
        ("sample", "SampleFromSeed", ["seed"], "seed"),
        ("seeds", "SaveSeed", ["seed"], "seed"),
        ("seeds", "SeedToNoise", ["seed"], "seed"),
        ("seed_pictures", "SaveImageWithSeed", ["seed"], "seed"),
        ("derive", "PickSeeds", ["seed"], "seed"),
        ("derive", "JoinSeeds", ["seed", "other_seed"], "seed"),
        ("derive", "JoinSeeds", ["seed", "other_seed"], "other_seed"),
        ("derive", "ResizeSeed", ["seed"], "seed"),
        ("derive", "SeedVariation", ["seed"], "seed"),
        ("explore", "SeedCentroid", ["seed"], "seed"),
        ("explore", "SeedCentroid", ["seed", "other_seed"], "other_seed"),
        ("explore", "InterpolateSeeds", ["seed_a", "seed_b"], "seed_a"),
        ("explore", "InterpolateSeeds", ["seed_a", "seed_b"], "seed_b"),
    ],
)
def test_a_seed_of_another_pack_is_refused(nodes, connected, module, node, inputs, named):
    """Of that type name, but a number in a dict."""
    own = nodes("sockets").Seed(tiny.normal(1, 4, 8, 8, seed=1), None)
    node = getattr(nodes(module), node)
    given = connected(node, **dict.fromkeys(inputs, own) | {named: {"seed": 7}})
    with pytest.raises(ValueError, match=f"^{named}: expected SEEDSELECT_SEED, got dict"):
        run(node, **given)


def test_every_node_that_takes_a_seed_is_tried_above(nodes):
    (marks,) = test_a_seed_of_another_pack_is_refused.pytestmark
    tried = {(node, named) for _, node, _, named in marks.args[1]}
    folder = Path(__file__).parents[1] / "nodes"
    found = set()
    for path in folder.glob("[a-z]*.py"):
        module = nodes(path.stem)
        for node in vars(module).values():
            if getattr(node, "__module__", "") == module.__name__ and hasattr(node, "GET_SCHEMA"):
                ids = (i.id for i in node.GET_SCHEMA().inputs if i.get_io_type() == SEED)
                found |= {(node.__name__, i) for i in ids}
    assert found == tried


def every_socket(inputs: list) -> Iterator[tuple]:
    """Each input that is no widget, and what to hand over so that it has a value.

    That of a choice comes with the choice and the other inputs of its option.
    """
    for socket in inputs:
        if isinstance(socket, io.DynamicCombo.Input):
            for option in socket.options:
                chosen = {socket.id: option.key}
                chosen |= {i.id: i.default for i in option.inputs if hasattr(i, "default")}
                for inner, _ in every_socket(option.inputs):
                    yield inner, lambda v, i=inner, c=chosen, s=socket: {s.id: c | {i.id: v}}
        elif not hasattr(socket, "default") and socket.get_io_type() not in ("IMAGE", "MASK"):
            yield socket, lambda value, socket=socket: {socket.id: value}


def test_what_a_socket_is_not_for_is_refused_in_words(nodes, connected):
    """The host lets an API prompt have a value in the place of a link."""
    extension = nodes("extension").SeedSelectExtension()
    tried = set()
    for node in asyncio.run(extension.get_node_list()):
        own = nodes("sockets").Seed(tiny.normal(1, 4, 8, 8), None)
        seeds = [i.id for i in node.GET_SCHEMA().inputs if i.get_io_type() == SEED]
        given = connected(node, **dict.fromkeys(seeds, own))
        for socket, having in every_socket(node.GET_SCHEMA().inputs):
            tried.add(socket.id)
            for value in (5, "x\x1b", True, {}, [["a"]], object()):
                told = f"^{socket.id}: expected .*, got {type(value).__name__}\\. Connect "
                with pytest.raises(ValueError, match=told):
                    run(node, **given | having(value))
            if not socket.optional:
                with pytest.raises(ValueError, match=f"^{socket.id}: expected .* got NoneType"):
                    run(node, **given | having(None))
    assert {"start", "contrast", "contrast_prompt", "search_vae", "clip_vision"} < tried
    assert len(tried) == 21


def test_a_choice_that_there_is_none_of_is_refused_in_words(nodes, connected):
    """The host hands nothing over where an API prompt names none, and does not say so."""
    extension = nodes("extension").SeedSelectExtension()
    tried = set()
    for node in asyncio.run(extension.get_node_list()):
        own = nodes("sockets").Seed(tiny.normal(1, 4, 8, 8), None)
        seeds = [i.id for i in node.GET_SCHEMA().inputs if i.get_io_type() == SEED]
        given = connected(node, **dict.fromkeys(seeds, own))
        for socket in node.GET_SCHEMA().inputs:
            if isinstance(socket, io.DynamicCombo.Input):
                tried.add(socket.id)
                names = ", ".join(option.key for option in socket.options)
                told = re.escape(f"{socket.id}: must be one of {names}.")
                for value in (None, 5, "x", {}, {socket.id: "x\x1b"}, {socket.id: ["off", 1]}):
                    with pytest.raises(ValueError, match=f"^{told}$"):
                        run(node, **given | {socket.id: value})
    assert tried == {"preset", "extras", "settings", "order"}


def test_a_link_to_an_input_that_there_is_none_of_changes_nothing(nodes, connected):
    """The host hands it over."""
    node = nodes("seeds").SeedToNoise
    sampling = nodes("inputs").SamplingSettings(**SAMPLING)
    own = nodes("sockets").Seed(tiny.normal(1, 4, 8, 8), sampling)
    (noise,) = run(node, **connected(node, seed=own), **{"no such input": 5})
    assert noise.generate_noise({"samples": torch.zeros(1, 4, 8, 8)}).equal(own.noise)


def test_a_set_that_no_file_could_hold_is_refused(nodes, connected):
    """Before the run, and by the size of the model's latents: an empty one has 4 channels here."""
    module = nodes("diverse")
    model = tiny.model()
    model.get_model_object("latent_format").latent_channels = 16
    given = connected(
        module.DiverseSet, model=model, latent={"samples": torch.zeros(1, 4, 128, 128)}
    )
    with pytest.raises(ValueError, match=r"^count: 257 pictures .* at most 256\.$"):
        run(module.DiverseSet, count=257, **{k: v for k, v in given.items() if k != "count"})
    module.require_file(256, model, given["latent"])


def test_what_is_kept_goes_into_as_many_files_as_it_needs(nodes, tmp_path, monkeypatch):
    module = nodes("display")
    own = sys.modules[nodes("sockets").Seed.__module__]
    monkeypatch.setattr(sys.modules[own.Seed.__module__], "MAX_VALUES", 2 * 4 * 8 * 8)
    seed = own.Seed(
        tiny.normal(5, 4, 8, 8), nodes("inputs").SamplingSettings(**SAMPLING), semantic=[0.5] * 5
    )
    hidden = types.SimpleNamespace(unique_id="1", prompt=None, extra_pnginfo=None)
    module.Display(hidden).keep(seed)
    files = sorted(tmp_path.glob("seeds/*"))
    kept = torch.cat([own.load_seed(path).noise for path in files])
    assert len(files) == 3 and torch.equal(kept, seed.noise)


def test_what_is_kept_is_told_below_the_last_preview(nodes, monkeypatch):
    """Where a subgraph is between the node and the page, the text alone would not be seen."""
    sent = []
    hook = lambda value, total, preview, node_id: sent.append(preview)  # noqa: E731
    monkeypatch.setattr(comfy.utils, "PROGRESS_BAR_HOOK", hook)
    own = sys.modules[nodes("sockets").Seed.__module__]
    sampling = nodes("inputs").SamplingSettings(**SAMPLING)
    seed = own.Seed(tiny.normal(1, 4, 8, 8), sampling, semantic=[0.5])
    hidden = types.SimpleNamespace(unique_id="5:4", prompt=None, extra_pnginfo=None)
    show = nodes("display").Display(hidden)
    _, before, _ = show.preview("iteration 1", Image.new("RGB", (256, 100), "red"))
    show.keep(seed)
    (_, after, _) = sent[-1]
    assert after.width == before.width == 512
    caption = np.asarray(after)[200:]
    assert (np.asarray(after)[:200] == (255, 0, 0)).all()
    assert (caption < 128).any() and after.height > before.height  # as its text is longer
    show.preview("iteration 1", Image.new("RGB", (4, 2000)))  # narrower than a character


def test_the_best_draft_is_shown_while_the_start_is_chosen(nodes, monkeypatch):
    sent = []
    monkeypatch.setattr(comfy.utils, "PROGRESS_BAR_HOOK", lambda *told, **_: sent.append(told))
    module = nodes("display")
    loop = sys.modules[module.Progress.__module__]
    loss = torch.tensor([0.3, 0.1])
    drafted = loop.Best(None, loss, loss, loss, loss, torch.ones(2, 8, 8, 3))
    hidden = types.SimpleNamespace(unique_id="5", prompt=None, extra_pnginfo=None)
    show = module.Display(hidden)
    show(loop.Progress(3, 40, 0, None, 0, False, loop.SeedHistory(), loop.Drafts(1, 24, drafted)))
    ((done, planned, (_, picture, _)),) = sent
    assert (done, planned) == (3, 40) and picture.width >= 256
    assert (np.asarray(picture)[:50, :50] > 250).all()
