"""The host's VAE of any kind as a differentiable function from latents to pictures."""

import functools
from typing import Any

import torch
from comfy.ldm.modules.temporal_ae import VideoDecoder

from ..errors import SeedSelectError
from ..host.decoder import attached_memory, fixed_rng
from ..memory.failures import with_room
from ..memory.strips import Strips
from .clamping import clamp_inward, ordinary, with_gradient_of


class VaeCodec:
    """The host's VAE: differentiable decoding, and the host's own encoding.

    Latents here are in the VAE's own space. The caller converts from and to the model's scaled
    space with `model.process_latent_out` and `model.process_latent_in`. Of a video the first frame
    is the picture.

    Raises:
        SeedSelectError: the VAE is empty, or one of sound or solids.
    """

    def __init__(self, vae: Any):
        if vae.first_stage_model is None:
            raise SeedSelectError(
                "vae: the checkpoint holds no VAE. Load one with 'Load VAE' and connect that."
            )
        pictures = vae.latent_dim in (2, 3) and vae.output_channels in (3, 4)
        if not pictures or vae.extra_1d_channel is not None:
            raise SeedSelectError(
                "vae: this one makes sound or solids, not pictures. Connect the VAE of an image or "
                "video model."
            )
        self.vae = vae
        self.patcher = vae.patcher
        # What the host does to a decoded image is a line (to 0..1, or nothing) and mostly a clamp.
        at_zero, at_half, far = vae.process_output(torch.tensor([0.0, 0.5, 1e3])).tolist()
        self._offset = at_zero
        self._slope = 2 * (at_half - at_zero)
        self._clamps = far <= 1.0
        self._causal: bool | None = None

    @functools.cached_property
    def strips(self) -> Strips:
        """The decoder's blocks, to be differentiated in strips of rows where memory is short."""
        return Strips(self.vae.first_stage_model)

    def decode(self, latents: torch.Tensor) -> torch.Tensor:
        """[B, C, h, w] or [B, C, T, h, w] in the VAE's space to images [B, H, W, 3] in 0..1.

        The value is that of the host's `vae.decode`, of its first frame where it gives several,
        and of its first three channels. The weights must have been loaded. Where a VAE draws noise
        of its own, it is the same noise every time.
        """
        raw = self._first_frame(self._fitting(latents))[:, :3]
        value = self.vae.process_output(raw.detach().clone())  # works in place
        if raw.requires_grad:
            smooth = raw * self._slope + self._offset
            value = with_gradient_of(value, clamp_inward(smooth) if self._clamps else smooth)
        return value.movedim(1, -1)

    def encode(self, images: torch.Tensor) -> torch.Tensor:
        """Images [B, H, W, 3] in 0..1 to latents in the VAE's space, a picture each.

        They are [B, C, h, w], or [B, C, 1, h, w] where the VAE is one for video. The host's own
        encoding: it loads the weights, and gives no gradient. The result is an ordinary tensor,
        which a loss may save for its backward pass, also in inference mode.
        """
        if self.vae.latent_dim == 2:
            return ordinary(self.vae.encode(images))
        # A batch would be the frames of one video.
        parts = [ordinary(self.vae.encode(image[None])) for image in images]
        with torch.inference_mode(False):
            return torch.cat(parts)

    def encoding_size(self, width: int, height: int) -> tuple[int, int]:
        """Size in pixels at which a picture is encoded to the latent of a picture of that size.

        The two are the same for all but Stable Cascade's stage C, whose latents are previewed at a
        quarter of the size.
        """
        made = self.vae.spacial_compression_decode()
        wanted = self.vae.spacial_compression_encode()
        return width * wanted // made, height * wanted // made

    def _fitting(self, latents: torch.Tensor) -> torch.Tensor:
        """``latents`` with as many dimensions as the VAE wants, as the host does it."""
        if latents.ndim == 5 and self.vae.latent_dim == 2:
            latents = latents[:, :, 0]
        if latents.ndim != 2 + self.vae.latent_dim:
            kind = "video" if self.vae.latent_dim == 3 else "pictures"
            raise SeedSelectError(
                f"latent: its shape {list(latents.shape)} does not fit a VAE for {kind}. Connect "
                "the VAE that belongs to the model."
            )
        videos = isinstance(getattr(self.vae.first_stage_model, "decoder", None), VideoDecoder)
        if videos and len(latents) > 1:
            raise SeedSelectError(
                "latent: this VAE takes the pictures of a batch for the frames of one video, and "
                "blends them. Set the batch of the latent to 1, or connect a VAE for pictures."
            )
        return latents

    def _first_frame(self, latents: torch.Tensor) -> torch.Tensor:
        """[B, C, H, W]: what the decoder makes, without the host's own scaling to 0..1."""
        if latents.ndim == 4 or latents.shape[2] == 1:
            return _picture(self._raw(latents))
        if not (torch.is_grad_enabled() and latents.requires_grad):
            return _picture(self._raw(latents))
        if self._causal is None:
            self._causal = self._draws_first_alone(latents)
        if not self._causal:
            return _picture(self._raw(latents))
        # The same but for rounding, and without the activations of all the other frames.
        with torch.no_grad():
            value = _picture(self._raw(latents))
        return with_gradient_of(value, _picture(self._raw(latents[:, :, :1])))

    def _draws_first_alone(self, latents: torch.Tensor) -> bool:
        """Whether the first frame depends on the first frame of the latent alone.

        Causal decoders draw it without a look at the others; some do not. A small part of the video
        is enough to see which, since the gradient of the others is exactly zero then.
        """
        part = latents.detach()[:1, :, :3, :8, :8].clone().requires_grad_()
        # Copies: a decoder may overwrite what it has saved.
        with torch.autograd.graph.saved_tensors_hooks(torch.clone, lambda tensor: tensor):
            first = _picture(self._raw(part))
            (gradient,) = torch.autograd.grad(first.square().sum(), part)
        return not gradient[:, :, 1:].any()

    def _raw(self, latents: torch.Tensor) -> torch.Tensor:
        vae = self.vae
        z = latents.to(device=vae.device, dtype=vae.vae_dtype)
        decoder = vae.first_stage_model
        with attached_memory(decoder), fixed_rng(decoder, vae.device):
            raw = decoder.decode(z)
        if latents.dtype != torch.float64:  # float64 is for checking gradients
            raw = raw.to(vae.vae_output_dtype())
        return raw.to(vae.device)  # some decoders put videos together on the CPU


