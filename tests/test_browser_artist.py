"""From an empty page to a picture that a friend draws again, with mouse and keyboard."""

import contextlib
import json

import numpy as np
import pytest
from PIL import Image

from comfy_client import ComfyClient
from conftest import REPO
from gestures import (
    NODE,
    WIDGET,
    carrying,
    dropped,
    emptied,
    ended,
    given,
    linked,
    on_screen,
    only,
    pixels,
    placed,
    require_complete,
    run_again,
)
from pocket.references import letter_pictures
from test_browser import browser, errors, no_errors, page  # noqa: F401
from test_browser_seeds import server  # noqa: F401

# What is typed into the search of the page, what it is to find, and where on the page it goes.
NODES = {
    "toy": ("Load Toy Model", "SeedSelectLoadPocketModel", (180, 120)),
    "references": ("Load Reference Set", "SeedSelectLoadReferenceSet", (180, 420)),
    "prompt": ("CLIP Text Encode", "CLIPTextEncode", (480, 120)),
    "against": ("CLIP Text Encode", "CLIPTextEncode", (480, 420)),
    "size": ("Empty Latent Image", "EmptyLatentImage", (480, 680)),
    "search": ("SeedSelect Optimize", "SeedSelectOptimize", (800, 120)),
    "again": ("Sample From Seed", "SeedSelectSampleFromSeed", (800, 700)),
    "decode": ("VAE Decode", "VAEDecode", (1080, 700)),
    "save": ("Save Image With Seed", "SeedSelectSaveImageWithSeed", (1180, 560)),
    "compare": ("Compare Images", "ImageCompare", (1120, 150)),
}
LINKS = [
    ("toy", "MODEL", "search", "model"),
    ("toy", "MODEL", "again", "model"),
    ("toy", "CLIP", "prompt", "clip"),
    ("toy", "CLIP", "against", "clip"),
    ("toy", "VAE", "search", "vae"),
    ("toy", "VAE", "decode", "vae"),
    ("references", "references", "search", "references"),
    ("size", "LATENT", "search", "latent"),
    ("prompt", "CONDITIONING", "search", "positive"),
    ("against", "CONDITIONING", "search", "negative"),
    ("prompt", "CONDITIONING", "again", "positive"),
    ("against", "CONDITIONING", "again", "negative"),
    ("search", "found noise", "again", "seed"),
    ("again", "LATENT", "decode", "samples"),
    ("search", "before", "compare", "image_a"),
    ("decode", "IMAGE", "compare", "image_b"),
    ("decode", "IMAGE", "save", "images"),
    ("search", "found noise", "save", "seed"),
]
# What a node shows, once there is more than a square: how wide and tall it is, and its pixels.
CURVE = """id => {
    const image = app.graph.getNodeById(id).imgs?.[0];
    if (!image || image.naturalHeight <= image.naturalWidth) return null;
    const canvas = new OffscreenCanvas(image.naturalWidth, image.naturalHeight);
    const context = canvas.getContext("2d");
    context.drawImage(image, 0, 0);
    const data = context.getImageData(0, 0, canvas.width, canvas.height).data;
    return [canvas.width, canvas.height, Array.from(data)];
}"""
LOADED = """ids => ids.every(id => {
    const images = app.graph.getNodeById(id).imgs;
    return images?.length && images.every(image => image.complete && image.naturalWidth);
})"""


@pytest.fixture
def letters(tmp_path) -> list:
    """Files of four pictures of the letter S."""
    files = [tmp_path / f"letter{number}.png" for number in range(4)]
    for path, picture in zip(files, letter_pictures("S", 4), strict=True):
        Image.fromarray(picture).save(path)
    return files


def built(page) -> dict[str, int]:  # noqa: F811
    """Nodes placed and linked on an empty page; their ids."""
    emptied(page)
    page.mouse.move(800, 500)
    for _ in range(4):  # so that all of it is in sight
        page.mouse.wheel(0, 100)
        page.wait_for_timeout(200)
    ids = {name: placed(page, *node) for name, node in NODES.items()}
    for source, output, target, slot in LINKS:
        linked(page, ids[source], output, ids[target], slot)
    assert page.evaluate("app.graph.links.size") == len(LINKS)
    return ids


def chosen(page, id: int, files: list) -> None:  # noqa: F811
    """Click on the node's button, and choose files."""
    with page.expect_file_chooser() as chooser:
        page.mouse.click(*on_screen(page, WIDGET, id, "upload"))
    chooser.value.set_files(files)
    require_pictures(page, id, files)


def require_pictures(page, id: int, files: list) -> None:  # noqa: F811
    """A node has chosen these files and shows them, and the page goes on drawing."""
    value = "id => app.graph.getNodeById(id).widgets.find(w => w.name == 'pictures').value"
    page.wait_for_function(f"([id, count]) => ({value})(id).length == count", arg=[id, len(files)])
    assert [name.rpartition("/")[2] for name in page.evaluate(value, id)] == [
        path.name for path in files
    ]
    count = "([id, count]) => app.graph.getNodeById(id).imgs?.length == count"
    page.wait_for_function(count, arg=[id, len(files)])
    page.wait_for_function(LOADED, arg=[id])
    frame = page.evaluate("app.canvas.frame")
    page.evaluate("app.canvas.setDirty(true, true)")
    page.wait_for_function("frame => app.canvas.frame > frame", arg=frame)


