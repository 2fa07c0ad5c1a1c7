"""What the nodes show and put out, in a real server: it fits the host's own nodes, and it stays."""

import numpy as np
import pytest
from PIL import Image

from comfy_client import PromptRejected
from test_server import (  # noqa: F401
    SAMPLING,
    api,
    client,
    fails,
    ksampler,
    object_info,
    optimize,
    pictures,
    pocket,
    server,
    shown,
)

DRAWN = {"seed": 5, "first_draws": 2}


def seen(**sources: list) -> dict:
    return {key: ("PreviewImage", {"images": source}) for key, source in sources.items()}


def run(client, prompt: dict, node: str):  # noqa: F811
    """The result, and what the node told on the way."""
    events = []
    result = client.run(prompt, events.append)
    return result, [e.text for e in events if e.node == node and e.kind == "text"]


def test_outputs_fit_the_nodes_of_the_host(client, api):  # noqa: F811
    nodes = pocket(batch=2) | optimize(**DRAWN) | {"ks": ksampler()} | shown("plain", "ks")
    nodes |= seen(after=["opt", 1], before=["opt", 2])
    nodes["compare"] = (
        "ImageCompare",
        {"image_a": ["opt", 2], "image_b": ["opt", 1], "compare_view": {}},
    )
    nodes["again"] = ("VAEDecode", {"samples": ["opt", 3], "vae": ["model", 2]})
    nodes["plot"] = ("LossGraphNode", {"loss": ["opt", 4]})
    nodes |= seen(sampled=["again", 0])
    result, texts = run(client, api(nodes), "opt")
    assert result.status == "success", result.error
    after = pictures(client, result, "after")
    np.testing.assert_array_equal(pictures(client, result, "sampled"), after)
    np.testing.assert_array_equal(pictures(client, result, "opt"), after)
    # Decoded within the search, a picture at a time.
    before = pictures(client, result, "before").astype(int)
    assert np.abs(before - pictures(client, result, "plain")).max() <= 1
    assert (before != after).any()
    assert len(result.outputs["compare"]["a_images"]) == 2
    assert len(pictures(client, result, "plot")) == 1
    assert texts[-1].startswith("likeness ") and texts[-1].count(" %") == 3


def test_what_a_node_showed_is_there_again_after_a_reload_of_the_page(client, api):  # noqa: F811
    """The page asks by queueing again: nothing is searched, and all pictures are sent once more."""
    nodes = pocket() | optimize(seed=6)
    nodes["end"] = ("PreviewAny", {"source": ["opt", 0]})
    first = client.run(api(nodes))
    nodes["other"] = ("PreviewAny", {"source": ["opt", 4]})
    again = client.run(api(nodes))
    assert again.status == "success" and "opt" not in again.executed
    for key in ("opt", "refs"):
        assert again.images(key) == first.images(key) != []


def test_an_encoder_is_found_where_none_is_connected(client, api):  # noqa: F811
    nodes = pocket() | optimize(seed=7)
    del nodes["opt"][1]["clip_vision"]
    nodes |= seen(found=["opt", 1])
    result, texts = run(client, api(nodes), "opt")
    assert result.status == "success", result.error
    assert texts[-1].endswith("\nImage encoder: that of the toy model")
    wired = pocket() | optimize(seed=7) | seen(found=["opt", 1])
    found = pictures(client, result, "found")
    np.testing.assert_array_equal(pictures(client, client.run(api(wired)), "found"), found)


def test_without_an_encoder_the_file_to_get_is_named(client, api):  # noqa: F811
    nodes = {
        "letters": ("SeedSelectPocketReferences", {"letter": "S", "count": 8}),
        "refs": ("SeedSelectLoadReferenceSet", {"images": ["letters", 0]}),
    }
    judged = {"generated": ["letters", 0], "references": ["refs", 0]}
    nodes["judge"] = ("SeedSelectDiversityReport", judged)
    told = fails(client, api(nodes), "judge")
    assert told.startswith("clip_vision: ") and "sigclip_vision_patch14_384.safetensors" in told


def test_pictures_that_were_uploaded_are_one_set(client, server, api):  # noqa: F811
    folder = server.base_directory / "input"
    Image.new("RGB", (60, 90), "red").save(folder / "one.png")
    Image.new("RGBA", (40, 40), (0, 0, 0, 0)).save(folder / "cut out.png")
    (folder / "three.png").write_bytes(b"no picture")
    names = ["one.png", "cut out.png [input]", "three.png"]
    given = {"pictures": {"__value__": names}, "background": "#0000FF"}
    nodes = {"refs": ("SeedSelectLoadReferenceSet", given)} | seen(seen=["refs", 1])
    result, texts = run(client, api(nodes), "refs")
    assert result.status == "success", result.error
    colors = pictures(client, result, "seen")[:, 256, 256].tolist()
    assert colors == [[255, 0, 0], [0, 0, 255]]
    first, second = texts[-1].splitlines()
    assert first == "2 of 3 pictures used" and second.startswith("three.png was left out: ")
    assert client.run(api(nodes)).executed == []
    Image.new("RGB", (60, 90), "green").save(folder / "one.png")
    assert "refs" in client.run(api(nodes)).executed


@pytest.mark.parametrize("name", ["../outside.png", "/etc/passwd", "no such.png", "a\0b"])
def test_only_pictures_of_the_host_are_read(client, server, api, name):  # noqa: F811
    Image.new("RGB", (4, 4)).save(server.base_directory / "outside.png")
    nodes = {"refs": ("SeedSelectLoadReferenceSet", {"pictures": name})} | seen(seen=["refs", 1])
    assert fails(client, api(nodes), "refs").startswith("pictures: none of them can be read.")


def test_a_name_that_is_none_is_refused_before_the_run(client, api):  # noqa: F811
    given = {"pictures": {"__value__": [5, {"a": 1}]}}
    nodes = {"refs": ("SeedSelectLoadReferenceSet", given)} | seen(seen=["refs", 1])
    with pytest.raises(PromptRejected, match="pictures: expected names of files, got int"):
        client.run(api(nodes))


def test_own_settings_draw_another_picture_than_those_of_the_seed(client, api):  # noqa: F811
    wires = {"model": ["model", 0], "positive": ["pos", 0], "negative": ["neg", 0]}
    wires["seed"] = ["opt", 0]
    own = wires | SAMPLING
    nodes = pocket() | optimize(seed=8) | {"said": ("SeedSelectSampleFromSeed", wires)}
    nodes["own"] = ("SeedSelectSampleFromSeed", own)
    nodes["other"] = ("SeedSelectSampleFromSeed", own | {"steps": 7})
    for key in ("said", "own", "other"):
        nodes |= shown(f"{key} seen", key)
    prompt = api(nodes)
    assert prompt["said"]["inputs"]["settings"] == "as the seed says"
    assert prompt["own"]["inputs"]["settings"] == "my own"
    result = client.run(prompt)
    assert result.status == "success", result.error
    said, own, other = (pictures(client, result, f"{k} seen") for k in ("said", "own", "other"))
    np.testing.assert_array_equal(said, own)
    assert (said != other).any()
