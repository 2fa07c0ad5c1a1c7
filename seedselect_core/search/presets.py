"""The presets: settings by name."""

from dataclasses import replace

from ..likeness.weights import LossWeights
from .settings import Settings

# What the presets share. Chosen by benchmarks/presets.py on three letters and fonts of their own.
_SEARCH = Settings(
    optimizer="sgd",
    learning_rate=0.2,
    white=True,
    gradient_steps=3,
    views=2,
    draft_steps=3,
    draft="few steps",
)

PRESETS = {
    # In 10 steps they cost about 400, 100 and 1,600 model evaluations a picture.
    "default": replace(_SEARCH, candidates=24, iterations=16),
    "quick": replace(_SEARCH, candidates=10, iterations=3, learning_rate=0.4),
    "thorough": replace(_SEARCH, candidates=48, iterations=75),
    # SeedSelect's published code (method section and settings table of arXiv 2304.14530), which
    # compares the last three noisy latents, where here it is predictions of the clean one.
    "paper": Settings(
        iterations=30,
        learning_rate=0.1,
        optimizer="adamw",
        schedule="published",
        weight_decay=0.01,
        weights=LossWeights(semantic=10.0, appearance=1.0, norm=0.0, steps=(0.05, 0.25, 0.7)),
        views=1,
    ),
}
