"""Pictures that carry the bytes of a seed file, in PNG and in WebP.

Both are chains of chunks, each with a name of four letters and a length, and both let a program add
chunks of its own, which others pass over: the PNG specification by the case of the letters (here
ancillary, private, safe to copy), that of WebP by its rule for unknown chunks. So the noise stays
exact, whatever the picture's own coding loses. What decodes a picture and encodes it again, as most
web sites do, leaves the chunk out, as it does a workflow.
"""

import zlib
from typing import BinaryIO

from ..errors import SeedSelectError

CHUNK = b"ssEd"
PNG = b"\x89PNG\r\n\x1a\n"
MOST_CHUNKS = 2**16  # of a picture; usual ones have one for each 8 or 64 KB
_PNG_END = 12  # bytes of the chunk IEND


def with_seed(picture: bytes, seed: bytes) -> bytes:
    """A PNG or WebP file that carries ``seed``, the bytes of a seed file, as its last chunk."""
    if picture.startswith(PNG):
        body = CHUNK + seed
        chunk = len(seed).to_bytes(4) + body + zlib.crc32(body).to_bytes(4)
        return picture[:-_PNG_END] + chunk + picture[-_PNG_END:]
    chunk = CHUNK + len(seed).to_bytes(4, "little") + seed + bytes(len(seed) % 2)
    size = len(picture) - 8 + len(chunk)
    return picture[:4] + size.to_bytes(4, "little") + picture[8:] + chunk


def place_of_seed(file: BinaryIO, size: int) -> tuple[int, int]:
    """Where a file of ``size`` bytes holds those of a seed file: the first, and their number.

    That is all of it, unless it is a picture. Nothing of a picture is decoded.

    Raises:
        SeedSelectError: a picture that carries no seed.
    """
    file.seek(0)
    start = file.read(12)
    if start.startswith(PNG):
        order, at, trailer = "big", len(PNG), 4
    elif start[:4] == b"RIFF" and start[8:] == b"WEBP":
        order, at, trailer = "little", len(start), 0
    else:
        return 0, size
    for _ in range(MOST_CHUNKS):
        file.seek(at)
        head = file.read(8)
        if len(head) < 8:
            break
        name, length = (head[4:], head[:4]) if order == "big" else (head[:4], head[4:])
        length = int.from_bytes(length, order)
        if name == CHUNK and at + 8 + length <= size:
            return at + 8, length
        # Chunks of a WebP begin at even places.
        at += 8 + length + trailer + (length % 2 if order == "little" else 0)
    raise SeedSelectError(
        "is a picture that carries no seed. Only 'Save Image With Seed' puts one in, and a picture "
        "that was encoded again has lost it."
    )
