"""Reference pictures: the difficult kinds of file, where they may lie, and how they are cut.

Every file is made here, so that its pixels are known.
"""

import os
import struct
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from picture_files import png
from seedselect_core.errors import SeedSelectError
from seedselect_core.pictures import read_image
from seedselect_core.references import (
    Picture,
    ReferenceSet,
    combine,
    load_reference_files,
    load_reference_folder,
    parse_color,
    reference_set_from_batch,
)

RED = (255, 0, 0)
GREEN = (0, 255, 0)
BLUE = (0, 0, 255)
GRAY = (128, 128, 128)


def image_of(rows: list, mode: str = "RGB") -> Image.Image:
    return Image.fromarray(np.array(rows, np.uint8), mode)


def save(path: Path, color: tuple = RED, size: tuple = (4, 4), **options) -> Path:
    Image.new("RGB", size, color).save(path, **options)
    return path


def assert_pixels(image: torch.Tensor, expected: list, tolerance: float = 0.0) -> None:
    """`expected` in 0..255."""
    assert image.dtype == torch.float32
    torch.testing.assert_close(
        image, torch.tensor(expected, dtype=torch.float32) / 255, atol=tolerance / 255, rtol=1e-6
    )


# The difficult kinds of file


@pytest.mark.parametrize(
    ("orientation", "expected"),
    [
        (1, [[RED, GREEN]]),
        (2, [[GREEN, RED]]),  # mirrored
        (3, [[GREEN, RED]]),  # upside down
        (6, [[RED], [GREEN]]),  # the camera was turned: rotate clockwise
        (8, [[GREEN], [RED]]),  # the other way
    ],
)
@pytest.mark.parametrize("suffix", [".png", ".tif", ".webp"])
def test_exif_orientation(tmp_path, orientation, expected, suffix):
    exif = Image.Exif()
    exif[0x0112] = orientation
    options = {"lossless": True} if suffix == ".webp" else {}
    path = tmp_path / f"a{suffix}"
    image_of([[RED, GREEN]]).save(path, exif=exif, **options)
    assert_pixels(read_image(path), expected)


