"""The VAEs of the host, each as small as its class allows."""

import comfy.ldm.cascade.stage_c_coder as stage_c
import comfy.ldm.cogvideo.vae as cogvideo
import comfy.ldm.cosmos.vae as cosmos
import comfy.ldm.genmo.vae.model as mochi
import comfy.ldm.hunyuan_video.vae as hunyuan_image
import comfy.ldm.hunyuan_video.vae_refiner as hunyuan
import comfy.ldm.lightricks.vae.causal_video_autoencoder as lightricks
import comfy.ldm.mage_flow.vae as mage
import comfy.ldm.minimax.vae as minimax
import comfy.ldm.models.autoencoder as autoencoder
import comfy.ldm.seedvr.vae as seedvr
import comfy.ldm.wan.vae
import comfy.ldm.wan.vae2_2
import comfy.pixel_space_convert
import comfy.sd
import comfy.taesd.taehv
import comfy.taesd.taesd
import torch

from ..measure import Case
from .other_vaes import OTHERS
from .vae_kind import Kind, metadata, sized

VIDEO = (1, 3)  # numbers of latent frames: a picture, and a video
KL = {
    "double_z": True,
    "z_channels": 4,
    "resolution": 256,
    "in_channels": 3,
    "out_ch": 3,
    "ch": 32,
    "ch_mult": [1, 2, 4, 4],
    "num_res_blocks": 1,
    "attn_resolutions": [],
    "dropout": 0.0,
}
FEW = {"ch": 32, "num_res_blocks": 1}
ENGINE = "comfy.ldm.models.autoencoder."


def _thin(kwargs: dict) -> dict:
    """A KL autoencoder with 32 channels in place of 128: groups of the norms allow no fewer."""
    parts = {name: kwargs[name] | FEW for name in kwargs if name.endswith("ddconfig")}
    return kwargs | parts


def _thin_engine(kwargs: dict) -> dict:
    """The same for one that is told its parts by name."""
    parts = {}
    for name in ("encoder_config", "decoder_config"):
        part = kwargs[name]
        parts[name] = part | {"params": part["params"] | FEW}
    return kwargs | parts


THIN = ((comfy.sd, "AutoencoderKL", _thin), (comfy.sd, "AutoencodingEngine", _thin_engine))


def _kl(**changes):
    """With the layers before and after the latent that Stable Diffusion's has."""
    z_channels = changes.get("z_channels", 4)
    return lambda: comfy.sd.AutoencoderKL(ddconfig=KL | changes, embed_dim=z_channels)


def _engine(encoder: str, decoder: str, config: dict, regularizer="DiagonalGaussianRegularizer"):
    return lambda: autoencoder.AutoencodingEngine(
        regularizer_config={"target": ENGINE + regularizer},
        encoder_config={"target": encoder, "params": config},
        decoder_config={"target": decoder, "params": config},
    )


MODEL = "comfy.ldm.modules.diffusionmodules.model."
TEMPORAL = "comfy.ldm.modules.temporal_ae.VideoDecoder"
WAN = {"dim": 8, "z_dim": 16, "temperal_downsample": [False, True, True]}
LTX = {
    "dims": 3,
    "latent_channels": 128,
    "encoder_base_channels": 16,
    "decoder_base_channels": 16,
    "norm_layer": "pixel_norm",
    "patch_size": 4,
    "latent_log_var": "uniform",
    "causal_decoder": False,
    "encoder_blocks": [
        ["res_x", {"num_layers": 1}],
        ["compress_all", {}],
        ["res_x_y", 1],
        ["compress_all", {}],
        ["compress_all", {}],
    ],
}


def _ltx(**changes) -> dict:
    return LTX | {"decoder_blocks": LTX["encoder_blocks"][::-1]} | changes


def _lightricks(name: str, config: dict, **more) -> Kind:
    # The config is in the file's metadata, so that nothing has to be made smaller.
    return Kind(
        name,
        lambda: lightricks.VideoVAE(config=config),
        (128, 2, 2),
        frames=VIDEO,
        metadata=metadata(config),
        **more,
    )


