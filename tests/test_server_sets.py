"""Toy workflows and the nodes of sets and sweeps in a real server, with few short iterations."""

import numpy as np
import pytest

from api_workflow import MUTED, changed, find, to_api

# Pytest finds fixtures by name in this module.
from test_server import (  # noqa: F401
    SAMPLING,
    WORKFLOWS,
    api,
    client,
    fails,
    object_info,
    opened,
    pictures,
    pocket,
    server,
)

# What each workflow of a toy model is shortened to: node type to inputs.
QUICK = {"steps": 4, "preset": "quick"}
CUSTOM = {"steps": 4, "preset": "custom", "iterations": 2, "first_draws": 2}
SHORT = {
    "pocket_demo": {"SeedSelectOptimize": CUSTOM, "EmptyLatentImage": {"batch_size": 1}},
    "pocket_rare_concept": {"SeedSelectOptimize": CUSTOM, "EmptyLatentImage": {"batch_size": 1}},
    "pocket_diverse_set": {
        "SeedSelectDiverseSet": QUICK | {"count": 3, "iterations": 1, "min_distance": 0.0},
        "EmptyLatentImage": {"batch_size": 2},
    },
    "pocket_interpolate_seeds": {
        "SeedSelectInvertImage": {"steps": 4},
        "SeedSelectInterpolateSeeds": {"points": 3},
    },
    "pocket_advanced": {
        "SeedSelectOptimizeAdvanced": {"preset": "custom", "iterations": 2, "first_draws": 2},
        "BasicScheduler": {"steps": 3},
        "EmptyLatentImage": {"batch_size": 1},
    },
    "pocket_tradeoff_sweep": {
        "SeedSelectTradeoffSweep": QUICK | {"likeness_how_it_looks": "0, 10"}
    },
    "toy_hands": {"SeedSelectOptimize": CUSTOM, "EmptyLatentImage": {"batch_size": 1}},
}

# Graphs that need a checkpoint, and the one that shows in this suite that their wiring runs. Those
# of other families than Stable Diffusion 1 and XL are in test_templates.py.
TWINS = {
    "seedselect_sd15": "pocket_demo",
    "seedselect_sdxl": "pocket_demo",
    "hand_palms_sd15": "toy_hands",
    "hand_palms_sdxl": "toy_hands",
    "best_of_n_sd15": "pocket_demo",
    "rare_concept_sdxl": "pocket_rare_concept",
    "diverse_set": "pocket_diverse_set",
    "interpolate_seeds": "pocket_interpolate_seeds",
    "tradeoff_sweep": "pocket_tradeoff_sweep",
}
# Where models and pictures come from, what is written beside the graph, and what only shows it.
APART = {"CheckpointLoaderSimple", "CLIPVisionLoader", "SeedSelectLoadPocketModel"}
APART |= {"SeedSelectLoadReferenceSet"}
APART |= {"SeedSelectPocketReferences", "SeedSelectHandReferences"}
APART |= {"MarkdownNote", "PreviewImage"}
# Of the toy model alone, which has two encoders.
SECOND = "extras.clip_vision_2"
# Their twin is in them too, muted.
HOLD_THEIR_TWIN = ("hand_palms_sd15", "hand_palms_sdxl")


def with_twin_alone(name: str) -> dict:
    """A workflow as it is once the group of its twin is turned on, without the nodes beside it."""
    graph = opened(name)
    twin = [node for node in graph["nodes"] if node.get("mode") == MUTED]
    return graph | {"nodes": [node | {"mode": 0} for node in twin]}


def shortened(name: str, object_info: dict) -> dict:  # noqa: F811
    return short(opened(name), name, object_info)


def short(graph: dict, name: str, object_info: dict) -> dict:  # noqa: F811
    prompt = to_api(graph, object_info)
    for kind, changes in SHORT[name].items():
        node = prompt[find(prompt, kind)]
        node["inputs"] = changed(object_info[kind], node["inputs"], changes)
        assert changes.keys() <= {name.rpartition(".")[2] for name in node["inputs"]}
    return prompt


def run(client, prompt: dict):  # noqa: F811
    events = []
    result = client.run(prompt, events.append)
    assert result.status == "success", result.error
    return result, events


def test_every_toy_workflow_is_run_here_and_has_two_encoders(object_info):  # noqa: F811
    assert set(SHORT) == {name for name in WORKFLOWS if name.startswith(("pocket_", "toy_"))}
    for name in SHORT:
        prompt = to_api(opened(name), object_info)
        for node in prompt.values():
            if node["class_type"].startswith("SeedSelectOptimize"):
                loader, output = node["inputs"][SECOND]
                assert prompt[loader]["class_type"] == "SeedSelectLoadPocketModel" and output == 4


