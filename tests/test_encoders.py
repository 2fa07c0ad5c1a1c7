"""The differentiable encoders against the host's own, on small random models of its classes."""

import json

import comfy.clip_model
import comfy.clip_vision
import comfy.sd
import pytest
import torch
from comfy.image_encoders.dino2 import Dino2Embeddings
from safetensors.torch import save_file

import tiny
from seedselect_core.errors import SeedSelectError
from seedselect_core.likeness.clamping import clamp_inward
from seedselect_core.likeness.encoders import ClipVisionEncoder, encode_references
from seedselect_core.likeness.open_clip import OpenClipEncoder
from seedselect_core.likeness.vae import VaeCodec

BASE = {
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 64,
    "num_channels": 3,
    "image_size": 32,
    "patch_size": 8,
}
CONFIGS = {
    "clip": BASE
    | {"model_type": "clip_vision_model", "hidden_act": "quick_gelu", "projection_dim": 16},
    "siglip": BASE | {"model_type": "siglip_vision_model", "hidden_act": "gelu_pytorch_tanh"},
    "siglip2": BASE
    | {
        "model_type": "siglip2_vision_model",
        "hidden_act": "gelu_pytorch_tanh",
        "image_size": -1,
        "num_patches": 16,
    },
    "dinov2": BASE | {"model_type": "dinov2", "layer_norm_eps": 1e-6, "use_swiglu_ffn": False},
    "dinov3": BASE
    | {
        "model_type": "dinov3",
        "layer_norm_eps": 1e-5,
        "num_register_tokens": 2,
        "rope_theta": 100.0,
    },
}
DIMENSIONS = {"clip": 16, "siglip": 32, "siglip2": 32, "dinov2": 32, "dinov3": 32}


def randomize(module: torch.nn.Module) -> None:
    generator = torch.Generator().manual_seed(1)
    for parameter in module.parameters():
        parameter.requires_grad_(False)
        parameter.normal_(0, 0.2, generator=generator)


def clip_vision(kind: str) -> comfy.clip_vision.ClipVisionModel:
    if CONFIGS[kind]["model_type"] not in comfy.clip_vision.IMAGE_ENCODERS:
        pytest.skip("This host does not know this encoder.")
    if kind == "dinov2" and not hasattr(Dino2Embeddings, "interpolate_pos_encoding"):
        pytest.skip("This host knows it at its full size only.")
    model = tiny.clip_vision_of(CONFIGS[kind])
    randomize(model.model)
    return model


def pictures(*shape: int, dtype: torch.dtype = torch.float32) -> torch.Tensor:
    return torch.rand(*shape, generator=torch.Generator().manual_seed(2), dtype=dtype)


def difference_quotient(f, x: torch.Tensor, direction: torch.Tensor, h: float = 1e-5) -> float:
    return ((f(x + h * direction) - f(x - h * direction)) / (2 * h)).item()


def small_vae() -> comfy.sd.VAE:
    ddconfig = {
        "double_z": True,
        "z_channels": 4,
        "resolution": 32,
        "in_channels": 3,
        "out_ch": 3,
        "ch": 32,
        "ch_mult": [1, 2],
        "num_res_blocks": 1,
        "attn_resolutions": [],
        "dropout": 0.0,
    }
    vae = comfy.sd.VAE(sd={}, config={"params": {"ddconfig": ddconfig, "embed_dim": 4}})
    vae.downscale_ratio = vae.upscale_ratio = 2
    randomize(vae.first_stage_model)
    # Contrast enough for pixels below 0 and above 1.
    vae.first_stage_model.decoder.conv_out.weight.mul_(1.5)
    return vae


@pytest.mark.parametrize("size", [(32, 32), (40, 56)], ids=["same size", "resized"])
@pytest.mark.parametrize("crop", [True, False], ids=["crop", "squash"])
@pytest.mark.parametrize("kind", CONFIGS)
def test_embedding_is_the_hosts_own(kind, crop, size):
    model = clip_vision(kind)
    images = pictures(2, *size, 3) * 1.2 - 0.1  # some out of range, which the host clips
    if kind == "dinov3":  # ComfyUI 0.30.0 asks it for a layer that it does not give, and fails
        pixels = comfy.clip_model.clip_preprocess(
            images, 32, model.image_mean, model.image_std, crop=crop
        )
        host = model.model(pixel_values=pixels)[2]
    else:
        host = model.encode_image(images, crop=crop)["image_embeds"]
    expected = host.mean(dim=1) if kind.startswith("siglip") else host
    encoder = ClipVisionEncoder(model, crop=crop)
    embeddings = encoder(images.clone().requires_grad_())
    assert embeddings.shape == (2, DIMENSIONS[kind])
    assert torch.equal(embeddings, expected)
    with torch.no_grad():
        assert torch.equal(encoder(images), expected)


