"""Picture files as a viewer shows them: what every kind holds is computed here, by no reader."""

import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image, ImageCms, ImageFile

from picture_files import D50, curve, icc, ink_table, png, tiff, xyz
from seedselect_core.errors import SeedSelectError
from seedselect_core.pictures import read_image, read_pixels
from seedselect_core.references import load_reference_folder

GRAYS = np.array([[0, 51, 128, 255]], np.uint8)
COLORS = np.array([[[255, 0, 0], [0, 128, 0], [10, 20, 200], [250, 240, 230]]], np.uint8)
ALPHA = np.array([[[255], [0], [51], [204]]], np.uint8)


def seen(path: Path, content: bytes) -> np.ndarray:
    """What is read of a file, in 0..255."""
    path.write_bytes(content)
    return read_image(path).numpy() * 255


def on_white(colors: np.ndarray, alpha: np.ndarray) -> np.ndarray:
    share = alpha.astype(float) / 255
    return colors * share + 255 * (1 - share)


def gray(values: np.ndarray) -> np.ndarray:
    return np.repeat(values[..., None].astype(float), 3, axis=2)


# Independent renderings of what TIFF and ICC define.


def encoded(linear: np.ndarray) -> np.ndarray:
    """Linear sRGB to 0..255."""
    linear = np.clip(linear, 0, 1)
    low = linear * 12.92
    high = 1.055 * np.maximum(linear, 1e-9) ** (1 / 2.4) - 0.055
    return 255 * np.where(linear <= 0.0031308, low, high)


def decoded(values: np.ndarray) -> np.ndarray:
    """0..1 of sRGB's curve to linear."""
    return np.where(values <= 0.04045, values / 12.92, ((values + 0.055) / 1.055) ** 2.4)


# Columns: the primaries of sRGB and Display P3, adapted to D50 (as every ICC profile has them).
SRGB = np.array([[0.4361, 0.3851, 0.1431], [0.2225, 0.7169, 0.0606], [0.0139, 0.0971, 0.7141]])
P3 = np.array([[0.5151, 0.2920, 0.1571], [0.2412, 0.6922, 0.0666], [-0.0011, 0.0419, 0.7841]])


def from_d50(values: np.ndarray) -> np.ndarray:
    """XYZ [..., 3] to 0..255 of sRGB."""
    return encoded(values @ np.linalg.inv(SRGB).T)


def from_lab(light: float, a: float, b: float) -> np.ndarray:
    y = (light + 16) / 116
    parts = np.array([y + a / 500, y, y - b / 200])
    linear = np.where(parts > 6 / 29, parts**3, (parts - 4 / 29) * 3 * (6 / 29) ** 2)
    return from_d50(linear * D50)


def p3_profile() -> bytes:
    steps = curve(decoded(np.linspace(0, 1, 1024)))
    tags = {name: xyz(*P3[:, i]) for i, name in enumerate((b"rXYZ", b"gXYZ", b"bXYZ"))}
    return icc(b"RGB ", b"XYZ ", tags | {n: steps for n in (b"rTRC", b"gTRC", b"bTRC")})


def gray_profile() -> bytes:
    """Pixels that are linear light."""
    return icc(b"GRAY", b"XYZ ", {b"kTRC": curve(np.linspace(0, 1, 1024))})


INKS = {
    (0, 0, 0, 0): (100, 0, 0),
    (1, 0, 0, 0): (60, -15, -30),
    (0, 1, 0, 0): (50, 60, 0),
    (0, 0, 1, 0): (85, 0, 70),
    (1, 1, 1, 1): (0, 0, 0),
}


def ink_profile() -> bytes:
    return icc(b"CMYK", b"Lab ", {b"A2B0": ink_table(INKS)})


# Every depth and photometric interpretation of TIFF


