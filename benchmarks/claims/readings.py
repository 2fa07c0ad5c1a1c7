"""What the encoder of the loss takes a picture for, were it asked for the letter."""

import functools

import torch
import torch.nn.functional as F

from pocket.atlas import load_atlas, paint_glyphs
from pocket.drawing import LETTERS

from .common import generator_of


@functools.cache
def _centroids(encoder) -> torch.Tensor:
    """[26, D]: of each letter in the atlas's ``tuning`` fonts, which are no reference here."""
    masks = load_atlas("tuning").transpose(0, 1)
    images = paint_glyphs(masks.flatten(0, 1), generator_of("readings")).movedim(1, -1)
    embeddings = F.normalize(encoder(images), dim=1).unflatten(0, masks.shape[:2])
    return F.normalize(embeddings.mean(1), dim=1)


def read_by_encoder(world, group: dict) -> list[bool]:
    """Of each picture of a group of `optimized`, whether its letter is the nearest centroid."""
    embeddings = F.normalize(world.encoder(group["images"]), dim=1)
    nearest = (embeddings @ _centroids(world.encoder).T).argmax(1)
    return [LETTERS[index] == group["letter"] for index in nearest.tolist()]
