"""Differentiable image encoders, and the VAE, behind one small interface.

An encoder is called with images [B, H, W, 3], float in 0..1 (the host's IMAGE layout), and
returns one embedding per image, [B, D]. It has a `patcher`, the host's handle on its weights:
loading them (`comfy.model_management.load_models_gpu`) and lending them to autograd is the
caller's business, since both must happen once and outside the loop.

Values are the host's own, to the last bit on the CPU. Gradients differ from those of the host's
code in two places where the latter has none:

- Rounding to 8 bits is constant almost everywhere; its gradient is passed straight through.
- Clipping to 0..1 has no gradient where it saturates. A pixel that the VAE draws at 1.001 could
  then never be darkened. So the gradient passes where a descent step moves the value back
  towards the range, and is zero (as it truly is) where the step would push it further out.
"""

from pathlib import Path
from typing import Any, Protocol

import comfy.clip_model
import comfy.model_management
import comfy.model_patcher
import torch
import torch.nn.functional as F

from .errors import SeedSelectError
from .host.layer_norms import layer_norms_keep_their_input


class ImageEncoder(Protocol):
    """What the losses need of an image encoder: images [B, H, W, 3] in 0..1 to [B, D]."""

    patcher: Any

    def __call__(self, images: torch.Tensor) -> torch.Tensor: ...


class _ClampInward(torch.autograd.Function):
    """Clamp whose gradient, where it saturates, passes only if descent moves the value back."""

    @staticmethod
    def forward(ctx, x: torch.Tensor, low: float, high: float) -> torch.Tensor:
        ctx.save_for_backward(x)
        ctx.low, ctx.high = low, high
        return x.clamp(low, high)

    @staticmethod
    def backward(ctx, grad: torch.Tensor):
        (x,) = ctx.saved_tensors
        outward = ((x < ctx.low) & (grad > 0)) | ((x > ctx.high) & (grad < 0))
        return grad.masked_fill(outward, 0.0), None, None


def clamp_inward(x: torch.Tensor, low: float = 0.0, high: float = 1.0) -> torch.Tensor:
    """`x.clamp(low, high)` that a minimised loss can still pull back into the range.

    The sign of the incoming gradient decides, so the loss must be one that is descended on.
    """
    return _ClampInward.apply(x, low, high)


def _with_gradient_of(value: torch.Tensor, smooth: torch.Tensor) -> torch.Tensor:
    """`value` to the last bit, with the gradient of `smooth`."""
    return value.detach() + (smooth - smooth.detach())


def _resize_and_crop(image: torch.Tensor, size: int, crop: bool, mode: str) -> torch.Tensor:
    """[B, 3, H, W] to [B, 3, size, size]: shortest edge and centre crop, or squashed."""
    height, width = image.shape[-2:]
    if (height, width) == (size, size):
        return image
    resized = (size, size)
    if crop:
        scale = size / min(height, width)
        resized = (round(scale * height), round(scale * width))
    image = F.interpolate(image, size=resized, mode=mode, antialias=True)
    top, left = (image.shape[2] - size) // 2, (image.shape[3] - size) // 2
    return image[:, :, top : top + size, left : left + size]


def _normalise(image: torch.Tensor, mean: list[float], std: list[float]) -> torch.Tensor:
    mean, std = (image.new_tensor(v).view(3, 1, 1) for v in (mean, std))
    return (image - mean) / std