PICTURES = [
    Kind("KL, 4 channels (Stable Diffusion)", _kl(), (4, 2, 3), THIN, quick=True),
    Kind("KL, 3 levels (x4 upscaler)", _kl(ch_mult=[1, 2, 4]), (4, 2, 3), THIN),
    Kind(
        "KL, 16 channels (Stable Diffusion 3, Flux)",
        _engine(MODEL + "Encoder", MODEL + "Decoder", KL | {"z_channels": 16}),
        (16, 2, 3),
        THIN,
    ),
    Kind(
        "KL, 128 channels (Flux 2)", _kl(z_channels=32, batch_norm_latent=True), (128, 1, 2), THIN
    ),
    Kind(
        "Stable Video Diffusion",
        _engine(MODEL + "Encoder", TEMPORAL, KL | {"video_kernel_size": [3, 1, 1], "alpha": 0.0}),
        (4, 2, 3),
        THIN,
    ),
    Kind("TAESD", comfy.taesd.taesd.TAESD, (4, 2, 3)),
    Kind("TAESD, 16 channels", lambda: comfy.taesd.taesd.TAESD(latent_channels=16), (16, 2, 3)),
    Kind(
        "TAESD, Flux 2",
        lambda: comfy.taesd.taesd.TAESD(latent_channels=128),
        (128, 2, 3),
        metadata={"tae_latent_channels": 128},
    ),
    Kind(
        "Stable Cascade, stage A",
        lambda: comfy.sd.StageA(),
        (4, 2, 3),
        ((comfy.sd, "StageA", sized(bottleneck_blocks=1, c_hidden=32, codebook_size=8)),),
    ),
    Kind(
        "Stable Cascade, stage C",
        lambda: comfy.sd.StageC_coder(),
        (16, 2, 3),
        ((stage_c, "Previewer", sized(c_hidden=16)),),
    ),
    Kind(
        "Hunyuan Image 2.1",
        _engine(
            "comfy.ldm.hunyuan_video.vae.Encoder",
            "comfy.ldm.hunyuan_video.vae.Decoder",
            {
                "z_channels": 64,
                "in_channels": 3,
                "out_channels": 3,
                "num_res_blocks": 2,
                "ffactor_spatial": 32,
                "downsample_match_channel": True,
                "upsample_match_channel": True,
                "block_out_channels": [32, 32, 64, 64, 128, 128],
            },
        ),
        (64, 1, 2),
        tuple(
            (hunyuan_image, part, sized(block_out_channels=[32, 32, 64, 64, 128, 128]))
            for part in ("Encoder", "Decoder")
        ),
    ),
    Kind(
        "Mage",
        lambda: mage.MageVAE(),
        (128, 1, 2),
        (
            (mage, "DConvEncoder", sized(hidden_size=32, num_blocks=1, head_size=32)),
            (
                mage,
                "DConvDenoiser",
                sized(hidden_size=32, hidden_size_x=8, num_blocks=3, num_cond_blocks=2),
            ),
        ),
        rewrite=lambda weights: {
            name.replace("dconv_encoder.", "student.dconv_encoder.").replace(
                "decoder_model.", "pipeline."
            ): tensor
            for name, tensor in weights.items()
        },
    ),
    Kind("pixel space", comfy.pixel_space_convert.PixelspaceConversionVAE, (3, 8, 8), quick=True),
]

REFINER = {
    "in_channels": 3,
    "out_channels": 3,
    "num_res_blocks": 1,
    "z_channels": 32,
    "ffactor_spatial": 16,
    "ffactor_temporal": 4,
    "downsample_match_channel": True,
    "upsample_match_channel": True,
    "block_out_channels": [32, 32, 32, 64, 64],
}
SMALL_REFINER = tuple(
    (
        hunyuan,
        part,
        sized(block_out_channels=REFINER["block_out_channels"], num_res_blocks=1),
    )
    for part in ("Encoder", "Decoder")
)


def _refiner(refiner_vae: bool):
    regularizer = "EmptyRegularizer" if refiner_vae else "DiagonalGaussianRegularizer"
    part = "comfy.ldm.hunyuan_video.vae_refiner."
    config = REFINER | {"refiner_vae": refiner_vae}
    return _engine(part + "Encoder", part + "Decoder", config, regularizer)


