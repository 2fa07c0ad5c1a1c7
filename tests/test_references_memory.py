"""A set is read one by one: what is alive at a time does not grow with its pictures."""

import numpy as np
import pytest
import torch
from PIL import Image

import tiny
from live import Live
from seedselect_core.errors import SeedSelectError
from seedselect_core.likeness.comparison import compare_with
from seedselect_core.likeness.targets import build_targets
from seedselect_core.likeness.vae import VaeCodec
from seedselect_core.references import (
    KEPT,
    ReferenceSet,
    load_reference_folder,
    reference_set_from_batch,
)

FITTED = 64 * 64 * 3 * 4  # bytes of a picture at the size that is asked for here


def folder_of(path, count: int, size=(96, 48)):
    path.mkdir()
    for number in range(count):
        Image.new("RGB", size, (number % 256, 0, 0)).save(path / f"{number}.png")
    return path


def peak(folder, count: int) -> int:
    """Most bytes of tensors alive from loading a folder to its last picture at one size."""
    with Live() as live:
        references, warnings = load_reference_folder(folder, limit=count)
        assert len(references) == count and not warnings
        for _ in range(2):
            assert sum(image.shape == (64, 64, 3) for image in references.fitted(64, 64)) == count
    return live.peak


def test_a_thousand_pictures_take_no_more_memory_than_five(tmp_path):
    few = peak(folder_of(tmp_path / "few", 5), 5)
    many = peak(folder_of(tmp_path / "many", 1000), 1000)
    assert many <= few < 40 * FITTED


def test_a_thousand_in_the_folder_are_not_read_where_five_are_asked_for(tmp_path):
    few = peak(folder_of(tmp_path / "few", 5), 5)
    assert peak(folder_of(tmp_path / "many", 1000), 5) <= few


def test_a_photograph_is_never_float_in_its_own_size(tmp_path):
    noise = np.random.default_rng(0).integers(0, 256, (1500, 2000, 3), np.uint8)
    Image.fromarray(noise).save(tmp_path / "a.png")
    for crop in ("center", "pad", "stretch"):
        with Live() as live:
            references = load_reference_folder(tmp_path, crop=crop)[0]
            references.preview(64)
        assert live.peak < 4 * noise.nbytes  # which float takes, without anything beside it


def test_strips_give_the_picture_that_the_whole_gives(tmp_path):
    image = torch.rand(1, 777, 1030, 3, generator=torch.Generator().manual_seed(1))
    references = reference_set_from_batch(image, crop="stretch")
    for size in ((64, 48), (1030, 300), (200, 777), (1200, 900), (1030, 777)):
        whole = torch.nn.functional.interpolate(
            image.movedim(-1, 1), size=size[::-1], mode="bicubic", antialias=True
        )
        wanted = whole.movedim(1, -1).clamp(0, 1)
        torch.testing.assert_close(references.resized(*size), wanted, atol=2e-6, rtol=0)


def test_a_batch_is_kept_as_it_came():
    """Half the memory in half precision, and no copy of what the host holds anyway."""
    batch = torch.rand(20, 64, 64, 3).half()
    with Live() as live:
        references = reference_set_from_batch(batch)
    assert references.pictures[7].read().data_ptr() == batch[7].data_ptr()
    assert live.now <= batch.nbytes


def test_a_usual_set_is_read_once_for_a_size(tmp_path, monkeypatch):
    read = []
    original = ReferenceSet._pixels
    monkeypatch.setattr(
        ReferenceSet, "_pixels", lambda self, index: read.append(index) or original(self, index)
    )
    references = load_reference_folder(folder_of(tmp_path / "few", KEPT), limit=KEPT)[0]
    for _ in range(3):
        references.resized(32, 32)
    assert read == list(range(KEPT))
    assert torch.equal(references.resized(16, 32), references.resized(16, 32))
    assert len(read) == 2 * KEPT


def test_targets_are_made_one_picture_at_a_time(monkeypatch):
    graph = tiny.Graph()
    images = torch.rand(6, 20, 24, 3, generator=torch.Generator().manual_seed(3))

    def targets(references):
        with torch.inference_mode():
            size = (16, 16)
            comparison = compare_with(references, graph.encoder, size, views=2)
            return build_targets(references, [comparison], VaeCodec(graph.vae), torch.clone, size)

    wanted = targets(reference_set_from_batch(images))
    monkeypatch.setattr(ReferenceSet, "resized", None)  # all at once
    monkeypatch.setattr("seedselect_core.references.KEPT", 0)
    found = targets(reference_set_from_batch(images))
    assert torch.equal(found.comparisons[0].embeddings, wanted.comparisons[0].embeddings)
    assert torch.equal(found.latents, wanted.latents)


@pytest.mark.parametrize("change", ["gone", "another", "cut"])
def test_a_file_that_changed_after_it_was_loaded_is_named(tmp_path, change):
    folder = folder_of(tmp_path / "few", 2)
    references = load_reference_folder(folder)[0]
    path = folder / "1.png"
    if change == "gone":
        path.unlink()
    elif change == "another":
        Image.new("RGB", (7, 7)).save(path)
    else:
        path.write_bytes(path.read_bytes()[:60])
    assert references.fitted(8, 8)[0].shape == (8, 8, 3)
    with pytest.raises(SeedSelectError, match=r"references: '1\.png' was changed or taken away"):
        references.resized(8, 8)