def test_exif_orientation_of_a_photograph(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6
    left_red = image_of([[RED] * 16 + [BLUE] * 16] * 16)
    left_red.save(tmp_path / "a.jpg", exif=exif, quality=100, subsampling=0)
    image = read_image(tmp_path / "a.jpg")
    assert image.shape == (32, 16, 3)
    assert_pixels(image, [[RED] * 16] * 16 + [[BLUE] * 16] * 16, tolerance=3)


def test_alpha_shows_the_background(tmp_path):
    image_of([[(255, 0, 0, 255), (255, 0, 0, 0), (255, 0, 0, 51)]], "RGBA").save(tmp_path / "a.png")
    # A fifth of red on a ground of (0, 100, 200).
    ground = (0.0, 100 / 255, 200 / 255)
    image = read_image(tmp_path / "a.png", ground)
    assert_pixels(image, [[RED, (0, 100, 200), (51, 80, 160)]], tolerance=1e-3)
    image_of([[[100, 255], [100, 0]]], "LA").save(tmp_path / "b.png")
    assert_pixels(read_image(tmp_path / "b.png"), [[(100, 100, 100), (255, 255, 255)]])


@pytest.mark.parametrize("suffix", [".png", ".tif", ".pgm"])
def test_sixteen_bits_keep_their_scale(tmp_path, suffix):
    values = np.array([[0, 257, 32896, 65535]], np.uint16)  # n * 257 is n of 8 bits
    Image.fromarray(values).save(tmp_path / f"a{suffix}")
    image = read_image(tmp_path / f"a{suffix}")
    assert_pixels(image, [[(0, 0, 0), (1, 1, 1), GRAY, (255, 255, 255)]])


def test_sixteen_bits_with_color_orientation_and_transparency(tmp_path):
    color = struct.pack(">6H", 65535, 32896, 0, 257 * 10, 257 * 20, 257 * 30)
    (tmp_path / "a.png").write_bytes(png(2, 1, 2, 16, b"\0" + color))
    assert_pixels(read_image(tmp_path / "a.png"), [[(255, 128, 0), (10, 20, 30)]])

    gray = struct.pack(">2H", 65535, 32896)
    (tmp_path / "b.png").write_bytes(png(2, 1, 0, 16, b"\0" + gray, (b"tRNS", gray[2:])))
    assert_pixels(read_image(tmp_path / "b.png", (1, 0, 0)), [[(255, 255, 255), RED]])

    exif = Image.Exif()
    exif[0x0112] = 6
    Image.fromarray(np.array([[0, 32896]], np.uint16)).save(tmp_path / "c.png", exif=exif)
    assert_pixels(read_image(tmp_path / "c.png"), [[(0, 0, 0)], [GRAY]])


def test_values_of_unknown_scale_are_refused(tmp_path):
    Image.fromarray(np.array([[0.25, 1.0]], np.float32)).save(tmp_path / "a.tif")
    assert_pixels(read_image(tmp_path / "a.tif"), [[(64,) * 3, (255,) * 3]])
    Image.fromarray(np.array([[0.5, 7.0]], np.float32)).save(tmp_path / "b.tif")
    with pytest.raises(ValueError, match=r"not within 0\.\.1\. Save as PNG"):
        read_image(tmp_path / "b.tif")


def test_greyscale_and_black_and_white(tmp_path):
    image_of([[0, 128, 255]], "L").save(tmp_path / "a.png")
    assert_pixels(read_image(tmp_path / "a.png"), [[(0, 0, 0), GRAY, (255, 255, 255)]])
    image_of([[0, 255]], "L").convert("1").save(tmp_path / "b.png")
    assert_pixels(read_image(tmp_path / "b.png"), [[(0, 0, 0), (255, 255, 255)]])


@pytest.mark.parametrize("suffix", [".jpg", ".tif"])
def test_cmyk(tmp_path, suffix):
    options = {"quality": 100, "subsampling": 0} if suffix == ".jpg" else {}
    # Cyan ink takes away red; half of black ink halves all.
    image = Image.new("CMYK", (16, 8), (255, 0, 0, 0))
    image.paste((0, 0, 0, 128), (8, 0, 16, 8))
    image.save(tmp_path / f"a{suffix}", **options)
    expected = [[(0, 255, 255)] * 8 + [(127, 127, 127)] * 8] * 8
    assert_pixels(read_image(tmp_path / f"a{suffix}"), expected, tolerance=3)


@pytest.mark.parametrize("suffix", [".png", ".gif"])
def test_palette_with_transparency(tmp_path, suffix):
    image = Image.new("P", (3, 1))
    image.putpalette([*RED, *GREEN, *BLUE])
    image.putdata([0, 1, 2])
    image.save(tmp_path / f"a{suffix}", transparency=1)
    expected = [[RED, (255, 255, 255), BLUE]]
    assert_pixels(read_image(tmp_path / f"a{suffix}"), expected)


def test_palette_with_partly_transparent_colors(tmp_path):
    image = Image.new("P", (3, 1))
    image.putpalette([*RED, *GREEN, *BLUE])
    image.putdata([0, 1, 2])
    image.save(tmp_path / "a.png", transparency=bytes([255, 51, 0]))
    image = read_image(tmp_path / "a.png", (0, 0, 0))
    assert_pixels(image, [[RED, (0, 51, 0), (0, 0, 0)]], tolerance=1e-3)


@pytest.mark.parametrize("suffix", [".gif", ".webp", ".png", ".apng", ".tif"])
def test_animation_gives_its_first_frame(tmp_path, suffix):
    frames = [Image.new("RGB", (4, 4), color) for color in (RED, GREEN, BLUE)]
    options = {"lossless": True} if suffix == ".webp" else {}
    frames[0].save(tmp_path / f"a{suffix}", save_all=True, append_images=frames[1:], **options)
    assert_pixels(read_image(tmp_path / f"a{suffix}"), [[RED] * 4] * 4)


def test_broken_files_are_named_and_left_out(tmp_path):
    save(tmp_path / "good.png", BLUE)
    noise = Image.fromarray(np.random.default_rng(0).integers(0, 256, (64, 64, 3), np.uint8))
    noise.save(tmp_path / "whole.jpg")
    noise.save(tmp_path / "whole.png")
    for name in ("whole.jpg", "whole.png"):
        data = (tmp_path / name).read_bytes()
        (tmp_path / f"cut {name}").write_bytes(data[: len(data) // 2])
        (tmp_path / name).unlink()
    (tmp_path / "empty.png").write_bytes(b"")
    (tmp_path / "text.jpg").write_text("not a picture")
    (tmp_path / "script.png").write_text("%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n")
    (tmp_path / "bomb.png").write_bytes(png(60000, 60000, 0, 1, b""))
    references, warnings = load_reference_folder(tmp_path, limit=10)
    assert references.names == ("good.png",)
    assert_pixels(references[0], [[BLUE] * 4] * 4)
    reasons = dict(w.split(" was left out: ") for w in warnings)
    assert reasons["empty.png"] == "empty. Copy it here again."
    assert "a vector drawing" in reasons["script.png"]
    assert "no picture of a kind" in reasons["text.jpg"]
    assert "too many" in reasons["bomb.png"]
    for name in ("cut whole.jpg", "cut whole.png"):
        assert reasons[name].startswith("damaged (") and "PNG or JPEG" in reasons[name]
    assert len(warnings) == 6


def test_a_bomb_is_refused_whatever_pillow_is_told(tmp_path, monkeypatch):
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", None)
    (tmp_path / "bomb.png").write_bytes(png(60000, 60000, 0, 1, b""))
    with pytest.raises(ValueError, match="too many"):
        read_image(tmp_path / "bomb.png")


# The folder


def test_stray_files_are_ignored_in_silence(tmp_path):
    save(tmp_path / "a.PNG", format="PNG")
    for name in ("notes.txt", "Thumbs.db", ".DS_Store", "._a.png", ".hidden.png"):
        (tmp_path / name).write_bytes(b"\0\5\26\7")
    (tmp_path / "folder.png").mkdir()
    references, warnings = load_reference_folder(tmp_path)
    assert references.names == ("a.PNG",) and not warnings


def test_no_picture_says_where_it_looked(tmp_path):
    with pytest.raises(SeedSelectError) as caught:
        load_reference_folder(tmp_path)
    assert str(tmp_path) in str(caught.value) and "Put PNG or JPEG" in str(caught.value)
    (tmp_path / "broken.png").write_bytes(b"")
    with pytest.raises(SeedSelectError, match=r"broken\.png"):
        load_reference_folder(tmp_path)
    with pytest.raises(SeedSelectError, match="no folder"):
        load_reference_folder(tmp_path / "missing")


def test_limit_and_order(tmp_path):
    for i, name in enumerate(["10.png", "2.png", "1.png", "b.png", "A.png"]):
        save(tmp_path / name)
        os.utime(tmp_path / name, (1000 - i, 1000 - i))
    (tmp_path / "0.png").write_bytes(b"broken")

    def names(**options):
        return load_reference_folder(tmp_path, **options)[0].names

    assert names() == ("1.png", "2.png", "10.png", "A.png", "b.png")
    # A broken file does not count.
    assert names(limit=2) == ("1.png", "2.png")
    assert names(limit=2, order="newest") == ("10.png", "2.png")
    shuffled = [names(order="random", seed=seed) for seed in range(5)]
    assert shuffled[0] == names(order="random", seed=0)
    assert len(set(shuffled)) > 1 and all(len(s) == 5 for s in shuffled)
    with pytest.raises(SeedSelectError, match="order"):
        names(order="size")
    with pytest.raises(SeedSelectError, match="limit"):
        names(limit=0)


def test_chosen_files_keep_their_order_and_all_are_taken(tmp_path):
    paths = [save(tmp_path / f"{name}.png") for name in "dbacfe"]
    (tmp_path / "f.png").write_bytes(b"broken")
    references, warnings = load_reference_files(paths, allowed_roots=[tmp_path], crop="pad")
    assert references.names == ("d.png", "b.png", "a.png", "c.png", "e.png")
    assert references.crop == "pad"
    assert len(warnings) == 1 and warnings[0].startswith("f.png was left out: ")
    (tmp_path / "inner").mkdir()
    with pytest.raises(SeedSelectError, match=r"^pictures: none of them can be read\. .*left out"):
        load_reference_files(paths, allowed_roots=[tmp_path / "inner"])


def test_only_what_lies_in_the_allowed_folder_is_read(tmp_path):
    root = tmp_path / "input"
    outside = tmp_path / "input_secret"
    (root / "letters").mkdir(parents=True)
    outside.mkdir()
    save(root / "letters" / "a.png")
    save(outside / "secret.png")
    (root / "link").symlink_to(outside)
    (root / "letters" / "linked.png").symlink_to(outside / "secret.png")

    references, warnings = load_reference_folder(root / "letters", allowed_roots=[root])
    assert references.names == ("a.png",)
    assert len(warnings) == 1 and "linked.png" in warnings[0]
    for folder in (outside, root / "link", root / ".." / "input_secret", root / "letters" / ".."):
        with pytest.raises(SeedSelectError, match="not inside"):
            load_reference_folder(folder, allowed_roots=[root])
    assert load_reference_folder(outside)[0].names == ("secret.png",)  # a library user may


# The set


def set_of(*images: torch.Tensor, **options) -> ReferenceSet:
    pictures = (Picture(str(n), lambda image=image: image) for n, image in enumerate(images))
    return ReferenceSet(tuple(pictures), **options)


def stripes(crop: str, size: tuple[int, int] = (8, 4), **options) -> ReferenceSet:
    """Red | green, green | blue in columns: a wide picture whose middle half is green."""
    width, height = size
    image = torch.tensor([RED, GREEN, GREEN, BLUE], dtype=torch.float32) / 255
    image = image.repeat_interleave(width // 4, 0).expand(height, width, 3).clone()
    return set_of(image, crop=crop, **{"background": (1.0, 1.0, 0.0)} | options)


def test_crop_modes():
    assert_pixels(stripes("center").resized(4, 4)[0], [[GREEN] * 4] * 4)
    padded = stripes("pad").resized(8, 8)[0]
    row = [RED, RED, GREEN, GREEN, GREEN, GREEN, BLUE, BLUE]
    ground = [[(255, 255, 0)] * 8] * 2
    assert_pixels(padded, ground + [row] * 4 + ground)
    squashed = stripes("stretch", (64, 4)).resized(4, 4)[0]
    assert_pixels(squashed, [[RED, GREEN, GREEN, BLUE]] * 4, tolerance=30)
    for crop, row in (
        ("left", [RED, GREEN]),
        ("right", [GREEN, BLUE]),
        ("top", [GREEN, GREEN]),
        ("bottom", [GREEN, GREEN]),
    ):
        assert_pixels(stripes(crop).resized(2, 2)[0], [row] * 2, tolerance=30)
    tall = set_of(stripes("center")[0].transpose(0, 1))
    for crop, column in (
        ("top", [RED, GREEN]),
        ("bottom", [GREEN, BLUE]),
        ("left", [GREEN, GREEN]),
        ("right", [GREEN, GREEN]),
    ):
        upright = ReferenceSet(tall.pictures, crop)
        rows = [[color] * 2 for color in column]
        assert_pixels(upright.resized(2, 2)[0], rows, tolerance=30)
    assert_pixels(tall.resized(4, 4)[0], [[GREEN] * 4] * 4)
    with pytest.raises(SeedSelectError, match="crop"):
        stripes("middle")


def test_resizing_is_antialiased_and_stays_in_range():
    lines = torch.zeros(64, 64, 3)
    lines[:, 4::8] = 1.0  # one column in eight
    small = set_of(lines).resized(8, 8)
    assert (small - 1 / 8).abs().max() < 0.03
    edge = torch.zeros(16, 16, 3)
    edge[:, 8:] = 1.0
    large = set_of(edge).resized(40, 40)
    assert large.min() == 0.0 and large.max() == 1.0


def test_pictures_of_many_sizes_make_one_batch():
    images = (torch.rand(5, 9, 3), torch.rand(30, 2, 3), torch.rand(1, 1, 3))
    references = set_of(*images)
    assert len(references) == 3
    assert references.resized(6, 4).shape == (3, 4, 6, 3)
    assert references.preview(7).shape == (3, 7, 7, 3)
    for crop in ("pad", "stretch"):
        assert set_of(*images, crop=crop).preview(7).shape == (3, 7, 7, 3)


def test_fingerprint_changes_with_whatever_changes_a_result():
    base = stripes("center")
    image = base[0]
    dot = image.clone()
    dot[0, 0, 0] -= 1 / 255
    ground = base.background
    others = [
        stripes("pad"),
        stripes("center", (12, 4)),
        set_of(dot, background=ground),
        stripes("center", background=(0.0, 0.0, 0.0)),
        set_of(image, image, background=ground),
        set_of(image.transpose(0, 1), background=ground),
    ]
    assert len({s.fingerprint() for s in [base, *others]}) == 7
    assert base.fingerprint() == stripes("center").fingerprint()


def test_batches_and_combining():
    gray = torch.full((2, 3, 4, 1), 0.5)
    assert torch.equal(reference_set_from_batch(gray)[1], torch.full((3, 4, 3), 0.5))
    rgba = torch.tensor([1.0, 0.0, 0.0, 0.25]).expand(1, 2, 2, 4)
    on_blue = reference_set_from_batch(rgba, crop="pad", background=(0.0, 0.0, 1.0))
    assert on_blue[0][0, 0].tolist() == [0.25, 0.0, 0.75]
    overshoot = reference_set_from_batch(torch.tensor([-0.1, 0.5, 1.1]).expand(1, 2, 2, 3))
    assert overshoot[0][0, 0].tolist() == [0.0, 0.5, 1.0]
    both = combine(on_blue, reference_set_from_batch(gray))
    assert len(both) == 3 and both.names == ("image 1", "image 1", "image 2")
    assert both.crop == "pad" and both.background == (0.0, 0.0, 1.0)
    with pytest.raises(SeedSelectError, match="images"):
        reference_set_from_batch(torch.zeros(3, 4, 3))


def test_colors():
    assert parse_color("#FF8000") == (1.0, 128 / 255, 0.0)
    assert parse_color(" #fff ") == parse_color("white") == (1.0, 1.0, 1.0)
    with pytest.raises(SeedSelectError, match="background"):
        parse_color("#12")
