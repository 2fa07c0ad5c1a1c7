"""What the README shows runs as it stands there."""

import json
import re

import torch
from PIL import Image
from torchvision.utils import save_image

import tiny
from conftest import REPO


def code_of_readme() -> str:
    (code,) = re.findall(r"```python\n(.*?)```", (REPO / "README.md").read_text("utf-8"), re.S)
    return code


@torch.inference_mode()
def test_the_library_example(tmp_path):
    graph = tiny.Graph()
    for i in range(3):
        save_image(tiny.normal(3, 16, 16, seed=i).sigmoid(), tmp_path / f"{i}.png")
    names = ("model", "positive", "negative", "vae", "latent")
    given = {name: graph.inputs[name] for name in names}
    given |= {"clip_vision": graph.encoder.clip_vision, "folder": tmp_path}
    exec(compile(code_of_readme(), "README.md", "exec"), given)
    assert torch.equal(given["same"]["samples"], given["drawn"]["samples"])
    assert min(given["seed"].semantic) < given["history"].semantic[0][0]
    assert given["warnings"] == []


def test_the_first_picture_holds_a_shipped_workflow():
    (first, *_) = re.findall(r"!\[.*\]\((.*)\)", (REPO / "README.md").read_text("utf-8"))
    path = REPO / first
    with Image.open(path) as picture:
        graph = json.loads(picture.text["workflow"])
    assert graph == json.loads((REPO / "workflows/pocket_demo.json").read_text("utf-8"))
    assert path.stat().st_size <= 400_000