def wiring(graph: dict) -> list[tuple[str, list[str]]]:
    """Of each node that does the work its type, and the inputs that are linked."""
    return sorted(
        (
            node["type"],
            sorted(
                slot["name"]
                for slot in node.get("inputs", [])
                if slot["link"] is not None and slot["name"] != SECOND
            ),
        )
        for node in graph["nodes"]
        if node["type"] not in APART and node.get("mode") != MUTED
    )


@pytest.mark.parametrize("name", TWINS)
def test_a_workflow_is_wired_as_its_toy_twin(name):
    assert wiring(opened(name)) == wiring(opened(TWINS[name]))


@pytest.mark.parametrize("name", HOLD_THEIR_TWIN)
def test_the_twin_in_a_workflow_runs_once_it_is_turned_on(client, object_info, name):  # noqa: F811
    twin = with_twin_alone(name)
    assert to_api(twin, object_info).keys().isdisjoint(to_api(opened(name), object_info))
    assert wiring(twin) == wiring(opened(TWINS[name]))
    prompt = short(twin, TWINS[name], object_info)
    result, _ = run(client, prompt)
    for title in ("Before", "After"):
        assert pictures(client, result, find(prompt, "SaveImage", title)).shape == (1, 64, 64, 3)


def test_rare_concept_is_pushed_away_from_its_neighbor(client, object_info):  # noqa: F811
    prompt = shortened("pocket_rare_concept", object_info)
    node = find(prompt, "SeedSelectOptimize")
    after = find(prompt, "SaveImage", "After")
    result, _ = run(client, prompt)
    contrasted = pictures(client, result, after)
    assert contrasted.shape == (1, 64, 64, 3)
    del prompt[node]["inputs"]["extras.contrast_prompt"]
    result, _ = run(client, prompt)
    assert (pictures(client, result, after) != contrasted).any()


def test_custom_sampling_draws_what_the_advanced_node_found(client, object_info):  # noqa: F811
    prompt = shortened("pocket_advanced", object_info)
    node = find(prompt, "SeedSelectOptimizeAdvanced")
    given = prompt[node]["inputs"]
    drawn = {"Before": given["noise"], "After": ["found", 0]}
    prompt["found"] = {"class_type": "SeedSelectSeedToNoise", "inputs": {"seed": [node, 0]}}
    for title, noise in drawn.items():
        same = {name: given[name] for name in ("guider", "sampler", "sigmas")}
        same |= {"noise": noise, "latent_image": given["latent"]}
        prompt[title] = {"class_type": "SamplerCustomAdvanced", "inputs": same}
        decode = {"samples": [title, 0], "vae": given["vae"]}
        prompt[f"{title} decoded"] = {"class_type": "VAEDecode", "inputs": decode}
        images = {"images": [f"{title} decoded", 0]}
        prompt[f"{title} seen"] = {"class_type": "PreviewImage", "inputs": images}
    result, events = run(client, prompt)
    before, after = (pictures(client, result, f"{title} seen") for title in drawn)
    for title, again in zip(drawn, (before, after), strict=True):
        saved = pictures(client, result, find(prompt, "SaveImage", title))
        assert (saved == again).all()
    assert (after != before).any()
    mine = [event for event in events if event.node == node]
    assert {"preview", "text", "progress"} <= {event.kind for event in mine}


def test_diverse_set(client, server, object_info):  # noqa: F811
    prompt = shortened("pocket_diverse_set", object_info)
    node = find(prompt, "SeedSelectDiverseSet")
    # The set's seed draws the set again.
    model = {k: prompt[node]["inputs"][k] for k in ("model", "positive", "negative")}
    prompt["again"] = {
        "class_type": "SeedSelectSampleFromSeed",
        "inputs": model | {"seed": [node, 0], "settings": "as the seed says"},
    }
    decode = {"samples": ["again", 0], "vae": prompt[node]["inputs"]["vae"]}
    prompt["decoded"] = {"class_type": "VAEDecode", "inputs": decode}
    prompt["seen"] = {"class_type": "PreviewImage", "inputs": {"images": ["decoded", 0]}}
    result, events = run(client, prompt)
    made = pictures(client, result, find(prompt, "SaveImage"))
    (report,) = result.outputs[find(prompt, "PreviewAny")]["text"]
    found = int(report.split(" of 3 pictures found")[0])
    assert len(made) == found and found >= 2
    # Another batch may differ by rounding in the last bit.
    again = pictures(client, result, "seen").astype(int)
    assert np.abs(again - made).max() <= 2
    assert ("Fewer than wanted" in report) == (found < 3)
    assert "duplicates" in report and "model evaluations a picture" in report
    mine = [event for event in events if event.node == node]
    assert any(event.kind == "preview" for event in mine)
    texts = [event.text for event in mine if event.kind == "text"]
    assert texts[-1] == report and any("under way: 2" in text for text in texts)
    values = [event.value for event in mine if event.kind == "progress"]
    assert values == sorted(values)
    assert list((server.base_directory / "output/seeds").glob("SeedSelect-pocket-set*"))