@pytest.mark.parametrize("kind", CONFIGS)
def test_gradient_is_that_of_the_smooth_path(kind, monkeypatch):
    model = clip_vision(kind)
    # In range, so that clipping is the identity; dark enough for bicubic overshoot to stay inside.
    images = 0.3 + 0.4 * pictures(1, 40, 48, 3, dtype=torch.float64)
    probe = torch.randn(DIMENSIONS[kind], generator=torch.Generator().manual_seed(3)).double()
    direction = torch.randn(images.shape, generator=torch.Generator().manual_seed(4)).double()
    encoder = ClipVisionEncoder(model)
    if encoder(images).dtype != images.dtype:
        pytest.skip("This host computes it in the type of its weights, too coarse for this.")

    def loss(x):
        return (encoder(x) @ probe).sum()

    # Rounding to 8 bits makes the host's values piecewise constant, so for this check, and for
    # values and gradient alike, the host is made not to round.
    monkeypatch.setattr(torch.Tensor, "round", lambda self: self)
    x = images.clone().requires_grad_()
    (gradient,) = torch.autograd.grad(loss(x), x)
    quotient = difference_quotient(loss, images, direction)
    assert (gradient * direction).sum().item() == pytest.approx(quotient, rel=1e-6)


def test_rounding_passes_the_gradient_straight_through(monkeypatch):
    encoder = ClipVisionEncoder(clip_vision("clip"))
    x = pictures(1, 40, 40, 3).requires_grad_()
    weights = torch.randn(1, 3, 32, 32, generator=torch.Generator().manual_seed(5))
    (rounded,) = torch.autograd.grad((encoder.preprocess(x) * weights).sum(), x)
    monkeypatch.setattr(torch.Tensor, "round", lambda self: self)
    (smooth,) = torch.autograd.grad((encoder.preprocess(x) * weights).sum(), x)
    assert torch.equal(rounded, smooth)
    assert rounded.abs().min() > 0


def test_clamp_lets_descent_back_into_the_range_but_not_out_of_it():
    x = torch.tensor([-0.1, -0.1, 0.0, 0.5, 1.0, 1.1, 1.1], requires_grad=True)
    y = clamp_inward(x)
    assert torch.equal(y, x.clamp(0, 1))
    # Descent moves against the gradient: a negative one raises a value, a positive one lowers it.
    y.backward(torch.tensor([-1.0, 1.0, 1.0, -1.0, -1.0, 1.0, -1.0]))
    assert x.grad.tolist() == [-1.0, 0.0, 1.0, -1.0, -1.0, 1.0, 0.0]


def test_nothing_is_left_on_the_model():
    model = clip_vision("clip")
    encoder = ClipVisionEncoder(model)
    encoder(pictures(1, 32, 32, 3).requires_grad_()).sum().backward()
    broken = torch.full((1, 32), float("nan"))  # too few dimensions: the host raises
    with pytest.raises(IndexError):
        encoder(broken)
    assert not any(m._forward_pre_hooks or m._forward_hooks for m in model.model.modules())
    assert all(p.grad is None for p in model.model.parameters())


def test_no_loading_in_the_differentiable_path(monkeypatch):
    encoder = ClipVisionEncoder(clip_vision("clip"))
    codec = VaeCodec(small_vae())

    def refuse(*args, **kwargs):
        raise AssertionError("weights were loaded")

    monkeypatch.setattr("comfy.model_management.load_models_gpu", refuse)
    assert encoder(codec.decode(torch.zeros(1, 4, 16, 16))).shape == (1, 16)


def test_model_without_image_embedding_is_refused(monkeypatch):
    model = clip_vision("clip")
    monkeypatch.setattr(model.model, "forward", lambda **_: (torch.zeros(1, 17, 32), None, None))
    with pytest.raises(SeedSelectError, match="clip_vision"):
        ClipVisionEncoder(model)(pictures(1, 32, 32, 3))


def test_references_can_be_targets_also_in_inference_mode():
    with torch.inference_mode():
        model = clip_vision("clip")
        vae = small_vae()
        images = pictures(3, 32, 32, 3)
        embeddings = encode_references(ClipVisionEncoder(model), images)
        latents = VaeCodec(vae).encode(images)
        expected = vae.encode(images)
    assert embeddings.shape == (3, 16)
    assert not embeddings.is_inference() and not embeddings.requires_grad
    assert not latents.is_inference() and not latents.requires_grad
    assert torch.equal(latents, expected)
    assert latents.shape == (3, 4, 16, 16)