def require_curve(page, id: int) -> None:  # noqa: F811
    """The node shows a square of pictures, and below it a white strip with a line, then a text."""
    width, height, data = page.wait_for_function(CURVE, arg=id).json_value()
    picture = np.array(data, np.uint8).reshape(height, width, 4)[:, :, :3]
    white = (picture[width : width + width // 6] > 240).all(2)
    assert white.mean() > 0.7 and (~white).any(0).mean() > 0.8
    assert (picture[:width] > 240).all(2).mean() < 0.5


@contextlib.contextmanager
def nodes_2(page):  # noqa: F811
    """The page with Nodes 2.0."""
    switch = "on => app.extensionManager.setting.set('Comfy.VueNodes.Enabled', on)"
    page.evaluate(switch, True)
    yield
    page.evaluate(switch, False)
    page.wait_for_function("!document.querySelector('[data-node-id]')")


def require_comparison(page, id: int) -> None:  # noqa: F811
    """'Compare Images' shows two pictures, which the host only does with Nodes 2.0."""
    with nodes_2(page):
        for side in ("Before image", "After image"):
            picture = page.locator(f"[data-node-id='{id}']").get_by_alt_text(side).element_handle()
            loaded = "image => image.complete && image.naturalWidth == 64"
            page.wait_for_function(loaded, arg=picture)


def test_an_artist_finds_saves_and_shares_a_picture(page, server, letters):  # noqa: F811
    ids = built(page)
    page.mouse.click(*on_screen(page, NODE, ids["prompt"]))
    page.keyboard.type("a red letter S on yellow")
    chosen(page, ids["references"], letters)
    given(page, ids["size"], {"width": 64, "height": 64})
    given(page, ids["search"], {"steps": 4})

    graph = page.evaluate("app.graph.serialize()")
    client = ComfyClient(server.url)
    before = len(client.get("history"))
    page.get_by_test_id("queue-button").click()
    require_curve(page, ids["search"])  # while it works
    ended(page, client, before)
    page.wait_for_function(LOADED, arg=[ids["references"], ids["save"]])
    require_curve(page, ids["search"])  # and afterwards
    told = page.evaluate("app.graph.nodes.flatMap(n => n.widgets ?? []).map(w => String(w.value))")
    assert any("the references among themselves" in text for text in told)
    assert "4 of 4 pictures used" in told
    require_comparison(page, ids["compare"])
    saved = only([*(server.base_directory / "output").rglob("*.png")], "SeedSelect_", ".png")

    page.reload()
    page.wait_for_function("window.app?.canvas?.graph?.nodes.length > 0")
    page.wait_for_function(LOADED, arg=[ids[name] for name in ("references", "search", "save")])

    emptied(page)
    dropped(page, saved)
    require_complete(page, graph)
    again = only(run_again(page, server), "SeedSelect_", ".png")
    assert again != saved
    np.testing.assert_array_equal(pixels(again), pixels(saved))


def test_several_pictures_are_chosen_with_nodes_2(page, letters):  # noqa: F811
    emptied(page)
    id = placed(page, "Load Reference Set", "SeedSelectLoadReferenceSet", (700, 300))
    with nodes_2(page):
        node = page.locator(f"[data-node-id='{id}']")
        with page.expect_file_chooser() as chooser:
            node.get_by_text("choose file to upload").click()
        chooser.value.set_files(letters)
        node.get_by_alt_text("Gallery thumbnail").nth(len(letters) - 1).wait_for()
    require_pictures(page, id, letters)


def test_several_pictures_are_dropped_on_a_node(page, letters):  # noqa: F811
    emptied(page)
    id = placed(page, "Load Reference Set", "SeedSelectLoadReferenceSet", (700, 300))
    dropped(page, *letters, at=on_screen(page, NODE, id))
    require_pictures(page, id, letters)


def test_several_pictures_are_pasted_into_the_selected_node(page, letters):  # noqa: F811
    emptied(page)
    id = placed(page, "Load Reference Set", "SeedSelectLoadReferenceSet", (700, 300))
    page.evaluate("id => app.canvas.selectNode(app.graph.getNodeById(id))", id)
    page.evaluate(
        """clipboardData => document.dispatchEvent(
            new ClipboardEvent("paste", {clipboardData, bubbles: true, cancelable: true}))""",
        carrying(page, letters),
    )
    require_pictures(page, id, letters)


def test_the_first_picture_of_the_readme_opens_its_workflow(page):  # noqa: F811
    with Image.open(REPO / "docs/graph.png") as picture:
        graph = json.loads(picture.text["workflow"])
    emptied(page)
    dropped(page, REPO / "docs/graph.png")
    require_complete(page, graph)
