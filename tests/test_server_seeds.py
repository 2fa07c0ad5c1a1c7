"""Seeds that travel, on a real server: what is kept, and what is told of another graph."""

import pytest

from seedselect_core.seeds.seed import load_seed
from test_server import (  # noqa: F401
    api,
    client,
    object_info,
    optimize,
    pocket,
    server,
    shown,
)

OTHER = "The seed was found with something else:"
PROMPT = "The prompt differs."


@pytest.fixture(scope="module")
def saved(server, client, object_info):  # noqa: F811
    """The seed of a short search, by what Load Seed is to be told."""
    complete = api.__wrapped__(object_info)
    nodes = pocket() | optimize()
    nodes["kept"] = ("SeedSelectSaveSeed", {"seed": ["opt", 0], "filename_prefix": "deep/mine"})
    result = client.run(complete(nodes))
    assert result.status == "success", result.error
    return "deep/mine_00001_.seed.safetensors [output]"


def sampled(seed: str, model: str = "model", **changes) -> dict:
    nodes = pocket(**changes)
    nodes["lora"] = (
        "LoraLoader",
        {"model": ["model", 0], "clip": ["model", 1], "lora_name": "tiny.safetensors"},
    )
    graph = {"model": [model, 0], "positive": ["pos", 0], "negative": ["neg", 0]}
    nodes["load"] = ("SeedSelectLoadSeed", {"seed_file": seed})
    nodes["use"] = ("SeedSelectSampleFromSeed", graph | {"seed": ["load", 0]})
    return nodes | shown("seen", "use")


def told(client, prompt: dict, node: str = "use") -> list[str]:  # noqa: F811
    """What a node says in a run that must end well."""
    texts = []
    result = client.run(prompt, lambda e: texts.append(e.text) if e.kind == "text" else None)
    assert result.status == "success", result.error
    return [text for text in texts if text.startswith(OTHER)]


def test_a_seed_knows_what_it_was_found_with(server, saved):  # noqa: F811
    origin = load_seed(server.base_directory / "output" / saved.removesuffix(" [output]")).origin
    assert len(origin.prompt) == len(origin.references) == 64
    assert (origin.model, origin.loras, origin.encoder) == ("", (), "")  # files that there are none


@pytest.mark.parametrize(
    ("changes", "differences"),
    [
        ({}, []),
        ({"prompt": "a red letter S on blue"}, [f"{OTHER} {PROMPT}"]),
        ({"model": "lora"}, [f"{OTHER} LoRAs: none then, tiny.safetensors here."]),
        (
            {"prompt": "a dog", "model": "lora"},
            [f"{OTHER} LoRAs: none then, tiny.safetensors here. {PROMPT}"],
        ),
    ],
)
def test_what_differs_is_told_and_no_error(client, api, saved, changes, differences):  # noqa: F811
    assert told(client, api(sampled(saved, **changes))) == differences


def test_what_differs_is_told_of_a_guider_too(client, api, saved):  # noqa: F811
    nodes = pocket("a dog") | {"load": ("SeedSelectLoadSeed", {"seed_file": saved})}
    graph = {"model": ["model", 0], "positive": ["pos", 0], "negative": ["neg", 0]}
    nodes |= {
        "use": ("SeedSelectSeedToNoise", {"seed": ["load", 0]}),
        "guider": ("CFGGuider", graph),
        "sampler": ("KSamplerSelect", {"sampler_name": "euler"}),
        "sigmas": ("BasicScheduler", {"model": ["model", 0], "scheduler": "normal"}),
    }
    inputs = {key: [key, 0] for key in ("guider", "sampler", "sigmas")}
    inputs |= {"noise": ["use", 0], "latent_image": ["latent", 0]}
    nodes["custom"] = ("SamplerCustomAdvanced", inputs)
    assert told(client, api(nodes | shown("seen", "custom"))) == [f"{OTHER} {PROMPT}"]


def test_a_search_that_starts_at_a_seed_of_other_references_says_so(client, api, saved):  # noqa: F811
    nodes = pocket() | optimize(start=["load", 0])
    nodes["letters"] = ("SeedSelectPocketReferences", {"letter": "K", "count": 2})
    nodes["load"] = ("SeedSelectLoadSeed", {"seed_file": saved})
    nodes["seen"] = ("PreviewImage", {"images": ["opt", 1]})
    texts = []
    client.run(api(nodes), lambda e: texts.append(e.text) if e.kind == "text" else None)
    assert "The seed to start at was found with something else. The references differ." in texts


def test_what_each_search_finds_is_kept_whatever_is_queued_next(server, client, api):  # noqa: F811
    folder = server.base_directory / "output" / "seeds"
    before = set(folder.glob("found_*"))
    for number in (1, 2):
        nodes = pocket() | optimize(seed=number)
        nodes["seen"] = ("PreviewImage", {"images": ["opt", 1]})
        assert client.run(api(nodes)).status == "success"
    kept = sorted(set(folder.glob("found_*")) - before)
    assert len(kept) == 2 and not list(folder.glob("unfinished_*"))
    assert {load_seed(path).sampling.seed for path in kept} == {1, 2}
    assert all("_likeness_" in path.name for path in kept)
    offered = client.get("object_info/SeedSelectLoadSeed")["SeedSelectLoadSeed"]["input"]
    offered = offered["required"]["seed_file"][1]["options"]
    assert offered[:2] == [f"seeds/{path.name} [output]" for path in reversed(kept)]
    assert "seeds" in client.get("models")  # a folder that the host knows
