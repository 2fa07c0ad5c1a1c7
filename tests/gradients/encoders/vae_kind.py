"""How a VAE is measured: is a decoded picture the host's own, and its gradient exact?

Each is of the host's real class, small and random, written to a state dict and read back by
`comfy.sd.VAE`. Where that fixes the sizes by itself, its class is made smaller for the length of
the reading, and the row says so.
"""

import contextlib
import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import partial
from types import SimpleNamespace
from typing import Any

import comfy.sd
import torch

from seedselect_core.errors import SeedSelectError
from seedselect_core.host.decoder import fixed_rng
from seedselect_core.host.layers import differentiable_rope
from seedselect_core.host.session import fixed_free_memory, gradients_enabled
from seedselect_core.host.weights import borrowed_weights, pinned_weights
from seedselect_core.likeness.vae import VaeCodec, host_pictures
from seedselect_core.memory.recompute import recomputed
from seedselect_core.memory.saved import Keeper, MadeWeights, storages

from ..double import in_double
from ..measure import Case, Finding, relative_errors, snapshot, unchanged
from ..models import normal, randomize

# Differences are taken over a hundredth of the usual step: the smallest decoders are made of ReLUs,
# and a difference across a kink of one is wrong by about the step.
NEARNESS = 1e-2
DIRECTIONS = 2

# What to make smaller: (module, class, function of the class's keyword arguments).
Shrink = tuple[Any, str, Callable[[dict], dict]]


@contextlib.contextmanager
def smaller(*shrinks: Shrink) -> Iterator[None]:
    """Give classes that the host makes other sizes."""
    originals = [(module, name, getattr(module, name)) for module, name, _ in shrinks]
    try:
        for (module, name, original), (_, _, change) in zip(originals, shrinks, strict=True):
            setattr(module, name, partial(_made, original, change))
        yield
    finally:
        for module, name, original in originals:
            setattr(module, name, original)


def _made(original, change, *args, **kwargs):
    return original(*args, **change(kwargs))


def sized(**sizes) -> Callable[[dict], dict]:
    return lambda kwargs: kwargs | sizes