VIDEOS = [
    Kind(
        "Wan 2.1, Qwen-Image, Anima, Cosmos Predict 2",
        lambda: comfy.ldm.wan.vae.WanVAE(**WAN),
        (16, 2, 3),
        frames=VIDEO,
        quick=True,
    ),
    Kind(
        "Qwen-Image Layered",
        lambda: comfy.ldm.wan.vae.WanVAE(**WAN, image_channels=4, conv_out_channels=4),
        (16, 2, 3),
        frames=VIDEO,
    ),
    Kind(
        "Wan 2.2",
        lambda: comfy.ldm.wan.vae2_2.WanVAE(z_dim=48, temperal_downsample=[False, True, True]),
        (48, 1, 2),
        ((comfy.ldm.wan.vae2_2, "WanVAE", sized(dim=8, dec_dim=8)),),
        frames=VIDEO,
    ),
    Kind(
        "Hunyuan Video",
        _kl(z_channels=16, conv3d=True, time_compress=4),
        (16, 2, 3),
        THIN,
        frames=VIDEO,
    ),
    Kind("Hunyuan Video 1.5", _refiner(True), (32, 1, 2), SMALL_REFINER, frames=VIDEO),
    Kind("Hunyuan Image 2.1, refiner", _refiner(False), (32, 1, 2), SMALL_REFINER, frames=VIDEO),
    _lightricks("LTX Video 0.9", _ltx(), quick=True),
    _lightricks(
        "LTX Video 0.9.1",
        _ltx(
            timestep_conditioning=True,
            decoder_blocks=[
                ["res_x", {"num_layers": 1, "inject_noise": True}],
                ["compress_all", {"residual": True, "multiplier": 2}],
                ["compress_all", {"residual": True, "multiplier": 2}],
                ["compress_all", {"residual": True, "multiplier": 2}],
                ["res_x", {"num_layers": 1}],
            ],
        ),
    ),
    Kind(
        "Cosmos 1",
        lambda: cosmos.CausalContinuousVideoTokenizer(
            z_channels=16,
            latent_channels=16,
            z_factor=1,
            resolution=1024,
            in_channels=3,
            out_channels=3,
            channels_mult=[2, 4, 4],
            attn_resolutions=[32],
            dropout=0.0,
            patch_size=4,
            num_groups=1,
            temporal_compression=8,
            spacial_compression=8,
        ),
        (16, 2, 3),
        ((cosmos, "CausalContinuousVideoTokenizer", sized(channels=8, num_res_blocks=1)),),
        frames=VIDEO,
        # Published files hold it; the module of the host does not write it.
        rewrite=lambda weights: weights | {"decoder.unpatcher3d.wavelets": torch.ones(2)},
    ),
    Kind(
        "Mochi",
        lambda: mochi.VideoVAE(),
        (12, 2, 3),
        tuple(
            (
                mochi,
                part,
                sized(
                    base_channels=32,
                    channel_multipliers=[1, 2, 3, 4],
                    num_res_blocks=[3, 1, 1, 1, 1],
                ),
            )
            for part in ("Encoder", "Decoder")
        ),
        frames=VIDEO,
    ),
    Kind(
        "CogVideoX",
        lambda: cogvideo.AutoencoderKLCogVideoX(latent_channels=16),
        (16, 2, 3),
        (
            (
                cogvideo,
                "AutoencoderKLCogVideoX",
                sized(block_out_channels=(32, 32, 32, 32), layers_per_block=1),
            ),
        ),
        frames=VIDEO,
    ),
    Kind(
        "SeedVR2",
        lambda: seedvr.VideoAutoencoderKLWrapper(),
        (16, 2, 3),
        (
            (seedvr, "Encoder3D", sized(block_out_channels=(32, 32, 32, 32))),
            (seedvr, "Decoder3D", sized(block_out_channels=(32, 32, 32, 32))),
        ),
        frames=VIDEO,
    ),
    Kind(
        "MiniMax H3",
        lambda: minimax.MiniMaxH3VideoVAE(),
        (24, 2, 2),
        (
            (minimax, "EncoderFCN3D", sized(ch=32, num_res_blocks=1)),
            (minimax, "ViT3DDecoder", sized(num_layers=2, heads=2, dim_head=32)),
        ),
        frames=(1, 2),
    ),
    *(
        Kind(
            name,
            lambda channels=channels: comfy.taesd.taehv.TAEHV(latent_channels=channels),
            (channels, 1, 2),
            frames=VIDEO,
            rewrite=rewrite,
            quick=name == "TAEHV, Wan 2.1",
        )
        for name, channels, rewrite in (
            ("TAEHV, Wan 2.1", 16, dict),
            (
                "TAEHV, Hunyuan Video",
                16,
                lambda weights: {name: t.to(torch.float16) for name, t in weights.items()},
            ),
            ("TAEHV, Wan 2.2", 48, dict),
            ("TAEHV, Hunyuan Video 1.5", 32, dict),
            ("TAEHV, LTX Video 2", 128, dict),
        )
    ),
]


def cases() -> list[Case]:
    return [kind.case() for kind in [*PICTURES, *VIDEOS, *OTHERS]]