class ClipVisionEncoder:
    """The host's CLIP_VISION of any kind: CLIP, SigLIP, SigLIP 2, DINOv2, DINOv3.

    Args:
        clip_vision: a `comfy.clip_vision.ClipVisionModel`.
        crop: centre crop to a square, as "CLIP Vision Encode" does by default; otherwise squash.

    The embedding is the host's `image_embeds` where that is one vector per image: the projected
    class token of CLIP, the normalised class token of DINO. The host's SigLIP has no pooling head
    and gives every patch instead; their mean is taken.

    Raises:
        SeedSelectError: when called, if the model gives no image embedding.
    """

    def __init__(self, clip_vision: Any, crop: bool = True):
        self.clip_vision = clip_vision
        self.patcher = clip_vision.patcher
        self.crop = crop

    def preprocess(self, images: torch.Tensor) -> torch.Tensor:
        """[B, H, W, 3] in 0..1 to the model's normalised pixels [B, 3, h, w]."""
        c = self.clip_vision
        settings = {"size": c.image_size, "mean": c.image_mean, "std": c.image_std}
        flexible = c.model_type == "siglip2_vision_model"
        patches = (c.config.get("patch_size", 16), c.config.get("num_patches", 256))
        host = comfy.clip_model.clip_preprocess
        if flexible:
            host = comfy.clip_model.siglip2_preprocess
            settings |= {"patch_size": patches[0], "num_patches": patches[1]}
        value = host(images.detach(), crop=self.crop, **settings)
        if not (torch.is_grad_enabled() and images.requires_grad):
            return value

        smooth = images[..., :3].movedim(-1, 1)
        if flexible and c.image_size <= 0:
            size = comfy.clip_model.siglip2_flex_calc_resolution(*smooth.shape[2:], *patches)
            smooth = F.interpolate(smooth, size=size, mode="bilinear", antialias=True)
        else:
            smooth = _resize_and_crop(smooth, c.image_size, self.crop, "bicubic")
        return _with_gradient_of(value, _normalise(clamp_inward(smooth), c.image_mean, c.image_std))

    def __call__(self, images: torch.Tensor) -> torch.Tensor:
        pixels = self.preprocess(images.to(self.clip_vision.load_device))
        if pixels.dtype != torch.float64:  # float64 is for checking gradients; the host has none
            pixels = pixels.float()
        with layer_norms_keep_their_input(self.clip_vision.model):
            embeddings = self.clip_vision.model(pixel_values=pixels, intermediate_output=-2)[2]
        if embeddings is None or embeddings.ndim not in (2, 3):
            raise SeedSelectError(
                f"clip_vision: this model ({self.clip_vision.model_type}) gives no image embedding "
                "to compare with the references. Load a CLIP, SigLIP or DINO vision model with "
                "'Load CLIP Vision', for example CLIP-ViT-H-14-laion2B-s32B-b79K.safetensors."
            )
        return embeddings.mean(dim=1) if embeddings.ndim == 3 else embeddings


class OpenClipEncoder:
    """The image tower of an open_clip model, from a file on this machine.

    Args:
        architecture: a name out of `open_clip.list_models()`, such as "ViT-H-14".
        checkpoint_file: weights of that architecture, .safetensors or a PyTorch file (read
            without running code from it). Nothing is ever downloaded.

    Images are resized by PyTorch's antialiased filter and not by Pillow's, which rounds to 8 bits
    in between; the pixels differ by less than a hundredth from open_clip's own.

    Raises:
        SeedSelectError: open_clip is missing, the architecture unknown, or the file not there,
            not weights, or of another architecture.
    """

    def __init__(self, architecture: str, checkpoint_file: str | Path):
        try:
            import open_clip
        except ImportError as error:
            raise SeedSelectError(
                "open_clip: the Python package is not installed. Install it into ComfyUI's Python "
                "with 'pip install open_clip_torch', or connect a CLIP_VISION instead."
            ) from error
        config = open_clip.get_model_config(architecture) if ":" not in architecture else None
        if config is None:
            raise SeedSelectError(
                f"open_clip architecture: '{architecture}' is not known to the open_clip that is "
                "installed. Give a plain name such as ViT-B-32 or ViT-H-14."
            )
        if "hf_model_name" in config["text_cfg"]:
            raise SeedSelectError(
                f"open_clip architecture: the text tower of '{architecture}' would have to be "
                "downloaded. Choose an architecture without one, such as ViT-B-32 or ViT-H-14."
            )
        path = Path(checkpoint_file) if checkpoint_file else None
        if path is None or not path.is_file():
            raise SeedSelectError(
                f"open_clip checkpoint: there is no file '{checkpoint_file}'. Give the full path "
                f"of the weights of {architecture}; they are never downloaded for you."
            )

        # Weights in a file carry no preprocessing settings. Where all published weights of this
        # architecture agree on theirs (SigLIP: mean 0.5, squashed), those are meant.
        known = [
            open_clip.get_pretrained_cfg(architecture, tag)
            for tag in open_clip.list_pretrained_tags_by_model(architecture)
        ]
        keys = ("mean", "std", "interpolation", "resize_mode")
        known = [{k: v for k, v in cfg.items() if k in keys} for cfg in known]
        agreed = known[0] if known and all(cfg == known[0] for cfg in known) else {}
        try:
            model = open_clip.create_model(
                architecture,
                # An absolute path cannot be taken for the name of weights to download.
                pretrained=str(path.resolve()),
                pretrained_text=False,
                force_preprocess_cfg=agreed,
                weights_only=True,
            )
        except Exception as error:  # open_clip lets through whatever its many readers raise
            raise SeedSelectError(
                f"open_clip checkpoint: '{path.name}' cannot be read as weights of {architecture}. "
                f"Check that file and architecture belong together ({error})."
            ) from error

        self.model = model.visual.eval().requires_grad_(False)
        self.patcher = comfy.model_patcher.ModelPatcher(
            self.model,
            load_device=comfy.model_management.text_encoder_device(),
            offload_device=comfy.model_management.text_encoder_offload_device(),
        )
        cfg = self.model.preprocess_cfg
        size = cfg["size"]
        self.size = size if isinstance(size, int) else size[0]
        self.mean, self.std = list(cfg["mean"]), list(cfg["std"])
        self.mode = cfg.get("interpolation", "bicubic")
        if cfg["resize_mode"] not in ("shortest", "squash") or self.mode == "random":
            raise SeedSelectError(
                f"open_clip architecture: '{architecture}' prepares its images in a way that is "
                f"not supported yet ({cfg['resize_mode']}, {self.mode})."
            )
        self.crop = cfg["resize_mode"] == "shortest"

    def preprocess(self, images: torch.Tensor) -> torch.Tensor:
        """[B, H, W, 3] in 0..1 to the model's normalised pixels [B, 3, size, size]."""
        pixels = images[..., :3].movedim(-1, 1)
        pixels = clamp_inward(_resize_and_crop(pixels, self.size, self.crop, self.mode))
        return _normalise(pixels, self.mean, self.std)

    def __call__(self, images: torch.Tensor) -> torch.Tensor:
        embeddings = self.model(self.preprocess(images.to(self.patcher.load_device)))
        # CoCa and towers that also give their tokens return the embedding first.
        return embeddings[0] if isinstance(embeddings, tuple) else embeddings