@dataclass(frozen=True)
class Kind:
    """One VAE.

    Attributes:
        name: what users know it by.
        make: the host's module; called with the classes made smaller.
        latent: [B, C, h, w], or [B, C, T, h, w] once for each number of frames.
        shrinks: where the host gives sizes that are not read from the file.
        rewrite: from the module's state dict to that of a file.
        metadata: of the file.
    """

    name: str
    make: Callable[[], torch.nn.Module]
    latent: tuple[int, ...]
    shrinks: tuple[Shrink, ...] = ()
    frames: tuple[int, ...] = ()
    rewrite: Callable[[dict], dict] = dict
    metadata: dict | None = field(default=None, hash=False)
    quick: bool = False

    @torch.inference_mode()
    def read(self, dtype: torch.dtype) -> comfy.sd.VAE:
        """VAE of weights of ``dtype``, by the host's own loader."""
        # The values of the weights may not depend on the type, and are made before it is doubled.
        with smaller(*self.shrinks):
            module = self.make()
            randomize_normed(module, 1)
            for name, buffer in module.named_buffers():
                if name.endswith("std-of-means"):
                    buffer.fill_(1.0)
                elif name.endswith("mean-of-means"):
                    buffer.zero_()
            weights = self.rewrite(module.state_dict())
            return comfy.sd.VAE(sd=dict(weights), dtype=dtype, metadata=self.metadata)

    def latents(self, batch: int, frames: int) -> torch.Tensor:
        shape = (batch, self.latent[0], *([frames] if frames else []), *self.latent[1:])
        return normal(*shape, seed=6)

    def examine(self) -> Finding:
        found = [self._examine(frames) for frames in self.frames or (0,)]
        refused = next((f.refusal for f in found if f.refusal), "")
        if refused:
            return Finding(refusal=refused)
        remarks = []
        if self.frames:
            remarks.append(f"latents of {' and '.join(str(n) for n in self.frames)} frames")
        if self.shrinks:
            remarks.append("sizes given, not detected")
        remarks += sorted({f.remark for f in found if f.remark})
        return Finding(
            all(f.forward for f in found),
            max(f.gradient_error for f in found),
            all(f.weights_kept for f in found),
            remark="; ".join(remarks),
        )

    @torch.inference_mode()
    def _examine(self, frames: int) -> Finding:
        vae = self.read(torch.float32)
        latents = self.latents(2 if vae.latent_dim == 2 and not self._is_video(vae) else 1, frames)
        with fixed_rng(vae.first_stage_model, vae.device):
            stock = host_pictures(vae, latents)
        with fixed_rng(vae.first_stage_model, vae.device):
            torch.rand(1)  # other noise than above
            noisy = not torch.equal(stock, host_pictures(vae, latents))
        holder = SimpleNamespace(model_patcher=vae.patcher)
        before = snapshot(holder)
        try:
            codec = VaeCodec(vae)
            with lent(vae.first_stage_model) as keeper:
                z = latents.clone().requires_grad_()
                images = recomputed(codec.decode, z, keeper)
                (again,) = torch.autograd.grad(images.square().sum(), z)
                with saved_as_copies():
                    (plain,) = torch.autograd.grad(codec.decode(z).square().sum(), z)
                if not torch.equal(again, plain):
                    raise AssertionError("The gradient changes when activations are recomputed.")
        except SeedSelectError as error:
            return Finding(refusal=str(error))
        height, width = images.shape[1:3]
        size = codec.encoding_size(width, height)[::-1]
        encoded = codec.encode(normal(len(images), *size, 3, seed=9).sigmoid())
        expected = latents[:, :, :1] if frames else latents
        if encoded.shape != expected.shape:
            raise AssertionError(f"A picture is encoded to {encoded.shape}, not {expected.shape}.")
        with in_double():
            vae = self.read(torch.float64)
            error = self._gradient_error(vae, self.latents(1, frames).double())
        return Finding(
            torch.equal(images, stock),
            error,
            unchanged(holder, before),
            remark="the decoder's own noise held fixed" if noisy else "",
        )

    def _is_video(self, vae: comfy.sd.VAE) -> bool:
        return "Video" in type(getattr(vae.first_stage_model, "decoder", None)).__name__

    def _gradient_error(self, vae: comfy.sd.VAE, latents: torch.Tensor) -> float:
        # Without the clamp at the end, whose gradient is one-sided by intent.
        if vae.process_output(torch.tensor([9.0])).item() == 1.0:
            vae.process_output = lambda image: image.add_(1.0).div_(2.0)
        codec = VaeCodec(vae)
        with lent(vae.first_stage_model):
            latents = latents.clone()

            def value(z: torch.Tensor) -> torch.Tensor:
                with saved_as_copies():
                    images = codec.decode(z)
                return (normal(*images.shape, seed=8).double() * images.tanh()).sum()

            return nearby_error(value, latents)

    def case(self) -> Case:
        return Case("vaes", self.name, self.examine, self.quick)


def randomize_normed(module: torch.nn.Module, seed: int) -> None:
    """`randomise`, but batch norms, whatever they are called, do not shrink what they pass on."""
    randomize(module, seed)
    for part in module.modules():
        if isinstance(part, torch.nn.BatchNorm2d) and part.affine:
            part.weight.add_(1.0)


def nearby_error(value: Callable[[torch.Tensor], torch.Tensor], at: torch.Tensor) -> float:
    """Largest relative error of a directional derivative of ``value`` at ``at``."""
    return max(relative_errors(lambda x: value(at + NEARNESS * (x - at)), at, DIRECTIONS))


def saved_as_copies() -> contextlib.AbstractContextManager:
    """Save copies for the backward pass, of which `recomputed` takes care in a checkpoint."""
    return torch.autograd.graph.saved_tensors_hooks(torch.clone, lambda tensor: tensor)


@contextlib.contextmanager
def lent(module: torch.nn.Module) -> Iterator[Keeper]:
    """The conditions under which the optimization calls VAE and encoder."""
    made = MadeWeights()
    with gradients_enabled(), fixed_free_memory(), pinned_weights(), differentiable_rope():
        with borrowed_weights(module), made.noticed([module]):
            yield Keeper(storages([module]), made)


def metadata(config: dict) -> dict:
    return {"config": json.dumps({"vae": config})}