@pytest.mark.parametrize("kind", ["default", "pixel space"])
def test_decoding_is_the_hosts_own(kind):
    vae = small_vae()
    if kind == "pixel space":  # such VAEs of the host change nothing and clamp nothing
        vae.process_output = lambda image: image
    latents = torch.randn(2, 4, 16, 16, generator=torch.Generator().manual_seed(6))
    expected = vae.decode(latents)
    z = latents.clone().requires_grad_()
    images = VaeCodec(vae).decode(z)
    assert images.shape == (2, 32, 32, 3)
    assert torch.equal(images, expected)
    if kind == "default":
        # Saturated both ways, or this test would say nothing about the clamp.
        assert images.min() == 0 and images.max() == 1
        assert ((images > 0) & (images < 1)).any()
    with torch.no_grad():
        assert torch.equal(VaeCodec(vae).decode(latents), expected)


def test_decoding_has_the_gradient_of_difference_quotients():
    vae = small_vae()
    vae.first_stage_model.decoder.conv_out.weight.mul_(0.05)  # stay inside 0..1
    vae.first_stage_model.decoder.conv_out.bias.zero_()
    vae.first_stage_model.double()
    vae.vae_dtype = torch.float64
    codec = VaeCodec(vae)
    generator = torch.Generator().manual_seed(7)
    latents = torch.randn(1, 4, 8, 8, generator=generator, dtype=torch.float64)
    direction = torch.randn(1, 4, 8, 8, generator=generator, dtype=torch.float64)
    weights = torch.randn(1, 16, 16, 3, generator=generator, dtype=torch.float64)

    def loss(z):
        return (codec.decode(z) * weights).sum()

    z = latents.clone().requires_grad_()
    images = codec.decode(z)
    assert images.min() > 0 and images.max() < 1
    (gradient,) = torch.autograd.grad((images * weights).sum(), z)
    quotient = difference_quotient(loss, latents, direction)
    assert (gradient * direction).sum().item() == pytest.approx(quotient, rel=1e-6)


def test_a_saturated_picture_can_be_pulled_back():
    vae = small_vae()
    vae.first_stage_model.decoder.conv_out.bias.fill_(100.0)  # all white, far beyond 1
    z = torch.zeros(1, 4, 8, 8, requires_grad=True)
    images = VaeCodec(vae).decode(z)
    assert (images == 1).all()
    (darker,) = torch.autograd.grad(images.sum(), z, retain_graph=True)
    (brighter,) = torch.autograd.grad(-images.sum(), z)
    assert darker.abs().max() > 0
    assert brighter.abs().max() == 0


def test_vaes_of_other_things_are_refused():
    vae = small_vae()
    with pytest.raises(SeedSelectError, match="does not fit a VAE for pictures"):
        VaeCodec(vae).decode(torch.zeros(4, 8, 8))
    vae.output_channels = 2
    with pytest.raises(SeedSelectError, match=r"vae: .* sound or solids"):
        VaeCodec(vae)
    vae.output_channels = 3
    vae.latent_dim = 1
    with pytest.raises(SeedSelectError, match=r"vae: .* sound or solids"):
        VaeCodec(vae)
    vae.first_stage_model = None
    with pytest.raises(SeedSelectError, match="Load VAE"):
        VaeCodec(vae)


def test_a_vae_for_pictures_decodes_the_first_frame_of_a_film():
    """As the host does it."""
    vae = small_vae()
    video = torch.randn(1, 4, 2, 8, 8, generator=torch.Generator().manual_seed(6))
    assert torch.equal(VaeCodec(vae).decode(video), vae.decode(video))
    assert torch.equal(VaeCodec(vae).decode(video), VaeCodec(vae).decode(video[:, :, 0]))


# open_clip


@pytest.fixture
def open_clip_file(tmp_path):
    """A tiny architecture, named to open_clip, and a file of random weights for it."""
    import open_clip

    config = {
        "embed_dim": 16,
        "vision_cfg": {
            "image_size": 32,
            "layers": 2,
            "width": 32,
            "patch_size": 8,
            "head_width": 16,
        },
        "text_cfg": {"context_length": 8, "vocab_size": 64, "width": 16, "heads": 2, "layers": 1},
    }
    (tmp_path / "tiny-ViT.json").write_text(json.dumps(config))
    open_clip.add_model_config(tmp_path)
    torch.manual_seed(0)
    model = open_clip.create_model("tiny-ViT")
    save_file(
        {k: v.contiguous() for k, v in model.state_dict().items()}, tmp_path / "w.safetensors"
    )
    torch.save(model.state_dict(), tmp_path / "w.pt")
    return model.eval(), tmp_path