def packed(values: np.ndarray, bits: int) -> bytes:
    """Rows of values of so many bits, each row filled up to whole bytes."""
    rows = []
    for row in values:
        text = "".join(f"{int(v):0{bits}b}" for v in row)
        text += "0" * (-len(text) % 8)
        rows.append(int(text, 2).to_bytes(len(text) // 8, "big"))
    return b"".join(rows)


def deep(values: np.ndarray, kind: str) -> bytes:
    """8 bits as 16: n becomes n * 257."""
    return (values.astype(int) * 257).astype(kind).tobytes()


FLOATS = (GRAYS / 255).astype("<f4").tobytes()
WHOLE = (GRAYS.astype(np.uint64) * (2**32 - 1) // 255).astype("<u4").tobytes()
INK = np.array([[[255, 0, 0, 0], [0, 128, 0, 0], [0, 0, 51, 0], [0, 0, 0, 204]]], np.uint8)
ON_PAPER = (255 - INK[..., :3].astype(float)) * (255 - INK[..., 3:]) / 255
PREMULTIPLIED = np.rint(COLORS * (ALPHA / 255)).astype(np.uint8)
WITH_ALPHA = np.concatenate([COLORS, ALPHA], 2)
YCC = np.array([[[76, 85, 255], [150, 44, 21], [128, 128, 128], [29, 255, 107]]], np.uint8)


def of_ycc(values: np.ndarray) -> np.ndarray:
    y, cb, cr = np.moveaxis(values.astype(float), 2, 0)
    red = y + 1.402 * (cr - 128)
    green = y - 0.344136 * (cb - 128) - 0.714136 * (cr - 128)
    blue = y + 1.772 * (cb - 128)
    return np.clip(np.stack([red, green, blue], 2), 0, 255)


LAB = [(60, 20, -30), (100, 0, 0), (30, -20, 25), (80, 5, 60)]
LAB_BYTES = b"".join(struct.pack("Bbb", round(light * 2.55), a, b) for light, a, b in LAB)
PALETTE = tuple(int(v) * 257 for v in np.pad(COLORS[0], ((0, 252), (0, 0))).T.ravel())

TIFFS = {
    "gray": ((GRAYS.tobytes(), 4, 1, 1, (8,)), {}, gray(GRAYS)),
    "gray, white is zero": ((GRAYS.tobytes(), 4, 1, 0, (8,)), {}, gray(255 - GRAYS)),
    "1 bit": ((packed(GRAYS > 99, 1), 4, 1, 1, (1,)), {}, gray((GRAYS > 99) * 255)),
    "1 bit, white is zero": (
        (packed(GRAYS > 99, 1), 4, 1, 0, (1,)),
        {},
        gray((GRAYS <= 99) * 255),
    ),
    "4 bits": ((packed(GRAYS // 17, 4), 4, 1, 1, (4,)), {}, gray(GRAYS // 17 * 17)),
    "4 bits, white is zero": (
        (packed(GRAYS // 17, 4), 4, 1, 0, (4,)),
        {},
        gray(255 - GRAYS // 17 * 17),
    ),
    "12 bits": ((packed(GRAYS.astype(int) * 4095 // 255, 12), 4, 1, 1, (12,)), {}, gray(GRAYS)),
    "16 bits": ((deep(GRAYS, "<u2"), 4, 1, 1, (16,)), {}, gray(GRAYS)),
    "16 bits, big": ((deep(GRAYS, ">u2"), 4, 1, 1, (16,)), {"big": True}, gray(GRAYS)),
    "16 bits, white is zero": ((deep(GRAYS, "<u2"), 4, 1, 0, (16,)), {}, gray(255 - GRAYS)),
    "32 bits": ((WHOLE, 4, 1, 1, (32,)), {}, gray(GRAYS)),
    "float": ((FLOATS, 4, 1, 1, (32,)), {"sample_format": 3}, gray(GRAYS)),
    "float, white is zero": ((FLOATS, 4, 1, 0, (32,)), {"sample_format": 3}, gray(255 - GRAYS)),
    "RGB": ((COLORS.tobytes(), 4, 1, 2, (8,) * 3), {}, COLORS),
    "RGB, 16 bits": ((deep(COLORS, "<u2"), 4, 1, 2, (16,) * 3), {}, COLORS),
    "RGB, 16 bits, big": ((deep(COLORS, ">u2"), 4, 1, 2, (16,) * 3), {"big": True}, COLORS),
    "alpha": (
        (WITH_ALPHA.tobytes(), 4, 1, 2, (8,) * 4),
        {"extra": (2,)},
        on_white(COLORS, ALPHA),
    ),
    "alpha, 16 bits": (
        (deep(WITH_ALPHA, "<u2"), 4, 1, 2, (16,) * 4),
        {"extra": (2,)},
        on_white(COLORS, ALPHA),
    ),
    "alpha that is in the colors": (
        (np.concatenate([PREMULTIPLIED, ALPHA], 2).tobytes(), 4, 1, 2, (8,) * 4),
        {"extra": (1,)},
        on_white(COLORS, ALPHA),
    ),
    "a channel of no meaning": (
        (WITH_ALPHA.tobytes(), 4, 1, 2, (8,) * 4),
        {"extra": (0,)},
        COLORS,
    ),
    "gray with alpha": (
        (np.stack([GRAYS, ALPHA[..., 0]], 2).tobytes(), 4, 1, 1, (8, 8)),
        {"extra": (2,)},
        on_white(gray(GRAYS), ALPHA),
    ),
    "gray with alpha that is in it": (
        (
            np.stack([np.rint(GRAYS * (ALPHA[..., 0] / 255)), ALPHA[..., 0]], 2)
            .astype(np.uint8)
            .tobytes(),
            4,
            1,
            1,
            (8, 8),
        ),
        {"extra": (1,)},
        on_white(gray(GRAYS), ALPHA),
    ),
    "palette": ((bytes([0, 1, 2, 3]), 4, 1, 3, (8,)), {"others": {320: PALETTE}}, COLORS),
    "CMYK": ((INK.tobytes(), 4, 1, 5, (8,) * 4), {}, ON_PAPER),
    "CMYK, 16 bits": ((deep(INK, "<u2"), 4, 1, 5, (16,) * 4), {}, ON_PAPER),
    "YCbCr": ((YCC.tobytes(), 4, 1, 6, (8,) * 3), {"others": {530: (1, 1)}}, of_ycc(YCC)),
    "Lab": ((LAB_BYTES, 4, 1, 8, (8,) * 3), {}, np.array([[from_lab(*each) for each in LAB]])),
}


@pytest.mark.parametrize("kind", TIFFS)
def test_tiff_of_every_depth_and_photometric_interpretation(tmp_path, kind):
    parts, more, expected = TIFFS[kind]
    # Premultiplied colors lose digits where little is to be seen.
    np.testing.assert_allclose(seen(tmp_path / "a.tif", tiff(*parts, **more)), expected, atol=2.5)


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (tiff(deep(GRAYS, "<i2"), 4, 1, 1, (16,), sample_format=2), "a sign"),
        (tiff(GRAYS.tobytes(), 4, 1, 1, (8,), sample_format=2), "a sign"),
        (tiff(np.array([[0, np.nan]], "<f4").tobytes(), 2, 1, 1, (32,), sample_format=3), "NaN"),
        (tiff(np.array([[0, np.inf]], "<f4").tobytes(), 2, 1, 1, (32,), sample_format=3), "NaN"),
        (tiff(np.array([[0, 9]], "<f4").tobytes(), 2, 1, 1, (32,), sample_format=3), "0..1"),
        (tiff(deep(GRAYS, ">u2"), 4, 1, 0, (16,), big=True), "no picture of a kind"),
        (tiff(COLORS.tobytes(), 4, 1, 2, (8,) * 3, others={50706: (257, 0)}), "RAW"),
    ],
)
def test_tiff_that_cannot_be_shown_is_refused_with_the_reason_and_the_way_out(
    tmp_path, content, reason
):
    (tmp_path / "scan.tif").write_bytes(content)
    with pytest.raises(SeedSelectError, match=rf"scan\.tif was left out: .*{reason}.*PNG or JPEG"):
        load_reference_folder(tmp_path)


# Every depth and color type of PNG


def rows_of(values: np.ndarray) -> bytes:
    return b"\0" + values.tobytes()


def level(depth: int) -> np.ndarray:
    return GRAYS.astype(int) * (2**depth - 1) // 255


def shown(depth: int) -> np.ndarray:
    return gray(level(depth) * 255 / (2**depth - 1))


HIDES_THIRD = np.array([[[255], [255], [0], [255]]])
KEY = struct.pack(">3H", 10 * 257, 20 * 257, 200 * 257)
PNGS = {
    **{
        f"gray, {d} bits": (png(4, 1, 0, d, b"\0" + packed(level(d), d)), shown(d))
        for d in (1, 2, 4, 8, 16)
    },
    **{
        f"gray, {d} bits, one value transparent": (
            png(4, 1, 0, d, b"\0" + packed(level(d), d), (b"tRNS", struct.pack(">H", key))),
            on_white(shown(d), np.where(level(d) == key, 0, 255)[..., None]),
        )
        for d in (1, 2, 4, 8, 16)
        for key in (int(level(d)[0, 2]),)
    },
    "RGB": (png(4, 1, 2, 8, rows_of(COLORS)), COLORS),
    "RGB, 16 bits": (png(4, 1, 2, 16, b"\0" + deep(COLORS, ">u2")), COLORS),
    "RGB, one color transparent": (
        png(4, 1, 2, 8, rows_of(COLORS), (b"tRNS", struct.pack(">3H", 10, 20, 200))),
        on_white(COLORS, HIDES_THIRD),
    ),
    "RGB, 16 bits, one color transparent": (
        png(4, 1, 2, 16, b"\0" + deep(COLORS, ">u2"), (b"tRNS", KEY)),
        on_white(COLORS, HIDES_THIRD),
    ),
    "RGBA": (png(4, 1, 6, 8, rows_of(WITH_ALPHA)), on_white(COLORS, ALPHA)),
    "RGBA, 16 bits": (png(4, 1, 6, 16, b"\0" + deep(WITH_ALPHA, ">u2")), on_white(COLORS, ALPHA)),
    "gray with alpha, 16 bits": (
        png(4, 1, 4, 16, b"\0" + deep(np.stack([GRAYS, ALPHA[..., 0]], 2), ">u2")),
        on_white(gray(GRAYS), ALPHA),
    ),
    "palette, 2 bits, partly transparent": (
        png(
            *(4, 1, 3, 2, b"\0\x1b"),
            (b"PLTE", COLORS.tobytes()),
            (b"tRNS", ALPHA.tobytes()),
        ),
        on_white(COLORS, ALPHA),
    ),
}


@pytest.mark.parametrize("kind", PNGS)
def test_png_of_every_depth_and_color_type(tmp_path, kind):
    content, expected = PNGS[kind]
    np.testing.assert_allclose(seen(tmp_path / "a.png", content), expected, atol=0.6)


@pytest.mark.parametrize("suffix", [".webp", ".png", ".gif", ".avif", ".jp2", ".tga"])
def test_alpha_of_every_format_shows_the_background(tmp_path, suffix):
    path = tmp_path / f"a{suffix}"
    image = Image.new("RGBA", (32, 16), (255, 0, 0, 255))
    image.paste((0, 0, 255, 0), (16, 0, 32, 16))
    options = {"quality": 100} if suffix in (".webp", ".avif") else {}
    image.save(path, **options)
    pixels = read_image(path, (0.0, 1.0, 0.0)).numpy()
    np.testing.assert_allclose(pixels[:, :14], np.full((16, 14, 3), (1, 0, 0)), atol=0.02)
    np.testing.assert_allclose(pixels[:, 18:], np.full((16, 14, 3), (0, 1, 0)), atol=0.02)


@pytest.mark.parametrize("suffix", [".jp2", ".pgm", ".png"])
def test_sixteen_bits_of_other_formats(tmp_path, suffix):
    values = np.repeat(np.repeat(GRAYS.astype(np.uint16) * 257, 8, 0), 8, 1)
    Image.fromarray(values).save(tmp_path / f"a{suffix}")
    pixels = read_image(tmp_path / f"a{suffix}").numpy() * 255
    np.testing.assert_allclose(pixels[4, ::8], gray(GRAYS)[0], atol=1)


# Color profiles


def test_display_p3_is_converted(tmp_path):
    """sRGB's red is (234, 51, 35) there, and that is how it lies in the file."""
    for suffix, options in (
        (".jpg", {"quality": 100, "subsampling": 0}),
        (".png", {}),
        (".tif", {}),
    ):
        path = tmp_path / f"a{suffix}"
        Image.new("RGB", (16, 16), (234, 51, 35)).save(path, icc_profile=p3_profile(), **options)
        pixels, notes = read_pixels(path)
        assert not notes
        np.testing.assert_allclose(pixels[8, 8].numpy(), (255, 0, 0), atol=5)


RAMP = np.stack([np.arange(0, 256, 15), np.arange(255, -1, -15), np.full(18, 100)], 1)[None]


@pytest.mark.parametrize("mode", ["RGB", "RGBA", "P", "one transparent color", "L"])
def test_a_profile_counts_in_every_mode(tmp_path, mode):
    colors = RAMP.astype(np.uint8)
    image = Image.fromarray(colors)
    options = {}
    alpha = np.full((1, 18, 1), 255)
    if mode == "RGBA":
        alpha = np.where(np.arange(18) % 2, 255, 51)[None, :, None]
        image.putalpha(Image.fromarray(alpha[..., 0].astype(np.uint8)))
    elif mode == "P":
        image = image.quantize(256, dither=Image.Dither.NONE)
    elif mode == "one transparent color":
        options = {"transparency": tuple(colors[0, 3].tolist())}
        alpha[0, 3] = 0
    elif mode == "L":
        image = Image.fromarray(colors[..., 0])
        colors = np.repeat(colors[..., :1], 3, 2)
    image.save(tmp_path / "a.png", icc_profile=p3_profile(), **options)
    expected = on_white(from_d50(decoded(colors / 255) @ P3.T), alpha)
    np.testing.assert_allclose(read_image(tmp_path / "a.png").numpy() * 255, expected, atol=2)


@pytest.mark.parametrize("kind", ["L", "LA", "I;16", "1"])
def test_gray_profiles(tmp_path, kind):
    values = GRAYS
    image = Image.fromarray(values)
    alpha = np.full((1, 4, 1), 255)
    if kind == "LA":
        alpha = ALPHA
        image.putalpha(Image.fromarray(ALPHA[..., 0]))
    elif kind == "I;16":
        image = Image.fromarray(values.astype(np.uint16) * 257)
    elif kind == "1":
        values = (values > 99) * 255
        image = image.point(lambda v: 255 * (v > 99)).convert("1")
    image.save(tmp_path / "a.png", icc_profile=gray_profile())
    expected = on_white(gray(encoded(values / 255)), alpha)
    np.testing.assert_allclose(read_image(tmp_path / "a.png").numpy() * 255, expected, atol=1.5)


@pytest.mark.parametrize("suffix", [".jpg", ".tif"])
def test_cmyk_with_a_profile(tmp_path, suffix):
    options = {"quality": 100, "subsampling": 0} if suffix == ".jpg" else {}
    for ink, lab in INKS.items():
        path = tmp_path / f"a{suffix}"
        color = tuple(255 * part for part in ink)
        Image.new("CMYK", (16, 16), color).save(path, icc_profile=ink_profile(), **options)
        pixels, notes = read_pixels(path)
        assert not notes
        np.testing.assert_allclose(pixels[8, 8].numpy(), from_lab(*lab), atol=4)


def test_a_profile_that_cannot_be_used_is_told_and_the_colors_stay(tmp_path):
    damaged = bytearray(p3_profile())
    damaged[128:140] = b"\xff" * 12
    profiles = {
        "damaged.jpg": bytes(damaged),
        "cut.jpg": p3_profile()[:200],
        "nothing.jpg": b"not a profile",
        "ink.jpg": ink_profile(),
        "gray.jpg": gray_profile(),
    }
    for name, profile in profiles.items():
        image = Image.new("RGB", (16, 16), (200, 100, 50))
        image.save(tmp_path / name, icc_profile=profile, quality=100, subsampling=0)
        np.testing.assert_allclose(read_pixels(tmp_path / name)[0][8, 8], (200, 100, 50), atol=2)
    references, warnings = load_reference_folder(tmp_path)
    assert len(references) == 5
    assert len(warnings) == 3 and all("the color profile is " in text for text in warnings)
    assert warnings[0] == (
        "cut.jpg, damaged.jpg, nothing.jpg: the color profile is damaged and was not used, so "
        "colors may be off."
    )


def test_the_usual_profile_changes_nothing(tmp_path):
    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    Image.fromarray(RAMP.astype(np.uint8)).save(tmp_path / "a.png", icc_profile=profile)
    assert (read_pixels(tmp_path / "a.png")[0].numpy().astype(int) - RAMP).__abs__().max() <= 1


# Damaged files


def with_chunk(path: Path, kind: bytes, body: bytes, checksum: int | None = None) -> None:
    """A PNG of COLORS with a chunk before its pixels."""
    whole = png(4, 1, 2, 8, rows_of(COLORS), (kind, body))
    if checksum is not None:
        right = struct.pack(">I", zlib.crc32(kind + body))
        whole = whole.replace(right, struct.pack(">I", checksum))
    path.write_bytes(whole)


EXIF = b"II*\0\x08\0\0\0\x01\0\x12\x01\x03\0\x01\0\0\0\x01\0\0\0\0\0\0\0"


@pytest.mark.parametrize(
    ("kind", "body", "checksum"),
    [
        (b"eXIf", b"Exif\0\0 no such thing", None),
        (b"eXIf", b"", None),
        (b"eXIf", EXIF[:11], None),
        (b"eXIf", b"II*\0\xff\xff\xff\xff", None),
        (b"eXIf", EXIF, 12345),  # a wrong checksum
        (b"gAMA", b"", None),
        (b"iCCP", b"x\0\x07damaged", None),
        (b"pHYs", b"\0", None),
        (b"tEXt", b"a\0b", 12345),
    ],
)
def test_png_whose_pixels_are_whole_is_read_whatever_is_damaged_beside_them(
    tmp_path, kind, body, checksum
):
    with_chunk(tmp_path / "a.png", kind, body, checksum)
    np.testing.assert_array_equal(read_pixels(tmp_path / "a.png")[0].numpy(), COLORS)


def test_damage_beside_the_pixels_is_told(tmp_path):
    with_chunk(tmp_path / "a.png", b"eXIf", b"Exif\0\0 no such thing")
    with_chunk(tmp_path / "b.png", b"eXIf", EXIF, 12345)
    with_chunk(tmp_path / "c.png", b"eXIf", EXIF)
    warnings = load_reference_folder(tmp_path)[1]
    assert [text.split(":")[0] for text in warnings] == ["a.png", "b.png"]


def test_orientation_is_that_of_the_file_though_its_exif_is_odd(tmp_path):
    """Some block of it cannot be written again, which Pillow's own turning would do."""
    exif = Image.Exif()
    exif[0x0112] = 6
    block = exif.tobytes() + b"rubbish"
    Image.fromarray(COLORS).save(tmp_path / "a.png", exif=block)
    np.testing.assert_array_equal(read_pixels(tmp_path / "a.png")[0].numpy(), np.rot90(COLORS, -1))


def test_half_a_file_is_refused_though_another_pack_lets_pillow_pass_it(tmp_path, monkeypatch):
    monkeypatch.setattr(ImageFile, "LOAD_TRUNCATED_IMAGES", True)
    noise = np.random.default_rng(0).integers(0, 256, (64, 64, 3), np.uint8)
    Image.fromarray(noise).save(tmp_path / "a.jpg")
    whole = (tmp_path / "a.jpg").read_bytes()
    (tmp_path / "a.jpg").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(SeedSelectError, match="damaged"):
        read_image(tmp_path / "a.jpg")
    assert ImageFile.LOAD_TRUNCATED_IMAGES is True


# What is not read

HEIC = b"\0\0\0\x18ftypheic\0\0\0\0mif1heic" + bytes(40)


@pytest.mark.parametrize(
    ("name", "content", "reason"),
    [
        ("a.heic", HEIC, "HEIC, which"),
        ("a.jpg", HEIC, "HEIC, which"),
        ("a.jpg", b"\0\0\0\x20ftypmif1\0\0\0\0mif1miafMA1Bheic" + bytes(40), "HEIC, which"),
        ("a.jxl", b"\xff\x0a" + bytes(40), "JPEG XL, which"),
        ("a.png", b"\0\0\0\x0cJXL \x0d\x0a\x87\x0a" + bytes(40), "JPEG XL, which"),
        ("a.NEF", tiff(COLORS.tobytes(), 4, 1, 2, (8,) * 3), "a RAW photograph, which"),
        ("a.dng", tiff(COLORS.tobytes(), 4, 1, 2, (8,) * 3), "a RAW photograph, which"),
        ("a.svg", b"<svg xmlns='http://www.w3.org/2000/svg'/>", "a vector drawing, which"),
        ("a.png", b"\xef\xbb\xbf <?xml version='1.0'?><svg/>", "a vector drawing, which"),
        ("a.psd", b"8BPS\0\1", "a Photoshop file, which"),
        ("a.jpg", b"8BPS\0\1", "a Photoshop file, which"),
        ("a.exr", b"v/1\1", "OpenEXR, which"),
        ("a.jpg", b"<!DOCTYPE html><html>", "a web page, which"),
        ("a.png", b"version https://git-lfs.github.com/spec/v1\n", "a Git LFS pointer"),
    ],
)
@pytest.mark.parametrize("limit", [1, 9])
def test_what_cannot_be_read_is_named_with_the_reason_and_the_way_out(
    tmp_path, name, content, reason, limit
):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(SeedSelectError, match=f"{name} was left out: {reason}.*PNG or JPEG"):
        load_reference_folder(tmp_path)
    Image.fromarray(COLORS).save(tmp_path / "b.png")
    references, warnings = load_reference_folder(tmp_path, limit=limit)
    assert references.names == ("b.png",)
    assert len(warnings) == 1 and warnings[0].startswith(f"{name} was left out: {reason}")


def test_what_cannot_be_read_is_named_though_there_are_pictures_enough(tmp_path):
    Image.fromarray(COLORS).save(tmp_path / "a.png")
    for number in range(40):
        (tmp_path / f"photo{number}.heic").write_bytes(HEIC)
    (tmp_path / "z.png").write_bytes(b"nobody gets as far as this")
    references, warnings = load_reference_folder(tmp_path, limit=1)
    assert references.names == ("a.png",)
    assert warnings == [
        "photo0.heic, photo1.heic, photo2.heic and 37 more were left out: HEIC, which cannot be "
        "read here. Save as PNG or JPEG."
    ]


def test_avif_is_named_where_pillow_lacks_it(tmp_path, monkeypatch):
    path = tmp_path / "a.avif"
    Image.new("RGB", (16, 16)).save(path)
    assert read_pixels(path)[0].shape == (16, 16, 3)
    (tmp_path / "cut.avif").write_bytes(path.read_bytes()[:-9])
    with pytest.raises(SeedSelectError, match="damaged"):
        read_pixels(tmp_path / "cut.avif")
    monkeypatch.delitem(Image.OPEN, "AVIF")
    with pytest.raises(SeedSelectError, match="AVIF, which cannot be read here"):
        read_pixels(path)


def test_a_picture_under_the_wrong_name_is_read(tmp_path):
    for name in ("a.jpg", "a.heic"):
        Image.fromarray(COLORS).save(tmp_path / name, format="PNG")
        assert torch.equal(read_pixels(tmp_path / name)[0], torch.from_numpy(COLORS))
