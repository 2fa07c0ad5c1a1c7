"""Latents with a dimension of frames, [B, C, T, h, w], through the whole method.

Image models have them too: Qwen-Image, Cosmos Predict 2 and Anima with T = 1. Of a video the first
frame is the picture.
"""

import pytest
import torch
from comfy.ldm.modules.temporal_ae import VideoDecoder
from comfy.taesd.taehv import TAEHV

import tiny
from gradients.encoders.vae_kind import lent
from gradients.encoders.vaes import PICTURES, VIDEOS
from gradients.families.wan import SIZES, TEXT
from gradients.models import detected, normal
from gradients.wiring import conditioning
from seedselect_core.chain.sampling import sample_from_seed
from seedselect_core.errors import SeedSelectError
from seedselect_core.host.decoder import attached_memory, fixed_rng
from seedselect_core.likeness.losses import appearance_loss
from seedselect_core.likeness.vae import VaeCodec, host_pictures
from seedselect_core.search.optimize import optimize_seed
from seedselect_core.search.scene import Callbacks
from seedselect_core.seeds.seed import load_seed


def kind(name: str):
    return next(kind for kind in PICTURES + VIDEOS if kind.name.startswith(name))


def video_graph(frames: int, batch: int = 1) -> tiny.Graph:
    """A tiny Wan model with a tiny Wan VAE; pictures of 32 x 16."""
    with torch.inference_mode():
        texts = [conditioning(5, TEXT, seed) for seed in (1, 2)]
        latent = {"samples": torch.zeros(batch, 16, frames, 2, 4)}
    return tiny.Graph(
        model=detected("WAN21_T2V", SIZES),
        positive=texts[0],
        negative=texts[1],
        vae=kind("Wan 2.1").read(torch.float32),
        latent=latent,
    )


@pytest.mark.parametrize(("frames", "batch"), [(1, 2), (2, 1)])
@torch.inference_mode()
def test_the_whole_method(frames, batch, tmp_path):
    graph = video_graph(frames, batch)
    settings = tiny.settings(appearance_weight=0.5, step_weights=(0.3, 0.7), shell="channels")
    seen = []
    seed, latent, history = optimize_seed(
        graph.scene(),
        tiny.SAMPLING,
        settings,
        callbacks=Callbacks(progress=lambda progress: seen.append(progress.best)),
    )
    assert seed.noise.shape == latent["samples"].shape == (batch, 16, frames, 2, 4)
    assert seed.latent_format == "Wan21"
    assert seen[-1].images.shape == (batch, 16, 32, 3)
    # Three evaluated noises, of which the first is the unoptimized one; each changes the losses.
    assert len({tuple(row) for row in history.total}) == 3
    assert all(value > 0 for row in history.appearance for value in row)
    seed.save(tmp_path / "s.safetensors")
    again = load_seed(tmp_path / "s.safetensors")
    assert torch.equal(again.noise, seed.noise)
    drawn = sample_from_seed(graph.model, graph.positive, graph.negative, again)["samples"]
    assert torch.equal(drawn, latent["samples"])
    # Pictures of a batch are decoded one by one while searching.
    torch.testing.assert_close(host_pictures(graph.vae, drawn), seen[-1].images)


@torch.inference_mode()
def test_a_picture_is_encoded_as_a_video_of_one_frame():
    vae = kind("Wan 2.1").read(torch.float32)
    pictures = normal(3, 16, 32, 3, seed=1).sigmoid()
    latents = VaeCodec(vae).encode(pictures)
    assert latents.shape == (3, 16, 1, 2, 4) and not latents.is_inference()
    # The host takes a batch for the frames of one video, so they have to be given one by one.
    assert torch.equal(latents[1:2], vae.encode(pictures[1:2]))
    assert vae.encode(pictures).shape[0] == 1


@pytest.mark.parametrize(("name", "causal"), [("Wan 2.1", True), ("LTX Video 0.9", False)])
def test_frames_that_the_first_does_not_depend_on_are_decoded_without_gradient(
    name, causal, monkeypatch
):
    vae = kind(name).read(torch.float32)
    latents = kind(name).latents(1, 3).requires_grad_()
    codec = VaeCodec(vae)
    with lent(vae.first_stage_model):
        codec.decode(latents)  # finds out
        frames = []
        decode = vae.first_stage_model.decode

        def recorded(z):
            frames.append((z.shape[2], torch.is_grad_enabled()))
            return decode(z)

        monkeypatch.setattr(vae.first_stage_model, "decode", recorded)
        images = codec.decode(latents)
        assert frames == ([(3, False), (1, True)] if causal else [(3, True)])
        (gradient,) = torch.autograd.grad(images.sum(), latents)
    assert gradient[:, :, 0].any() and gradient[:, :, 1].any() != causal


def test_only_the_first_frame_has_an_appearance():
    video = normal(2, 4, 3, 2, 2, seed=1)
    target = normal(4, 1, 2, 2, seed=2)
    picture = video[:, :, :1]
    expected = (picture - target).square().flatten(1).mean(1)
    assert torch.equal(appearance_loss(video, target), expected)
    assert torch.equal(appearance_loss(picture, target), expected)


@torch.inference_mode()
def test_a_vae_that_blends_a_batch_is_refused():
    vae = kind("Stable Video").read(torch.float32)
    assert isinstance(vae.first_stage_model.decoder, VideoDecoder)
    codec = VaeCodec(vae)
    assert codec.decode(torch.zeros(1, 4, 2, 2)).shape == (1, 16, 16, 3)
    with pytest.raises(SeedSelectError, match=r"latent: .* batch"):
        codec.decode(torch.zeros(2, 4, 2, 2))


@torch.inference_mode()
def test_a_latent_of_a_picture_does_not_fit_a_vae_for_videos():
    with pytest.raises(SeedSelectError, match="does not fit a VAE for video"):
        VaeCodec(kind("Wan 2.1").read(torch.float32)).decode(torch.zeros(1, 16, 2, 2))


# A VAE of the host's that keeps features of one frame for the next, without its weights.
REMEMBERS = TAEHV.__new__(TAEHV)


def test_memory_stays_attached_only_inside():
    x = torch.ones(2, requires_grad=True)
    with attached_memory(torch.nn.Identity()):
        assert not x.detach().requires_grad
    with attached_memory(REMEMBERS):
        assert x.detach().requires_grad
        with torch.no_grad():
            assert not (x * 2).requires_grad
    assert not x.detach().requires_grad
    with pytest.raises(ValueError, match="stop"), attached_memory(REMEMBERS):
        raise ValueError("stop")
    assert not x.detach().requires_grad


def test_noise_of_decoders_is_the_same_and_leaves_no_trace():
    torch.manual_seed(5)
    following = torch.rand(3)
    torch.manual_seed(5)
    drawn = []
    for _ in range(2):
        with fixed_rng(torch.nn.Identity(), torch.device("cpu")):
            drawn.append(torch.rand(3))
    assert torch.equal(*drawn)
    assert torch.equal(torch.rand(3), following)


def test_noise_is_fixed_for_decoders_that_may_draw_it_alone():
    torch.manual_seed(5)
    with fixed_rng(REMEMBERS, torch.device("cpu")):
        drawn = torch.rand(3)
    assert not torch.equal(torch.rand(3), drawn)
