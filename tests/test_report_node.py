"""The node "Diversity Report", in the host's own classes, on the pocket model's image encoder."""

from pathlib import Path

import numpy as np
import pytest
import torch

import tiny
from pocket.references import letter_pictures
from seedselect_core.likeness.encoders import ClipVisionEncoder, unit_embeddings
from seedselect_core.pocket import load_pocket_model
from seedselect_core.references import reference_set_from_batch


@pytest.fixture
def module(nodes):
    return nodes("report")


@pytest.fixture(scope="module")
def clip_vision():
    return load_pocket_model()[3]


def pictures(letters: str, numbers=range(8)) -> torch.Tensor:
    shown = np.concatenate([letter_pictures(letter)[list(numbers)] for letter in letters])
    return torch.from_numpy(shown).float() / 255


def run_node(node, **inputs):
    return tiny.run_node(node, **({"bins": 0} | inputs))


def test_every_input_and_output_is_explained(module):
    schema = module.DiversityReportNode.GET_SCHEMA()
    assert schema.node_id == "SeedSelectDiversityReport" and schema.category == "SeedSelect/search"
    assert all(item.tooltip for item in [*schema.inputs, *schema.outputs])
    page = Path(__file__).parents[1] / "web" / "docs" / f"{schema.node_id}.md"
    assert all(f"**{item.id}**" in page.read_text() for item in schema.inputs)


def test_node_tells_various_from_collapsed(module, clip_vision):
    real = reference_set_from_batch(pictures("AFHSC", range(0, 8, 2)))
    various = pictures("AFHSC", [1, 3])
    collapsed = pictures("S")
    output = run_node(
        module.DiversityReportNode,
        generated=collapsed,
        references=real,
        clip_vision=clip_vision,
        plain=various,
        bins=4,
    )
    text, picture = output.args
    assert output.ui.as_dict()["text"] == (text,)
    figures = {
        line.split(":")[0]: float(line.split("entropy ")[1].split()[0])
        for line in text.splitlines()
        if "entropy" in line and ":" in line
    }
    assert list(figures) == ["real", "plain", "generated"]
    assert figures["generated"] < figures["real"] - 0.5
    assert figures["plain"] == pytest.approx(figures["real"], abs=0.4)
    assert picture.ndim == 4 and picture.shape[-1] == 3 and picture.dtype == torch.float32
    assert 0 <= picture.min() and picture.max() == 1


def test_node_takes_its_features_from_the_encoder(clip_vision):
    images = pictures("AB")
    features = unit_embeddings(ClipVisionEncoder(clip_vision), images)
    with torch.no_grad():
        own = clip_vision.encode_image(images)["image_embeds"]
    torch.testing.assert_close(features, torch.nn.functional.normalize(own, dim=1))


def test_picture_shows_shares_and_typical_pictures(module):
    """Three bins: red, green, blue; everything generated is blue."""
    colors = torch.eye(3)
    real = colors.repeat_interleave(torch.tensor([10, 6, 4]), dim=0)
    generated = colors[2:].expand(12, 3)
    features = {"real": real, "generated": generated}
    images = {name: rows[:, None, None].expand(-1, 8, 8, 3) for name, rows in features.items()}
    report = module.diversity_report(real, generated, bins=3)
    assert report.bins == 3
    sheet = module.draw_report(report, images, features)
    cell = 128
    side = 110
    bottom = 88 + 260
    seen = [
        [sheet.getpixel((side + column * cell + 20, bottom + 32 + row * cell)) for row in (0, 1)]
        for column in range(3)
    ]
    assert [real for real, _ in seen] == [(255, 0, 0), (0, 255, 0), (0, 0, 255)]
    assert [made for _, made in seen] == [(255,) * 3, (255,) * 3, (0, 0, 255)]
    # The bars of the last bin: 4 of 20 real ones, and all of the generated.
    orange = (224, 123, 40)
    blue = (47, 109, 181)
    column = side + 2 * cell + 6
    bars = [
        sum(sheet.getpixel((column + offset, y)) == color for y in range(88, bottom))
        for offset, color in ((20, blue), (80, orange))
    ]
    assert bars[1] == pytest.approx(236, abs=3) and bars[0] == pytest.approx(236 / 5, abs=3)


def test_too_few_references_are_refused(module, clip_vision):
    with pytest.raises(ValueError, match="real pictures: 3"):
        run_node(
            module.DiversityReportNode,
            generated=pictures("A"),
            references=reference_set_from_batch(pictures("A", range(3))),
            clip_vision=clip_vision,
        )