def _picture(raw: torch.Tensor) -> torch.Tensor:
    return raw[:, :, 0] if raw.ndim == 5 else raw


def host_pictures(vae: Any, latents: torch.Tensor) -> torch.Tensor:
    """The host's `vae.decode` of ``latents``: [B, H, W, 3], of videos the first frame.

    Raises:
        SeedSelectError: there is no memory for it.
    """
    images = with_room(
        vae.decode,
        *[(latents,)] * 2,
        where="decoding the pictures",
        remedy="Lower the batch or the size of 'Empty Latent Image', or use a smaller VAE.",
    )
    return (images[:, 0] if images.ndim == 5 else images)[..., :3]


def require_vae(model, vae, name: str = "vae") -> None:
    """Raise `SeedSelectError` where the VAE's latents are not those of the model.

    Args:
        name: of the input that it is connected to.
    """
    latent_format = model.get_model_object("latent_format")
    dimensions = latent_format.latent_dimensions
    if vae.latent_dim > dimensions:
        raise SeedSelectError(
            f"{name}: it is for videos, the model makes pictures. Connect one that belongs to the "
            "checkpoint."
        )
    # A model may work on the VAE's latents with several pixels folded into channels.
    empty = torch.zeros(1, latent_format.latent_channels, *[2] * dimensions)
    channels = latent_format.process_out(empty).shape[1]
    if vae.latent_channels != channels:
        raise SeedSelectError(
            f"{name}: its latents have {vae.latent_channels} channels, the model's "
            f"{channels}. Connect one that belongs to the checkpoint."
        )
