"""What a search is given: the parts of the user's graph, and whom to tell how it goes."""

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import comfy.samplers

from ..chain.sampling import host_ksampler
from ..chain.unroll import Denoising
from ..host.samplers import sampler_of
from ..likeness.encoders import ImageEncoder
from ..references import ReferenceSet
from ..seeds.seed import SamplingSettings, Seed


@dataclass(frozen=True)
class CustomScene:
    """A graph of the host's SamplerCustomAdvanced, and what its pictures are to be like.

    Attributes:
        denoising: GUIDER, SAMPLER and SIGMAS.
        vae: the host's VAE.
        encoder: an image encoder of `seedselect_core.likeness.encoders`.
        references: images of the concept.
        latent: the host's LATENT dict; its size and batch, and its noise mask if it has one.
        search_vae: a small VAE for the same latents that decodes while searching, or None. The last
            iterations, and with them the choice of the best, are by ``vae``.
        further_encoders: whose losses count as much as that of ``encoder``, each over its own
            spread of the references. What is told is by ``encoder`` alone.
        second_opinion: an image encoder that is never descended on, or None. No picture is the best
            by what the others alone think of it.
    """

    denoising: Denoising
    vae: Any
    encoder: ImageEncoder
    references: ReferenceSet
    latent: dict
    search_vae: Any = None
    further_encoders: Sequence[ImageEncoder] = ()
    second_opinion: ImageEncoder | None = None

    def encoders(self) -> dict[str, ImageEncoder]:
        """All of them, by the names of the inputs that they are connected to."""
        further = {f"clip_vision_{n}": one for n, one in enumerate(self.further_encoders, 2)}
        second = {} if self.second_opinion is None else {"second_opinion": self.second_opinion}
        return {"clip_vision": self.encoder} | further | second


@dataclass(frozen=True)
class Scene:
    """A graph of the host's KSampler, and what its pictures are to be like.

    Attributes:
        model: the host's ModelPatcher, as any loader gives it.
        positive, negative: the host's conditioning.
        The others are as of `CustomScene`.
    """

    model: Any
    positive: list
    negative: list
    vae: Any
    encoder: ImageEncoder
    references: ReferenceSet
    latent: dict
    search_vae: Any = None
    further_encoders: Sequence[ImageEncoder] = ()
    second_opinion: ImageEncoder | None = None

    def custom(self, sampling: SamplingSettings) -> CustomScene:
        """The graph of guider, sampler and sigmas that a KSampler is.

        Raises:
            SeedSelectError: no function stands behind the sampler's name.
        """
        guider = comfy.samplers.CFGGuider(self.model)
        guider.set_conds(self.positive, self.negative)
        guider.set_cfg(sampling.cfg)
        sampler = sampler_of(sampling.sampler_name)
        denoising = Denoising(guider, sampler, host_ksampler(self.model, sampling).sigmas)
        return CustomScene(
            denoising,
            self.vae,
            self.encoder,
            self.references,
            self.latent,
            self.search_vae,
            self.further_encoders,
            self.second_opinion,
        )


def _ignore(*_) -> None:
    pass


@dataclass(frozen=True)
class Callbacks:
    """Whom to tell; by default nobody.

    Attributes:
        progress: gets a `Progress` after every denoising step.
        unfinished: gets the best seed so far when the run ends by an error or by Cancel.
        so_far: gets a function that makes the best seed so far, and whether it may differ from
            before: after every denoising step, once there is one.
        note: gets a sentence for the user where nobody has tried what is in the graph.
        settled: doubts whose gradient was found right. What is found is added, so that whoever
            keeps this set is not asked to wait for the same check again.
    """

    progress: Callable[..., None] = _ignore
    unfinished: Callable[..., None] = _ignore
    so_far: Callable[..., None] = _ignore
    note: Callable[[str], None] = _ignore
    settled: set[str] = field(default_factory=set)

    def rescue(self, make: Callable[[], Seed]) -> None:
        """Hand over what the error that is being handled would lose.

        Nothing that fails here may take that error's place.
        """
        try:
            self.unfinished(make())
        except Exception:
            logging.warning("SeedSelect: the best seed so far is not kept.", exc_info=True)
