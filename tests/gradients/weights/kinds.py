"""Every form in which the weights of a model come in.

Below 32 bits a central difference of the run itself tells nothing: its step is lost in rounding.
What can be remark apart is this. The numbers that the weights hold are what they are, however few
bits they have, and a gradient of the noise takes them as constants; only what is computed from them
is rounded. So the graph is measured twice. As the user runs it: forward equality and weights. Then
the very same loaded model, the same rounded weights, with everything computed from them in float64:
there the gradient must agree with central differences to the usual limit, so that the code path of
that form of weights is proven. The remark tells how far the gradient of the user's run is from it.
"""

import contextlib
import dataclasses
import json
from collections.abc import Callable
from unittest.mock import patch

import comfy.lora
import comfy.model_management
import comfy.sd
import comfy_kitchen.tensor.base
import torch
from comfy.quant_ops import QUANT_ALGOS, QuantizedTensor, get_layout_class

from seedselect_core.chain.unroll import Chain
from seedselect_core.errors import SeedSelectError

from ..double import in_double
from ..measure import (
    Case,
    Finding,
    Wired,
    _unrolled,
    gradient_errors,
    normal,
    own_parts,
    probed,
    sample,
    sample_unrolled,
)
from ..models import reduced
from ..wiring import conditioning, wired

FLUX = {
    "image_model": "flux",
    "in_channels": 16,
    "out_channels": 16,
    "patch_size": 2,
    "hidden_size": 128,
    "num_heads": 1,
    "depth": 1,
    "depth_single_blocks": 1,
    "axes_dim": [16, 56, 56],
    "mlp_ratio": 4.0,
    "theta": 10000,
    "qkv_bias": True,
    "txt_ids_dims": [],
    "context_in_dim": 64,
    "vec_in_dim": 32,
    "guidance_embed": True,
}
GROUPS = {"convrot_groupsize": 64}
ROTATED = GROUPS | {"convrot": True}
BLOCKS = ("double_blocks.", "single_blocks.")


def flux_weights(depth: int = 1) -> dict[str, torch.Tensor]:
    """State dict of a small Flux in float32, of so many blocks of both kinds."""
    sizes = FLUX | {"depth": depth, "depth_single_blocks": depth}
    return reduced("Flux", sizes).model.diffusion_model.state_dict()


def load(weights: dict, **options):
    """What "Load Diffusion Model" does with a file of these weights."""
    model = comfy.sd.load_diffusion_model_state_dict(dict(weights), model_options=options)
    if type(model.model.model_config).__name__ != "Flux":
        raise ValueError("The host takes the file for another family.")
    return model


def flux_wired(model, dtype: torch.dtype = torch.float32, side: int = 4, **more) -> Wired:
    texts = [conditioning(5, 64, seed, guidance=3.5) for seed in (1, 2)]
    for text, seed in zip(texts, (3, 4), strict=True):
        text[0][1]["pooled_output"] = normal(1, 32, seed=seed)
    return wired(model, *texts, (1, 16, side, side), dtype, scheduler="simple", **more)


def stored(model) -> dict[str, torch.Tensor]:
    """Every weight object of ``model`` with its bytes; of quantised ones those of all parts."""
    weights = [*model.model.named_parameters(), *model.model.named_buffers()]
    return {name: (tensor, [part.clone() for part in parts(tensor)]) for name, tensor in weights}


def parts(tensor: torch.Tensor) -> list[torch.Tensor]:
    if not hasattr(tensor, "__tensor_flatten__"):
        return [tensor.detach().reshape(-1).view(torch.uint8) if tensor.numel() else tensor]
    inner, _ = tensor.__tensor_flatten__()
    return [part for name in inner for part in parts(getattr(tensor, name))]


def stayed(model, before: dict) -> bool:
    after = stored(model)
    return after.keys() == before.keys() and all(
        after[name][0] is tensor
        and all(torch.equal(a, b) for a, b in zip(after[name][1], values, strict=True))
        for name, (tensor, values) in before.items()
    )


@contextlib.contextmanager
def nothing_rounded():
    """Quantised layers of the host without rounding of their input, for any type.

    Weights stay what they are. The host's kernels know no float64, so weights become the numbers
    they stand for, and are multiplied by PyTorch.
    """
    dequantize = QuantizedTensor.dequantize

    def plain(self):
        with torch._C.DisableTorchFunction():
            scales = {name: getattr(self._params, name) for name in self._params._tensor_fields()}
            scales = {k: v.float() if v.dtype == torch.float64 else v for k, v in scales.items()}
            params = dataclasses.replace(self._params, orig_dtype=torch.float32, **scales)
            return dequantize(self._copy_with(params=params, clone_params=False)).to(self.dtype)

    with (
        patch.object(QuantizedTensor, "dequantize", plain),
        patch.object(QuantizedTensor, "from_float", lambda x, *_, **__: x),
        patch.dict(comfy_kitchen.tensor.base._LAYOUT_DISPATCH_TABLE, clear=True),
    ):
        yield