class VaeCodec:
    """The host's VAE: differentiable decoding, and the host's own encoding.

    Latents here are in the VAE's own space. The caller converts from and to the model's scaled
    space with `model.process_latent_out` and `model.process_latent_in`.

    Raises:
        SeedSelectError: the VAE is empty, or one for video or audio.
    """

    def __init__(self, vae: Any):
        if vae.first_stage_model is None:
            raise SeedSelectError(
                "vae: the checkpoint holds no VAE. Load one with 'Load VAE' and connect that."
            )
        if vae.latent_dim != 2 or vae.extra_1d_channel is not None or vae.output_channels != 3:
            raise SeedSelectError(
                "vae: VAEs for video or audio are not supported yet, nor image models that use "
                "one. Connect a VAE whose latents are images, such as those of SD 1.5 or SDXL."
            )
        self.vae = vae
        self.patcher = vae.patcher
        # What the host does to a decoded image is a line (to 0..1, or nothing) and then a clamp.
        at_zero, at_half = vae.process_output(torch.tensor([0.0, 0.5])).tolist()
        self._offset, self._slope = at_zero, 2 * (at_half - at_zero)

    def decode(self, latents: torch.Tensor) -> torch.Tensor:
        """[B, C, h, w] in the VAE's space to images [B, H, W, 3] in 0..1, on the VAE's device.

        The value is that of the host's `vae.decode`. The weights must have been loaded.
        """
        if latents.ndim != 4:
            raise SeedSelectError(
                f"latent: expected an image latent of 4 dimensions, got {latents.ndim} "
                f"({list(latents.shape)}). Video latents are not supported yet."
            )
        vae = self.vae
        raw = vae.first_stage_model.decode(latents.to(device=vae.device, dtype=vae.vae_dtype))
        if latents.dtype != torch.float64:  # float64 is for checking gradients
            raw = raw.to(vae.vae_output_dtype())
        value = vae.process_output(raw.detach().clone())  # works in place
        if raw.requires_grad:
            value = _with_gradient_of(value, clamp_inward(raw * self._slope + self._offset))
        return value.movedim(1, -1)

    def encode(self, images: torch.Tensor) -> torch.Tensor:
        """Images [B, H, W, 3] in 0..1 to latents [B, C, h, w] in the VAE's space.

        The host's own encoding: it loads the weights, and gives no gradient. The result is an
        ordinary tensor, which a loss may save for its backward pass, also in inference mode.
        """
        return _ordinary(self.vae.encode(images))


@torch.no_grad()
def encode_references(encoder: ImageEncoder, images: torch.Tensor) -> torch.Tensor:
    """Embeddings [k, D] of references [k, H, W, 3] in 0..1, without gradient.

    The result is an ordinary tensor, which a loss may save for its backward pass, also in
    inference mode. The encoder's weights must have been loaded.
    """
    return _ordinary(encoder(images))


def unit_embeddings(encoder: ImageEncoder, images: torch.Tensor) -> torch.Tensor:
    """Unit vectors [B, D] on the CPU of images [B, H, W, C] in 0..1; loads the weights."""
    comfy.model_management.load_models_gpu([encoder.patcher])
    parts = [encode_references(encoder, part[..., :3]).cpu() for part in images.split(16)]
    return F.normalize(torch.cat(parts).float(), dim=-1)


def _ordinary(tensor: torch.Tensor) -> torch.Tensor:
    with torch.inference_mode(False):
        return tensor.detach().clone()
