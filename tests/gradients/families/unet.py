"""Families that are built on the host's UNet."""

from collections.abc import Callable
from dataclasses import dataclass, field

import torch

from ..measure import Case, Finding, Wired, examine
from ..models import normal
from ..unets import VIDEO, Eye, Text, connected, file_of, loaded, picture, texts

SHAPE = (1, 4, 3, 5)  # of most latents: odd and not square
H, W = SHAPE[2:]
# of videos
FRAMES = 2
SMALL = (2, 3)


@dataclass(frozen=True)
class Family:
    """One row: a file, and what is connected to it.

    Attributes:
        name: the family's, with what is special about it.
        sizes: of the UNet, beside those that make the family (`unets.file_of`).
        inputs: makes positive, negative and perhaps LATENT, by the host's nodes.
        extra: what else the file holds, beside the UNet.
        more: see `wiring.wired`.
        patch: done to the MODEL by a node.
    """

    name: str
    sizes: dict
    inputs: Callable[[], tuple]
    shape: tuple[int, ...] = SHAPE
    extra: dict[str, torch.Tensor] = field(default_factory=dict)
    more: dict = field(default_factory=dict)
    patch: Callable | None = None
    quick: bool = False

    def examine(self) -> Finding:
        family = self.name.split(",")[0]
        weights = file_of(family, self.sizes) | self.extra

        def build(dtype: torch.dtype) -> Wired:
            model = loaded(family, weights, dtype)
            if self.patch is not None:
                model = self.patch(model)
            return connected(model, self.inputs(), self.shape, dtype, **{"steps": 2} | self.more)

        return examine(build)


def sdxl_texts() -> tuple[list, list]:
    from comfy_extras.nodes_clip_sdxl import CLIPTextEncodeSDXL

    size = {"width": 1024, "height": 832, "crop_w": 8, "crop_h": 16}
    target = {"target_width": 1152, "target_height": 896, "text_g": "", "text_l": ""}
    encode = CLIPTextEncodeSDXL.execute
    return tuple(encode(Text(2048, 1280, seed), **size, **target)[0] for seed in (1, 2))


def refiner_texts() -> tuple[list, list]:
    from comfy_extras.nodes_clip_sdxl import CLIPTextEncodeSDXLRefiner

    encode = CLIPTextEncodeSDXLRefiner.execute
    scored = zip((1, 2), (6.0, 2.5), strict=True)
    return tuple(encode(Text(1280, 1280, seed), score, 1024, 832, "")[0] for seed, score in scored)


def inpainting(texts: Callable[[], tuple]) -> Callable[[], tuple]:
    """A picture and a mask by "InpaintModelConditioning"."""

    def inputs():
        import nodes

        mask = torch.zeros(1, H * 8, W * 8)
        mask[:, 8:, 8:24] = 1
        positive, negative = texts()
        return nodes.InpaintModelConditioning().encode(
            positive, negative, picture(H, W), Eye(), mask
        )

    return inputs


def instructed(texts: Callable[[], tuple]) -> Callable[[], tuple]:
    """A picture to edit by "InstructPixToPixConditioning"."""

    def inputs():
        from comfy_extras.nodes_ip2p import InstructPixToPixConditioning

        return InstructPixToPixConditioning.execute(*texts(), picture(H, W), Eye()).args

    return inputs


def unclip(width: int, count: int) -> Callable[[], tuple]:
    """``count`` pictures as prompts, with noise of their own, by "unCLIPConditioning"."""

    def inputs():
        import nodes

        positive, negative = texts(1024)
        for i in range(count):
            seen = Eye(width).encode_image(picture(H, W))
            positive = nodes.unCLIPConditioning().apply_adm(positive, seen, 1.0 - 0.3 * i, 0.2)[0]
        return positive, negative

    return inputs


def sdxl_pictures() -> tuple:
    """ReVision: the pooled text gives way to a picture."""
    import nodes

    positive, negative = sdxl_texts()
    seen = Eye(1280).encode_image(picture(H, W))
    return nodes.unCLIPConditioning().apply_adm(positive, seen, 1.0, 0.2)[0], negative


def upscaling() -> tuple:
    from comfy_extras.nodes_sdupscale import SD_4XUpscale_Conditioning

    small = picture(H, W)[:, :H, :W]
    return SD_4XUpscale_Conditioning.execute(small, *texts(1024), 4.0, 0.3).args


def zero123() -> tuple:
    from comfy_extras.nodes_stable3d import StableZero123_Conditioning_Batched

    return StableZero123_Conditioning_Batched.execute(
        Eye(768), picture(H, W), Eye(), W * 8, H * 8, 2, 10.0, 30.0, 0.0, 40.0
    ).args


def sv3d() -> tuple:
    from comfy_extras.nodes_stable3d import SV3D_Conditioning

    return SV3D_Conditioning.execute(
        Eye(), picture(*SMALL), Eye(), SMALL[1] * 8, SMALL[0] * 8, FRAMES, 10.0
    ).args


def svd() -> tuple:
    from comfy_extras.nodes_video_model import SVD_img2vid_Conditioning

    node = SVD_img2vid_Conditioning()
    return node.encode(
        Eye(), picture(*SMALL), Eye(), SMALL[1] * 8, SMALL[0] * 8, FRAMES, 127, 6, 0.0
    )


def linear_guidance(model):
    from comfy_extras.nodes_video_model import VideoLinearCFGGuidance

    return VideoLinearCFGGuidance().patch(model, 1.0)[0]