def test_interpolated_seeds_lead_from_one_picture_to_the_other(client, object_info):  # noqa: F811
    prompt = shortened("pocket_interpolate_seeds", object_info)
    result, _ = run(client, prompt)
    path = pictures(client, result, find(prompt, "SaveImage")).astype(int)
    ends = pictures(client, result, find(prompt, "PreviewImage", "The two pictures")).astype(int)
    assert len(path) == 3 and len(ends) == 2
    for drawn, real, other in ((path[0], ends[0], ends[1]), (path[2], ends[1], ends[0])):
        assert np.abs(drawn - real).mean() < 0.5 * np.abs(drawn - other).mean()
    assert (path[1] != path[0]).any() and (path[1] != path[2]).any()
    (report,) = result.outputs[find(prompt, "PreviewAny")]["text"]
    assert report.count("latent error") == 2


def test_tradeoff_sweep(client, object_info):  # noqa: F811
    prompt = shortened("pocket_tradeoff_sweep", object_info)
    node = find(prompt, "SeedSelectTradeoffSweep")
    result, events = run(client, prompt)
    (sheet,) = pictures(client, result, find(prompt, "SaveImage", "Contact sheet"))
    cells = pictures(client, result, find(prompt, "SaveImage", "Pictures alone"))
    assert cells.shape == (2, 64, 64, 3) and (cells[0] != cells[1]).any()
    assert sheet.shape[1] > 2 * 256 and sheet.shape[0] > 256
    (table,) = result.outputs[find(prompt, "PreviewAny")]["text"]
    rows = [line.replace("%", "").split() for line in table.splitlines()[1:]]
    figures = np.array([[float(x) for x in row] for row in rows])
    np.testing.assert_array_equal(figures[:, :2], [[10, 0], [10, 10]])
    assert figures[1, 3] < figures[0, 3]  # what has weight falls
    mine = [event for event in events if event.node == node]
    assert any(event.kind == "preview" for event in mine)
    texts = [event.text for event in mine if event.kind == "text"]
    texts = [text for text in texts if "GB free" not in text]
    assert texts[0].startswith("1 of 2: ") and texts[-1].startswith("2 of 2: ")
    values = [(event.value, event.maximum) for event in mine if event.kind == "progress"]
    assert values == sorted(values) and values[-1][0] > 0.5 * values[-1][1]


def connected(kind: str, **inputs) -> dict:
    """The node of this type on the pocket model, and what shows its pictures."""
    wires = {"model": ["model", 0], "positive": ["pos", 0], "negative": ["neg", 0]}
    wires |= {"vae": ["model", 2], "clip_vision": ["model", 3], "references": ["refs", 0]}
    return pocket(batch=2) | {
        "letters": ("SeedSelectPocketReferences", {"letter": "S", "count": 2}),
        "refs": ("SeedSelectLoadReferenceSet", {"folder": "(none)", "images": ["letters", 0]}),
        "node": (kind, wires | {"latent": ["latent", 0], "seed": 5} | SAMPLING | inputs),
        "seen": ("PreviewImage", {"images": ["node", 1]}),
    }


@pytest.mark.parametrize(
    "name, text", [("likeness_what_it_is", "ten"), ("likeness_how_it_looks", "1, -3")]
)
def test_bad_weights_name_the_input(client, api, name, text):  # noqa: F811
    nodes = connected("SeedSelectTradeoffSweep", **{name: text})
    assert fails(client, api(nodes), "node").startswith(f"{name}: ")


def test_cancelled_set_keeps_what_was_found(client, server, api):  # noqa: F811
    nodes = connected("SeedSelectDiverseSet", preset="quick", count=1000, min_distance=0.0)
    texts = []

    def cancel_in_a_later_batch(event):
        if event.kind == "text" and event.node == "node":
            texts.append(event.text)
            drawn = " of " in event.text and not event.text.startswith(("0 of", "Stopped"))
            if drawn and len(texts) > 2:
                client.interrupt()

    folder = server.base_directory / "output/seeds"
    before = set(folder.glob("unfinished*"))
    result = client.run(api(nodes), cancel_in_a_later_batch, timeout=600)
    assert result.status == "interrupted"
    (kept,) = set(folder.glob("unfinished*")) - before
    assert kept.name in texts[-1]

    later = {"seed": ("SeedSelectLoadSeed", {"seed_file": f"[output] seeds/{kept.name}"})}
    inputs = {"model": ["model", 0], "positive": ["pos", 0], "negative": ["neg", 0]}
    later["sample"] = ("SeedSelectSampleFromSeed", inputs | {"seed": ["seed", 0]})
    later["decoded"] = ("VAEDecode", {"samples": ["sample", 0], "vae": ["model", 2]})
    later["found"] = ("PreviewImage", {"images": ["decoded", 0]})
    result, _ = run(client, api(pocket() | later))
    assert len(pictures(client, result, "found")) >= 3