@torch.inference_mode()
def examine_rounded(load_model: Callable) -> Finding:
    """`examine` for a model whose weights are of few bits, as the module's docstring tells."""
    model = load_model()
    graph = flux_wired(model)
    parts = own_parts(graph)
    stock = sample(graph)
    before = stored(model)
    try:
        forward = torch.equal(sample_unrolled(graph), stock)
    except SeedSelectError as error:
        return Finding(refusal=str(error))
    unharmed = stayed(model, before)
    rounded = gradient(graph)
    with in_double(), nothing_rounded():
        graph = flux_wired(model, torch.float64)
        error, blocks_error = gradient_errors(graph)
        fine = gradient(graph)
    apart = ((rounded - fine).norm() / fine.norm()).item()
    remark = f"gradient of the run is {apart:.1e} from that of the same weights in float64"
    return Finding(forward, error, unharmed, "", remark, parts, blocks_error)


def gradient(graph: Wired) -> torch.Tensor:
    """Of the number that is differentiated in `gradient_error`, with respect to the noise."""

    def search(chain: Chain, noise: torch.Tensor) -> torch.Tensor:
        z = noise.double().requires_grad_()
        found.append(torch.autograd.grad(probed(chain)(z), z)[0])
        return noise

    found: list[torch.Tensor] = []
    _unrolled(graph, search)
    return found[0]


def of_type(dtype: torch.dtype) -> Callable[[], Finding]:
    """A file of ``dtype``, as it is loaded without any option."""

    def build():
        return load(flux_weights(), dtype=dtype)

    return lambda: examine_rounded(build)


def cast_by_loader(dtype: torch.dtype) -> Callable[[], Finding]:
    """A file of bfloat16 with ``weight_dtype`` chosen on the loader."""

    def build():
        weights = {name: tensor.bfloat16() for name, tensor in flux_weights().items()}
        return load(weights, dtype=dtype)

    return lambda: examine_rounded(build)


def old_scaled_fp8() -> Finding:
    def build():
        weights = flux_weights()
        for name in [n for n in weights if n.startswith(BLOCKS) and weights[n].ndim == 2]:
            layer = name.removesuffix(".weight")
            weight = weights[name]
            scale = weight.abs().max() / 448
            weights[name] = (weight / scale).to(torch.float8_e4m3fn)
            weights[f"{layer}.scale_weight"] = scale.float()
        weights["scaled_fp8"] = torch.zeros(2).to(torch.float8_e4m3fn)
        return load(weights)

    return examine_rounded(build)


def quantized_weights(algorithm: str, **extra) -> dict[str, torch.Tensor]:
    """A file with ``comfy_quant`` beside the weight of every large layer."""
    weights = flux_weights()
    layout = get_layout_class(QUANT_ALGOS[algorithm]["comfy_tensor_layout"])
    options = {"per_channel": True, **extra} if extra.get("convrot") else extra
    for name in [n for n in weights if n.startswith(BLOCKS) and weights[n].ndim == 2]:
        layer = name.removesuffix(".weight")
        values, params = layout.quantize(weights[name], scale="recalculate", **options)
        for suffix, tensor in layout.state_dict_tensors(values, params).items():
            weights[name + suffix] = tensor
        marker = json.dumps({"format": algorithm} | extra).encode()
        weights[f"{layer}.comfy_quant"] = torch.tensor(list(marker), dtype=torch.uint8)
    return weights


def quantized(algorithm: str, **extra) -> Callable[[], Finding]:
    def build():
        model = load(quantized_weights(algorithm, **extra))
        if not any(isinstance(p, QuantizedTensor) for p in model.model.parameters()):
            raise AssertionError("The host read no quantised weight.")
        return model

    return lambda: examine_rounded(build)


def cases() -> list[Case]:
    rows = [
        ("float16", of_type(torch.float16)),
        ("bfloat16", of_type(torch.bfloat16)),
        ("float8_e4m3fn", cast_by_loader(torch.float8_e4m3fn)),
        ("float8_e5m2", cast_by_loader(torch.float8_e5m2)),
        ("scaled fp8 (old)", old_scaled_fp8),
        *(
            (f"quantised: {name}", quantized(name, **(GROUPS if "convrot" in name else {})))
            for name in QUANT_ALGOS
        ),
        ("quantised: int8_tensorwise, rotated", quantized("int8_tensorwise", **ROTATED)),
    ]
    quick = ("bfloat16", "quantised: float8_e4m3fn")
    return [Case("weights", name, run, quick=name in quick) for name, run in rows]
