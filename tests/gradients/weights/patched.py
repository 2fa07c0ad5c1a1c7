"""Weights changed while they are loaded or used: LoRAs, merges, compiled and packed models."""

import functools
from collections.abc import Callable

import comfy.hooks
import comfy.ops
import comfy.sd
import torch
from comfy_api.torch_helpers import set_torch_compile_wrapper
from comfy_extras.nodes_model_merging import ModelMergeSimple

from ..measure import Case, Finding, Wired, examine
from ..models import normal
from .kinds import examine_rounded, flux_weights, flux_wired, load, quantized_weights

# Of these layers, [out, in] each.
ADAPTED = ("double_blocks.0.img_attn.qkv", "double_blocks.0.txt_mlp.0", "single_blocks.0.linear2")
RANK = 4
BACKENDS = ("eager", "aot_eager")


def _low_rank(out: int, width: int, name: str, up: str, down: str, seed: int) -> dict:
    return {
        f"{name}.{up}": normal(out, RANK, seed=seed) * 0.1,
        f"{name}.{down}": normal(RANK, width, seed=seed + 1) * 0.1,
    }


def adapter(kind: str) -> dict[str, torch.Tensor]:
    """State dict of a random adapter, with the names that trainers give."""
    weights = flux_weights()
    file: dict[str, torch.Tensor] = {}
    for i, layer in enumerate(ADAPTED):
        out, width = weights[f"{layer}.weight"].shape
        name = "lora_unet_" + layer.replace(".", "_")
        seed = 100 + 10 * i
        file[f"{name}.alpha"] = torch.tensor(float(RANK))
        if kind in ("LoRA", "DoRA"):
            file |= _low_rank(out, width, name, "lora_up.weight", "lora_down.weight", seed)
        if kind == "DoRA":
            file[f"{name}.dora_scale"] = 1 + 0.1 * normal(1, width, seed=seed + 4)
        if kind == "LoHa":
            file |= _low_rank(out, width, name, "hada_w1_a", "hada_w1_b", seed)
            file |= _low_rank(out, width, name, "hada_w2_a", "hada_w2_b", seed + 2)
        if kind == "LoKr":
            file[f"{name}.lokr_w1"] = normal(4, 4, seed=seed) * 0.1
            file[f"{name}.lokr_w2"] = normal(out // 4, width // 4, seed=seed + 1) * 0.1
        if kind == "GLoRA":
            file[f"{name}.a1.weight"] = normal(RANK, width, seed=seed) * 0.1
            file[f"{name}.a2.weight"] = normal(width, RANK, seed=seed + 1) * 0.1
            file[f"{name}.b1.weight"] = normal(RANK, width, seed=seed + 2) * 0.1
            file[f"{name}.b2.weight"] = normal(out, RANK, seed=seed + 3) * 0.1
        if kind == "OFT":
            file[f"{name}.oft_blocks"] = normal(4, out // 4, out // 4, seed=seed) * 0.05
        if kind == "difference":
            del file[f"{name}.alpha"]
            file[f"{name}.diff"] = normal(out, width, seed=seed) * 0.03
    return file


KINDS = ("LoRA", "DoRA", "LoHa", "LoKr", "GLoRA", "OFT", "difference")


def with_adapter(model, kind: str, bypass: bool = False):
    apply = comfy.sd.load_bypass_lora_for_models if bypass else comfy.sd.load_lora_for_models
    changed, _ = apply(model, None, adapter(kind), 0.8, 0.0)
    return changed


def patched(kind: str, bypass: bool = False) -> Callable[[], Finding]:
    def build(dtype: torch.dtype) -> Wired:
        return flux_wired(with_adapter(load(flux_weights(), dtype=dtype), kind, bypass), dtype)

    return lambda: examine(build)


def patched_rounded(dtype: torch.dtype, bypass: bool = False) -> Callable[[], Finding]:
    return lambda: examine_rounded(
        lambda: with_adapter(load(flux_weights(), dtype=dtype), "LoRA", bypass)
    )


def patched_quantized(bypass: bool = False) -> Callable[[], Finding]:
    return lambda: examine_rounded(
        lambda: with_adapter(load(quantized_weights("float8_e4m3fn")), "LoRA", bypass)
    )


def hooked() -> Finding:
    """A LoRA on one prompt alone, and another on the other."""

    def build(dtype: torch.dtype) -> Wired:
        graph = flux_wired(load(flux_weights(), dtype=dtype), dtype)
        conds = graph.guider.original_conds
        for side, kind in (("positive", "LoRA"), ("negative", "LoKr")):
            hooks = comfy.hooks.create_hook_lora(adapter(kind), 0.8, 0.0)
            for cond in conds[side]:
                cond["hooks"] = hooks
        return graph

    return examine(build)


def merged() -> Finding:
    def build(dtype: torch.dtype) -> Wired:
        first = load(flux_weights(), dtype=dtype)
        second = load({k: v.flip(0) for k, v in flux_weights().items()}, dtype=dtype)
        return flux_wired(ModelMergeSimple().merge(first, second, 0.7)[0], dtype)

    return examine(build)


def compiled(backend: str) -> Finding:
    def build(dtype: torch.dtype) -> Wired:
        torch._dynamo.reset()
        model = load(flux_weights(), dtype=dtype)
        set_torch_compile_wrapper(model, backend)
        return flux_wired(model, dtype)

    return examine(build)


class Packed(torch.Tensor):
    """Weights as third-party loaders of GGUF hold them: bytes, and the shape they stand for."""

    @staticmethod
    def pack(weight: torch.Tensor) -> "Packed":
        """Blocks of 32 numbers of 8 bits with a scale of 16, as Q8_0."""
        blocks = weight.reshape(-1, 32).float()
        scale = (blocks.abs().amax(1, keepdim=True) / 127).half()
        numbers = (blocks / scale.float().clamp(min=1e-8)).round().to(torch.int8)
        data = torch.cat([scale.view(torch.int8), numbers], dim=1)
        packed = torch.Tensor._make_subclass(Packed, data)
        packed.stands_for = tuple(weight.shape)
        return packed

    def unpacked(self, dtype: torch.dtype) -> torch.Tensor:
        with torch._C.DisableTorchFunction():  # float16 is meant, in double precision as well
            data = self.detach().as_subclass(torch.Tensor)
            scale = data[:, :2].contiguous().view(torch.float16)
            return (data[:, 2:].to(dtype) * scale.to(dtype)).reshape(self.stands_for)


class PackedLayers(comfy.ops.manual_cast):
    """Custom operations for the host's loader: layers that unpack their weight when they run."""

    class Linear(comfy.ops.manual_cast.Linear):
        def _load_from_state_dict(self, weights, prefix, *args):
            weight = weights.get(prefix + "weight")
            if not isinstance(weight, Packed):
                return super()._load_from_state_dict(weights, prefix, *args)
            self.weight = torch.nn.Parameter(weight, requires_grad=False)
            self.weight.stands_for = weight.stands_for
            self.bias = torch.nn.Parameter(weights[prefix + "bias"], requires_grad=False)

        def forward_comfy_cast_weights(self, x):
            if not isinstance(self.weight, Packed):
                return super().forward_comfy_cast_weights(x)
            bias = self.bias.to(x.dtype)
            return torch.nn.functional.linear(x, self.weight.unpacked(x.dtype), bias)


def packed() -> Finding:
    def build():
        weights = flux_weights()
        for name in [n for n in weights if "_blocks." in n and weights[n].ndim == 2]:
            weights[name] = Packed.pack(weights[name])
        model = load(weights, custom_operations=PackedLayers, dtype=torch.float32)
        if not any(isinstance(p, Packed) for p in model.model.parameters()):
            raise AssertionError("No weight is packed.")
        return model

    return examine_rounded(build)


def cases() -> list[Case]:
    rows = [
        *((f"{kind} patched in", patched(kind)) for kind in KINDS),
        ("LoRA patched into bfloat16", patched_rounded(torch.bfloat16)),
        ("LoRA patched into float8_e4m3fn", patched_rounded(torch.float8_e4m3fn)),
        ("LoRA patched into quantised float8_e4m3fn", patched_quantized()),
        ("LoRA by hooks, one on each prompt", hooked),
        *((f"{kind} by bypass", patched(kind, bypass=True)) for kind in ("LoRA", "LoHa", "LoKr")),
        ("LoRA by bypass on quantised float8_e4m3fn", patched_quantized(bypass=True)),
        ("two models merged", merged),
        *((f"torch.compile, {name}", functools.partial(compiled, name)) for name in BACKENDS),
        ("packed weights of a third party (as GGUF)", packed),
    ]
    quick = ("LoRA patched in", "packed weights of a third party (as GGUF)")
    return [Case("weights", name, run, quick=name in quick) for name, run in rows]
