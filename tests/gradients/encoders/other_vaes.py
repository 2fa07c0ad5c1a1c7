"""VAEs of the host that make no pictures: they are refused before any work."""

from dataclasses import dataclass
from typing import Any
from unittest.mock import patch

import comfy.ldm.ace.vae.music_dcae_pipeline
import comfy.ldm.audio.vae_sa3
import comfy.ldm.hunyuan3d.vae
import comfy.ldm.lightricks.vae.audio_vae
import comfy.ldm.minimax.audio_vae
import comfy.ldm.mmaudio.vae.autoencoder
import comfy.ldm.triposplat.vae
import comfy.sd
import torch

from seedselect_core.errors import SeedSelectError
from seedselect_core.likeness.vae import VaeCodec

from ..measure import Case, Finding


class _Empty(torch.nn.Module):
    """In the place of the network, which is refused unseen."""

    latent_channels = 8
    output_sample_rate = 44100
    autoencoder = None

    def __init__(self, *args, **kwargs):
        super().__init__()


@dataclass(frozen=True)
class Other:
    """One VAE.

    Attributes:
        name: what users know it by.
        module, network: where the host takes its network from.
        seen: names of weights by which the host recognises it.
    """

    name: str
    module: Any
    network: str
    seen: tuple[str, ...]

    @torch.inference_mode()
    def examine(self) -> Finding:
        with patch.object(self.module, self.network, _Empty):
            vae = comfy.sd.VAE(sd={name: torch.zeros(1, 1, 1) for name in self.seen})
        if not isinstance(vae.first_stage_model, _Empty):
            raise ValueError(f"The host takes a file of {self.name} for another one.")
        try:
            VaeCodec(vae)
        except SeedSelectError as error:
            return Finding(refusal=str(error))
        return Finding()

    def case(self) -> Case:
        return Case("vaes", self.name, self.examine)


OTHERS = [
    Other("Stable Audio", comfy.sd, "AudioOobleckVAE", ("decoder.layers.1.layers.0.beta",)),
    Other(
        "Stable Audio 3",
        comfy.ldm.audio.vae_sa3,
        "SA3AudioVAE",
        ("decoder.layers.3.transformers.0.pre_norm.alpha",),
    ),
    Other(
        "ACE-Step",
        comfy.ldm.ace.vae.music_dcae_pipeline,
        "MusicDCAE",
        ("vocoder.backbone.channel_layers.0.0.bias",),
    ),
    Other(
        "MMAudio",
        comfy.ldm.mmaudio.vae.autoencoder,
        "AudioAutoencoder",
        ("vocoder.activation_post.downsample.lowpass.filter",),
    ),
    Other(
        "LTX Audio",
        comfy.ldm.lightricks.vae.audio_vae,
        "AudioVAE",
        ("vocoder.resblocks.0.convs1.0.weight",),
    ),
    Other(
        "MiniMax H3 Audio",
        comfy.ldm.minimax.audio_vae,
        "MiniMaxH3AudioVAE",
        ("pre_block.attn.zero_k_bias",),
    ),
    Other(
        "Hunyuan 3D",
        comfy.ldm.hunyuan3d.vae,
        "ShapeVAE",
        ("geo_decoder.cross_attn_decoder.ln_1.bias",),
    ),
    Other(
        "TripoSplat",
        comfy.ldm.triposplat.vae,
        "OctreeGaussianDecoder",
        ("gs.base_offset_scale", "octree.out_proj.weight"),
    ),
]
