"""The sweep over the two weights: cells that can be compared, and a sheet that can be read."""

import pytest
import torch

import tiny
from seedselect_core.errors import SeedSelectError
from seedselect_core.likeness.losses import appearance_loss
from seedselect_core.likeness.targets import build_targets
from seedselect_core.likeness.vae import VaeCodec
from seedselect_core.search.optimize import optimize_seed
from seedselect_core.sets.sweep import Cell, Sweep, parse_weights, run_sweep
from seedselect_core.sheets import draw_sweep

SETTINGS = tiny.settings(candidates=2)


def sweep(semantic, appearance, graph=None, **more):
    graph = graph or tiny.Graph(latent=tiny.latent(2))
    cells = Sweep(semantic, appearance)
    with torch.inference_mode():
        return run_sweep(cells, graph.scene(), tiny.SAMPLING, SETTINGS, **tiny.with_callbacks(more))


def test_cells_are_what_optimize_finds_and_tell_their_losses():
    graph = tiny.Graph(latent=tiny.latent(2))
    found = sweep((10.0,), (0.0, 3.0), graph)
    assert list(found.cells) == [(10.0, 0.0), (10.0, 3.0)]
    with torch.inference_mode():
        seed, drawn, _ = optimize_seed(
            graph.scene(), tiny.SAMPLING, SETTINGS.reweighted(semantic=10.0, appearance=3.0)
        )
        codec_input = graph.model.model.process_latent_in
        targets = build_targets(graph.references, [], VaeCodec(graph.vae), codec_input, (16, 16))
        layout = appearance_loss(codec_input(drawn["samples"]), targets.appearance)
        pictures = graph.vae.decode(drawn["samples"])
    cell = found.cells[10.0, 3.0]
    torch.testing.assert_close(cell.images, pictures)
    expected = (sum(seed.semantic) / 2, layout.mean().item())
    assert cell.losses == pytest.approx(expected, rel=1e-4)
    assert found.images().shape == (4, 16, 16, 3)
    assert f"{expected[1]:.4f}" in found.table().splitlines()[2]


def test_a_pair_of_zeros_is_left_out():
    assert Sweep((0, 10), (0, 1)).pairs() == [(0, 1), (10, 0), (10, 1)]
    with pytest.raises(SeedSelectError, match="likeness_what_it_is, likeness_how_it_looks"):
        sweep((0.0,), (0.0,))


@pytest.mark.parametrize("early", [False, True])
def test_progress_and_cancel(early):
    class Stop(Exception):
        pass

    seen = []
    kept = []

    def stop_in_the_second(progress, so_far, pair):
        seen.append((len(so_far.cells), pair))
        if so_far.cells and (progress.new_best or early):
            raise Stop

    with pytest.raises(Stop):
        sweep((10.0,), (0.0, 1.0), on_progress=stop_in_the_second, on_unfinished=kept.append)
    assert set(seen) == {(0, (10.0, 0.0)), (1, (10.0, 1.0))}
    (seed,) = kept
    # Two of the finished cell, and of the one under way where a picture of it was seen.
    assert seed.noise.shape == (2 if early else 4, 4, 8, 8)
    assert seed.semantic == []


def test_an_error_between_two_cells_keeps_what_was_found(monkeypatch):
    """The second cell is searched to its end, and then its pictures cannot be decoded."""
    graph = tiny.Graph(latent=tiny.latent(2))
    real = graph.vae.decode
    kept = []
    calls = []

    def fails_at_the_second(samples):
        calls.append(samples)
        if len(calls) == 2:
            raise tiny.Broken
        return real(samples)

    monkeypatch.setattr(graph.vae, "decode", fails_at_the_second)
    with pytest.raises(tiny.Broken):
        sweep((10.0,), (0.0, 1.0), graph, on_unfinished=kept.append)
    (seed,) = kept
    assert seed.noise.shape == (4, 4, 8, 8)
    assert (seed.noise[:2] != seed.noise[2:]).any()


@pytest.mark.parametrize("text", ["", "1, two", "1,,2", "-1", "nan", "inf", "1, 1.0"])
def test_bad_lists_name_the_input(text):
    with pytest.raises(SeedSelectError, match=r"^appearance_weights: "):
        parse_weights("appearance_weights", text)


def test_lists():
    assert parse_weights("semantic_weights", " 0, 0.3 ,1e1") == (0.0, 0.3, 10.0)


def test_sheet_shows_every_cell_in_its_place():
    found = Sweep((0.0, 10.0), (0.0, 1.0))
    colors = {(0.0, 1.0): 0, (10.0, 0.0): 1, (10.0, 1.0): 2}
    for pair, channel in colors.items():
        # Two seeds, the second dark, of pictures twice as wide as they are high.
        images = torch.zeros(2, 8, 16, 3)
        images[0, ..., channel] = 1.0
        found.cells[pair] = Cell(images, (0.1, 0.2))
    sheet = draw_sweep(found, side=160)
    assert sheet.size == (110 + 2 * 174, 84 + 2 * (40 + 52))
    for (row, column), expected in {
        (0, 1): (255, 0, 0),
        (1, 0): (0, 255, 0),
        (1, 1): (0, 0, 255),
    }.items():
        x = 110 + column * 174
        y = 84 + row * 92
        assert sheet.getpixel((x + 40, y + 20)) == expected
        assert sheet.getpixel((x + 120, y + 20)) == (0, 0, 0)
        below = sheet.crop((x, y + 42, x + 160, y + 90)).convert("L")
        assert below.getextrema() < (128, 256)  # something is written there
    assert sheet.getpixel((110 + 40, 84 + 8)) == (255, 255, 255)  # no loss, no picture


def test_sheet_of_nothing_yet():
    assert draw_sweep(Sweep((1.0,), (0.0, 1.0)), side=100).width == 110 + 2 * 114