@pytest.mark.parametrize("name", ["w.safetensors", "w.pt"])
def test_open_clip_embedding_is_its_own(open_clip_file, name):
    from open_clip.transform import PreprocessCfg, image_transform_v2
    from PIL import Image

    model, folder = open_clip_file
    encoder = OpenClipEncoder("tiny-ViT", folder / name)
    picture = (pictures(1, 3, 8, 10) * 255).byte()
    picture = torch.nn.functional.interpolate(picture.float(), scale_factor=8, mode="bilinear")
    picture = picture.round()[0].movedim(0, -1)  # smooth, 64 x 80
    own = image_transform_v2(PreprocessCfg(size=32), is_train=False)(
        Image.fromarray(picture.byte().numpy())
    )
    pixels = encoder.preprocess(picture[None] / 255)
    assert (pixels[0] - own).abs().max() < 0.01 / 0.26
    with torch.no_grad():
        embeddings = encoder(picture[None] / 255)
        assert torch.equal(embeddings, model.encode_image(pixels))
        torch.testing.assert_close(embeddings, model.encode_image(own[None]), atol=0.02, rtol=0.02)


def test_open_clip_has_the_gradient_of_difference_quotients(open_clip_file):
    encoder = OpenClipEncoder("tiny-ViT", open_clip_file[1] / "w.safetensors")
    encoder.model.double()
    generator = torch.Generator().manual_seed(8)
    images = 0.3 + 0.4 * torch.rand(1, 40, 48, 3, generator=generator, dtype=torch.float64)
    direction = torch.randn(1, 40, 48, 3, generator=generator, dtype=torch.float64)
    probe = torch.randn(16, generator=generator, dtype=torch.float64)
    x = images.clone().requires_grad_()
    (gradient,) = torch.autograd.grad((encoder(x) @ probe).sum(), x)
    quotient = difference_quotient(lambda v: (encoder(v) @ probe).sum(), images, direction)
    assert (gradient * direction).sum().item() == pytest.approx(quotient, rel=1e-6)


def test_open_clip_takes_published_preprocessing(tmp_path):
    import open_clip

    torch.manual_seed(0)
    cfg = open_clip.get_pretrained_cfg("ViT-B-16-SigLIP", "webli")
    assert cfg["mean"] == (0.5, 0.5, 0.5) and cfg["resize_mode"] == "squash"
    # The real architecture would be slow here: a tiny one takes its name.
    config = open_clip.get_model_config("ViT-B-16-SigLIP")
    config["vision_cfg"] = {
        "image_size": 32,
        "layers": 1,
        "width": 32,
        "patch_size": 8,
        "head_width": 16,
    }
    config["embed_dim"] = 16
    config["text_cfg"] = {
        "context_length": 8,
        "vocab_size": 64,
        "width": 16,
        "heads": 2,
        "layers": 1,
    }
    (tmp_path / "ViT-B-16-SigLIP.json").write_text(json.dumps(config))
    stock = open_clip.factory._MODEL_CONFIGS["ViT-B-16-SigLIP"]
    open_clip.add_model_config(tmp_path)
    try:
        torch.save(open_clip.create_model("ViT-B-16-SigLIP").state_dict(), tmp_path / "w.pt")
        encoder = OpenClipEncoder("ViT-B-16-SigLIP", tmp_path / "w.pt")
    finally:
        open_clip.factory._MODEL_CONFIGS["ViT-B-16-SigLIP"] = stock
    assert encoder.mean == [0.5, 0.5, 0.5] and not encoder.crop


class Malicious:
    def __reduce__(self):
        return (pytest.fail, ("code in the file was run",))


@pytest.mark.parametrize(
    ("architecture", "file", "message"),
    [
        ("tiny-ViT", "", "no file"),
        ("tiny-ViT", "laion2b_s34b_b79k", "no file"),
        ("no-such-ViT", "w.pt", "not known"),
        ("hf-hub:somebody/model", "w.pt", "not known"),
        ("roberta-ViT-B-32", "w.pt", "downloaded"),
        ("tiny-ViT", "malicious.pt", "cannot be read"),
        ("tiny-ViT", "other.safetensors", "cannot be read"),
    ],
)
def test_open_clip_refuses(open_clip_file, architecture, file, message):
    folder = open_clip_file[1]
    torch.save({"visual.proj": Malicious()}, folder / "malicious.pt")
    save_file({"weight": torch.zeros(2)}, folder / "other.safetensors")
    with pytest.raises(SeedSelectError, match=message):
        OpenClipEncoder(architecture, folder / file if "." in file else file)


def test_open_clip_missing_says_how_to_install_it(monkeypatch, tmp_path):
    monkeypatch.setitem(__import__("sys").modules, "open_clip", None)
    with pytest.raises(SeedSelectError, match="pip install open_clip_torch"):
        OpenClipEncoder("ViT-B-32", tmp_path / "w.pt")
