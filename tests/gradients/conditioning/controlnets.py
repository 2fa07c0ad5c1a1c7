"""ControlNets, T2I-Adapters and GLIGEN, applied by the host's own nodes."""

from collections.abc import Callable

import comfy.cldm.cldm
import comfy.cldm.mmdit
import comfy.controlnet
import comfy.gligen
import comfy.latent_formats
import comfy.ldm.flux.controlnet
import comfy.model_management
import comfy.model_patcher
import comfy.ops
import comfy.t2i_adapter.adapter
import torch
from comfy_extras.nodes_controlnet import ControlNetInpaintingAliMamaApply, SetUnionControlNetType

import nodes

from ..families.flux import FLUX
from ..families.mmdit import SD3
from ..measure import Case, Finding, Wired, examine
from ..models import detected, normal, randomize
from ..small_unet import SIZES, graph, small_unet, text
from ..unets import Eye, picture
from ..wiring import conditioning, wired
from .prompts import hooked, left_half, lora, scheduled

UNION = 8
Build = Callable[[torch.dtype], Wired]


class Encoder(Eye):
    """A VAE of as many channels as are asked for."""

    def __init__(self, channels: int):
        super().__init__()
        self.channels = channels

    def spacial_compression_encode(self) -> int:
        return 8

    def encode(self, pixels: torch.Tensor) -> torch.Tensor:
        b, h, w, _ = pixels.shape
        return normal(b, self.channels, h // 8, w // 8, seed=5)


def control(kind: type, dtype: torch.dtype, seed: int, sizes: dict, **options):
    """CONTROL_NET of a random network of ``kind``.

    Args:
        options: of `comfy.controlnet.ControlNet`.
    """
    cpu = torch.device("cpu")
    model = kind(**sizes, dtype=dtype, device=cpu, operations=comfy.ops.disable_weight_init)
    randomize(model, seed)
    device = comfy.model_management.get_torch_device()
    return comfy.controlnet.ControlNet(model, load_device=device, **options)


def cldm(dtype: torch.dtype, seed: int = 80, **options) -> comfy.controlnet.ControlNet:
    """A ControlNet of `small_unet`."""
    sizes = {name: value for name, value in SIZES.items() if name != "out_channels"}
    changed = {name: options.pop(name) for name in [*options] if name in SIZES}
    union = options.pop("union", None)
    sizes |= {"hint_channels": 3, "union_controlnet_num_control_type": union} | changed
    return control(comfy.cldm.cldm.ControlNet, dtype, seed, sizes, **options)


def applied(positive: list, negative: list, net, strength=0.7, start=0.0, end=1.0, **more):
    node = nodes.ControlNetApplyAdvanced()
    return node.apply_controlnet(
        positive, negative, net, picture(8, 8), strength, start, end, **more
    )


def on_unet() -> dict[str, Build]:
    def plain(**options) -> Build:
        return lambda dtype: graph(dtype, *applied(text(1), text(2), cldm(dtype), **options))

    def chained(dtype: torch.dtype) -> Wired:
        once = applied(text(1), text(2), cldm(dtype), 0.7, 0.0, 0.6)
        return graph(dtype, *applied(*once, cldm(dtype, 90), 0.4, 0.3, 1.0))

    def union(dtype: torch.dtype) -> Wired:
        # The layers that tell the types apart are 320 channels wide, whatever the network is.
        wide = {"model_channels": 320, "num_head_channels": 64}
        net = SetUnionControlNetType.execute(cldm(dtype, union=UNION, **wide), "depth")[0]
        model = small_unet(dtype, **wide)
        return graph(dtype, *applied(text(1), text(2), net), model=model, shape=(1, 4, 4, 4))

    def positive_only(dtype: torch.dtype) -> Wired:
        (positive,) = nodes.ControlNetApply().apply_controlnet(
            text(1), cldm(dtype), picture(8, 8), 0.7
        )
        return graph(dtype, positive)

    def batch(dtype: torch.dtype) -> Wired:
        pair = applied(text(1), text(2), cldm(dtype))
        return graph(dtype, *pair, shape=(2, 4, 8, 8))

    def pictures(dtype: torch.dtype) -> Wired:
        two = torch.cat([picture(8, 8), picture(8, 8).flip(1)])
        node = nodes.ControlNetApplyAdvanced()
        pair = node.apply_controlnet(text(1), text(2), cldm(dtype), two, 0.7, 0.0, 1.0)
        more = nodes.ConditioningSetTimestepRange().set_range(text(3), 0.0, 0.5)[0]
        return graph(dtype, pair[0] + more, pair[1], shape=(2, 4, 8, 8))

    def masked(dtype: torch.dtype) -> Wired:
        positive, negative = applied(text(1), text(2), cldm(dtype))
        (left,) = nodes.ConditioningSetMask().append(positive, left_half(True), "default", 1.0)
        return graph(dtype, left + text(3), negative)

    def with_hook(dtype: torch.dtype) -> Wired:
        positive, negative = applied(text(1), text(2), cldm(dtype))
        return graph(dtype, hooked(positive, scheduled(lora(0.8, 60), 1.0, 0.3)), negative)

    def shuffled(dtype: torch.dtype) -> Wired:
        net = cldm(dtype, global_average_pooling=True)
        return graph(dtype, *applied(text(1), text(2), net))

    return {
        "ControlNet": plain(),
        "ControlNet, start 20 %, end 60 %": plain(start=0.2, end=0.6),
        "ControlNet, strength 0.7, positive only (ControlNetApply)": positive_only,
        "ControlNet, two chained": chained,
        "ControlNet, union (SetUnionControlNetType)": union,
        "ControlNet, global average pooling": shuffled,
        "ControlNet, batch of 2": batch,
        "ControlNet, a picture for each of a batch, and a timed prompt": pictures,
        "ControlNet in a masked region": masked,
        "ControlNet and LoRA hook with keyframes": with_hook,
        "ControlLora": control_lora,
        "T2I-Adapter": t2i_adapter,
        "GLIGENTextBoxApply": gligen,
    }


def control_lora(dtype: torch.dtype) -> Wired:
    sizes = {name: value for name, value in SIZES.items() if name != "out_channels"}
    own = control(comfy.cldm.cldm.ControlNet, dtype, 80, sizes | {"hint_channels": 3})
    weights = own.control_model.state_dict()
    kept = ("zero_convs", "middle_block_out", "input_hint_block")
    file = {name: weight for name, weight in weights.items() if name.startswith(kept)}
    file["lora_controlnet"] = torch.tensor([])
    for name, weight in weights.items():
        if ".attn" in name and name.endswith(".weight"):
            layer = name.removesuffix("weight")
            file[layer + "up"] = normal(weight.shape[0], 2, seed=81).to(dtype) / 8
            file[layer + "down"] = normal(2, weight.shape[1], seed=82).to(dtype) / 8
    net = comfy.controlnet.load_controlnet_state_dict(file)
    return graph(dtype, *applied(text(1), text(2), net))


def t2i_adapter(dtype: torch.dtype) -> Wired:
    file = comfy.t2i_adapter.adapter.Adapter(
        cin=192, channels=[32, 64, 128, 128], nums_rb=2, ksize=1, sk=True, use_conv=False, xl=False
    )
    randomize(file, 83)
    net = comfy.controlnet.load_t2i_adapter(file.state_dict())
    # An adapter speaks to every third block.
    model = small_unet(
        dtype, num_res_blocks=[2], transformer_depth=[1, 1], transformer_depth_output=[1, 1, 1]
    )
    return graph(dtype, *applied(text(1), text(2), net), model=model)


def gligen(dtype: torch.dtype) -> Wired:
    class Clip:
        def tokenize(self, words):
            return words

        def encode_from_tokens(self, tokens, return_pooled):
            return None, normal(1, 768, seed=84)

    def fuser(i: int, block: str) -> dict[str, torch.Tensor]:
        layer = comfy.gligen.GatedSelfAttentionDense(32, 768, 8, 4)
        randomize(layer, 85 + i)
        weights = {
            k: v + (0.6 if k.startswith("alpha") else 0) for k, v in layer.state_dict().items()
        }
        return {f"{block}.fuser.{name}": weight for name, weight in weights.items()}

    position = comfy.gligen.PositionNet(768, 768)
    randomize(position, 84)
    file = {f"position_net.{name}": weight for name, weight in position.state_dict().items()}
    blocks = ("input_blocks.1.1", "middle_block.0.1", "output_blocks.0.1", "output_blocks.1.1")
    for i, block in enumerate(blocks):
        file |= fuser(i, block)
    model = comfy.gligen.load_gligen(file).to(dtype)
    device = comfy.model_management.get_torch_device()
    patcher = comfy.model_patcher.CoreModelPatcher(model, device, torch.device("cpu"))
    (positive,) = nodes.GLIGENTextBoxApply().append(text(1), Clip(), patcher, "a", 32, 24, 8, 16)
    return graph(dtype, positive)


def flux(dtype: torch.dtype) -> Wired:
    """A union ControlNet of InstantX's kind: it takes the VAE's latent."""
    sizes = {k: v for k, v in FLUX.items() if k != "out_channels"} | {"guidance_embed": True}
    net = control(
        comfy.ldm.flux.controlnet.ControlNetFlux,
        dtype,
        80,
        sizes | {"out_channels": 16, "latent_input": True, "num_union_modes": 3},
        compression_ratio=1,
        latent_format=comfy.latent_formats.Flux(),
        extra_conds=["y", "guidance"],
    )
    net = SetUnionControlNetType.execute(net, "openpose")[0]
    model = detected("Flux", FLUX | {"guidance_embed": True}, dtype)
    pair = (
        conditioning(7, 4096, seed, pooled_output=normal(1, 768, seed=40 + seed), guidance=2.5)
        for seed in (1, 2)
    )
    pair = applied(*pair, net, vae=Encoder(16))
    return wired(model, *pair, (1, 16, 8, 8), dtype, scheduler="simple")


def sd3(dtype: torch.dtype) -> Wired:
    """An inpainting ControlNet of AliMama's kind: latent and mask."""
    latent_format = comfy.latent_formats.SD3()
    latent_format.shift_factor = 0
    net = control(
        comfy.cldm.mmdit.ControlNet,
        dtype,
        80,
        SD3 | {"in_channels": 16, "num_blocks": 1, "control_latent_channels": 17},
        compression_ratio=1,
        latent_format=latent_format,
        concat_mask=True,
    )
    net.control_model.pos_embed.copy_(normal(1, 64, 128, seed=3))
    model = detected("SD3", SD3, dtype)
    model.model.diffusion_model.pos_embed.copy_(normal(1, 64, 128, seed=3))
    pair = (
        conditioning(7, 4096, seed, pooled_output=normal(1, 2048, seed=40 + seed))
        for seed in (1, 2)
    )
    node = ControlNetInpaintingAliMamaApply
    pair = node.execute(*pair, net, Encoder(16), picture(8, 8), left_half(), 0.7, 0.0, 1.0)
    return wired(model, *pair[:2], (1, 16, 8, 8), dtype, scheduler="simple")


def cases() -> list[Case]:
    builds = on_unet() | {
        "Flux ControlNet, union, with VAE": flux,
        "SD3 ControlNet, inpainting (AliMama), with VAE": sd3,
    }
    quick = {"ControlNet, two chained", "T2I-Adapter"}
    return [
        Case("conditioning", name, lambda build=build: _measured(build), name in quick)
        for name, build in builds.items()
    ]


def _measured(build: Build) -> Finding:
    return examine(build)