def lotus() -> tuple:
    from comfy_extras.nodes_lotus import LotusConditioning

    text = LotusConditioning.execute()[0]
    return text, text, {"samples": Eye().encode(picture(H, W))}


LEVELS = {"num_res_blocks": [2, 2, 2], "channel_mult": [1, 1, 1]}
# The host knows these by their transformers on the way in. On the way out one a level is enough.
SDXL = LEVELS | {"transformer_depth_output": [0, 0, 0, 0, 0, 1, 0, 0, 1]}
KOALA = {
    "num_res_blocks": [1, 1, 1],
    "channel_mult": [1, 1, 1],
    "transformer_depth_output": [0, 0, 0, 1, 0, 1],
}
REFINER = {
    "num_res_blocks": [2, 2, 2, 2],
    "channel_mult": [1, 1, 1, 1],
    "transformer_depth_output": [0, 0, 0, 0, 0, 1, 0, 0, 1, 0, 0, 0],
}
SVD = VIDEO | {
    "num_res_blocks": [4, 4],
    "channel_mult": [1, 1],
    "transformer_depth_output": [0, 0, 0, 0, 1, 0, 0, 0, 0, 1],
}
# Its four levels are written in the host's code, the first three without self-attention.
X4 = {
    "num_res_blocks": [1, 1, 1, 1],
    "channel_mult": [1, 1, 1, 1],
    "transformer_depth": [0, 1, 1, 1],
    "transformer_depth_output": [0, 0, 0, 1, 0, 1, 0, 1],
}
# Two levels and a middle, for the plainest family.
WHOLE = {
    "num_res_blocks": [1, 1],
    "channel_mult": [1, 1],
    "transformer_depth": [1, 1],
    "transformer_depth_output": [1, 1, 1, 1],
    "transformer_depth_middle": 1,
}


def cc_projection() -> dict[str, torch.Tensor]:
    """Of picture and camera to what the UNet reads, part of a Stable Zero123 file."""
    weight = normal(768, 772, seed=8) * 772**-0.5
    return {"cc_projection.weight": weight, "cc_projection.bias": normal(768, seed=9)}


def velocity_mark() -> dict[str, torch.Tensor]:
    """By the spread of this weight the host tells Stable Diffusion 2's v-prediction."""
    return {"output_blocks.11.1.transformer_blocks.0.norm1.bias": normal(320, seed=3)}


# Marks by which the host tells what the model predicts.
V = {"v_pred": torch.tensor([])}
ZERO_SNR = V | {"ztsnr": torch.tensor([])}
COSXL = {"edm_vpred.sigma_max": torch.tensor(120.0), "edm_vpred.sigma_min": torch.tensor(0.002)}
PLAYGROUND = {"edm_mean": torch.zeros(4), "edm_std": torch.ones(4)}

FAMILIES = [
    Family("SD15", {}, lambda: texts(768), quick=True),
    Family("SD15, two levels and a middle", WHOLE, lambda: texts(768)),
    Family("SD15, inpainting", {"in_channels": 9}, inpainting(lambda: texts(768))),
    Family("SD15_instructpix2pix", {}, instructed(lambda: texts(768))),
    Family("Stable_Zero123", {}, zero123, extra=cc_projection()),
    Family("SD20", {}, lambda: texts(1024)),
    Family("SD20, v-prediction", {}, lambda: texts(1024), extra=velocity_mark()),
    Family("SD20, inpainting", {"in_channels": 9}, inpainting(lambda: texts(1024))),
    Family("SD21UnclipL", {}, unclip(768, 1), quick=True),
    Family("SD21UnclipH", {}, unclip(1024, 1)),
    Family("SD21UnclipH, two pictures", {}, unclip(1024, 2)),
    Family("LotusD", {"context_dim": 1024}, lotus, more={"cfg": 1.0}, quick=True),
    Family("SD_X4Upscaler", X4, upscaling),
    Family("SDXL", SDXL, sdxl_texts),
    Family("SDXL, v-prediction", SDXL, sdxl_texts, extra=V),
    Family("SDXL, zero terminal SNR", SDXL, sdxl_texts, extra=ZERO_SNR),
    Family("SDXL, EDM (Playground 2.5)", SDXL, sdxl_texts, extra=PLAYGROUND),
    Family("SDXL, EDM v-prediction (CosXL)", SDXL, sdxl_texts, extra=COSXL),
    Family("SDXL, inpainting", SDXL | {"in_channels": 9}, inpainting(sdxl_texts)),
    Family("SDXL, pictures as prompts", SDXL, sdxl_pictures),
    Family("SDXL_instructpix2pix", SDXL, instructed(sdxl_texts)),
    Family("SDXL_instructpix2pix, CosXL", SDXL, instructed(sdxl_texts), extra=COSXL),
    Family("SDXLRefiner", REFINER, refiner_texts),
    Family("SSD1B", SDXL, sdxl_texts),
    Family("Segmind_Vega", SDXL, sdxl_texts),
    Family("KOALA_700M", KOALA, sdxl_texts),
    Family("KOALA_1B", KOALA, sdxl_texts),
    Family("SVD_img2vid", SVD, svd, patch=linear_guidance),
    Family("SV3D_u", SVD, sv3d),
    Family("SV3D_p", SVD, sv3d),
]


def cases() -> list[Case]:
    return [Case("families", row.name, row.examine, quick=row.quick) for row in FAMILIES]
