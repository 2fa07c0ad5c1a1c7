"""Picture files out of their parts, so that a test knows what they hold without any reader."""

import struct
import zlib

import numpy as np


def png(width: int, height: int, color_type: int, depth: int, rows: bytes, *more) -> bytes:
    """A PNG: `more` are chunks (type, content) to come before the pixels."""
    header = struct.pack(">IIBBBBB", width, height, depth, color_type, 0, 0, 0)
    chunks = [(b"IHDR", header), *more, (b"IDAT", zlib.compress(rows)), (b"IEND", b"")]
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))
        for kind, body in chunks
    )


def tiff(data: bytes, width: int, height: int, photometric: int, bits: tuple, **more) -> bytes:
    """An uncompressed TIFF of one strip.

    Args:
        more: big (bytes with the greatest first), sample_format, extra (ExtraSamples), others (tags
            as {number: SHORTs}).
    """
    order = ">" if more.get("big") else "<"
    tags = {
        256: (width,),
        257: (height,),
        258: bits,
        259: (1,),
        262: (photometric,),
        273: None,  # where the pixels are
        277: (len(bits),),
        278: (height,),
        279: (len(data),),
        339: (more.get("sample_format", 1),) * len(bits),
    }
    if "extra" in more:
        tags[338] = more["extra"]
    tags |= more.get("others", {})
    place = 8 + 2 + 12 * len(tags) + 4
    entries = b""
    outside = b""
    pixels = place + sum(2 * len(v) for v in tags.values() if v is not None and len(v) > 2)
    for tag, values in sorted(tags.items()):
        if values is None:
            entries += struct.pack(order + "HHII", tag, 4, 1, pixels)
            continue
        packed = struct.pack(f"{order}{len(values)}H", *values)
        entries += struct.pack(order + "HHI", tag, 3, len(values))
        if len(packed) > 4:
            entries += struct.pack(order + "I", place + len(outside))
            outside += packed
        else:
            entries += packed.ljust(4, b"\0")
    head = (b"MM\0*" if order == ">" else b"II*\0") + struct.pack(order + "IH", 8, len(tags))
    return head + entries + bytes(4) + outside + data


def icc(space: bytes, connection: bytes, tags: dict[bytes, bytes]) -> bytes:
    """A color profile of version 2.

    Args:
        space: of the pixels, as b"RGB ". connection: b"XYZ " or b"Lab ".
    """
    tags = {b"desc": _description(), b"wtpt": xyz(*D50), **tags}
    place = 128 + 4 + 12 * len(tags)
    table = struct.pack(">I", len(tags))
    body = b""
    for name, content in tags.items():
        table += name + struct.pack(">II", place + len(body), len(content))
        body += content.ljust(-len(content) % 4 + len(content), b"\0")
    kind = b"mntr" if space != b"CMYK" else b"prtr"
    header = struct.pack(">I4sI4s4s4s", place + len(body), b"", 0x02400000, kind, space, connection)
    header += struct.pack(">6H", 2026, 1, 1, 0, 0, 0) + b"acsp" + bytes(28)
    header += struct.pack(">3i", *(round(v * 65536) for v in D50))
    return header.ljust(128, b"\0") + table + body


D50 = (0.9642, 1.0, 0.8249)


def _description() -> bytes:
    return b"desc" + bytes(4) + struct.pack(">I", 2) + b"x\0" + bytes(78)


def xyz(*values: float) -> bytes:
    return b"XYZ " + bytes(4) + struct.pack(">3i", *(round(v * 65536) for v in values))


def curve(values: np.ndarray) -> bytes:
    """A tone curve: linear light in 0..1 for evenly spaced values of a pixel."""
    steps = np.rint(np.asarray(values) * 65535).astype(">u2")
    return b"curv" + bytes(4) + struct.pack(">I", len(steps)) + steps.tobytes()


def ink_table(colors: dict[tuple, tuple]) -> bytes:
    """A table from CMYK (each 0 or 1) to Lab, all others gray."""
    identity = bytes(range(256))
    cells = b""
    for index in np.ndindex(2, 2, 2, 2):
        light, a, b = colors.get(index, (30, 0, 0))
        cells += bytes([round(light * 2.55), a + 128, b + 128])
    head = b"mft1" + bytes(4) + struct.pack(">BBBB", 4, 3, 2, 0)
    matrix = struct.pack(">9i", *(65536 * (i % 4 == 0) for i in range(9)))
    return head + matrix + identity * 4 + cells + identity * 3
