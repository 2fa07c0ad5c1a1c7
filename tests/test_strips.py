"""Decoders in strips of rows: the same picture, the same gradient, and less memory."""

import contextlib
import weakref
from collections.abc import Callable, Iterator
from dataclasses import replace

import comfy.ldm.modules.diffusionmodules.model as diffusion
import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from gradients.double import in_double
from gradients.encoders.vae_kind import lent, randomize_normed, saved_as_copies
from gradients.encoders.vaes import PICTURES, VIDEOS
from gradients.models import normal
from seedselect_core.likeness.vae import VaeCodec
from seedselect_core.memory.recompute import recomputed
from seedselect_core.memory.saved import Keeper, MadeWeights, storages
from seedselect_core.memory.strips import PROBE, STRIP, Strips

GIB = 2**30
KINDS = {kind.name: kind for kind in [*PICTURES, *VIDEOS]}
# A strip of so few bytes is a few rows of the widest blocks.
FEW_ROWS = 2**13
# More rows than those by which a block is examined.
HEIGHT = PROBE + 8


@contextlib.contextmanager
def rows_seen(module: torch.nn.Module) -> Iterator[set[int]]:
    """The numbers of rows that a layer was given."""
    seen: set[int] = set()
    handle = module.register_forward_pre_hook(lambda _, args: seen.add(args[0].shape[-2]))
    try:
        yield seen
    finally:
        handle.remove()


def relative_error(found: torch.Tensor, expected: torch.Tensor) -> float:
    return ((found.double() - expected.double()).norm() / expected.double().norm()).item()


# --- the host's decoders --------------------------------------------------------------------------


@pytest.mark.parametrize("name", KINDS)
@torch.inference_mode()
def test_every_decoder_of_the_host_has_the_same_picture_and_gradient(name):
    kind = KINDS[name]
    channels, height, width = kind.latent
    kind = replace(kind, latent=(channels, 2 * height, 2 * width))
    with in_double():
        vae = kind.read(torch.float64)
        latents = kind.latents(1, 1 if kind.frames else 0).double()
        codec = VaeCodec(vae)
        strips = Strips(vae.first_stage_model, strip=FEW_ROWS)

        def decoded_in_strips(z):
            with strips.cut():
                return codec.decode(z)

        with lent(vae.first_stage_model) as keeper:
            z = latents.clone().requires_grad_()
            with saved_as_copies():
                plain = codec.decode(z)
            given = normal(*plain.shape, seed=3).double()
            (expected,) = torch.autograd.grad(plain, z, given)
            images = recomputed(decoded_in_strips, z, keeper)
            (found,) = torch.autograd.grad(images, z, given)
            again = recomputed(decoded_in_strips, z, keeper)
        assert torch.equal(images, plain) and torch.equal(again, plain)
        assert relative_error(found, expected) < 1e-9
        assert not [m for m in vae.first_stage_model.modules() if "forward" in vars(m)]


def kl_decoder(dtype: torch.dtype) -> torch.nn.Module:
    """That of Stable Diffusion with 32 channels in place of 128."""
    config = {"ch": 32, "out_ch": 3, "ch_mult": [1, 2, 4, 4], "num_res_blocks": 2}
    decoder = diffusion.Decoder(
        **config, attn_resolutions=[], in_channels=3, resolution=256, z_channels=4
    )
    randomize_normed(decoder, 1)
    return decoder.to(dtype).requires_grad_(False)


def gradient_of(decode: Callable, z: torch.Tensor, keeper: Keeper) -> tuple[torch.Tensor, ...]:
    """Picture, and gradient of a sum of its values by random numbers."""
    z = z.detach().clone().requires_grad_()
    picture = recomputed(decode, z, keeper)
    given = normal(*picture.shape, seed=5).to(picture.dtype)
    return picture.detach(), torch.autograd.grad(picture, z, given)[0]


def in_strips(decoder: torch.nn.Module, strip: int = FEW_ROWS) -> Callable:
    strips = Strips(decoder, strip)

    def decode(z):
        with strips.cut():
            return decoder(z)

    return decode


def keeper_of(module: torch.nn.Module) -> Keeper:
    return Keeper(storages([module]), MadeWeights())


def test_the_backward_pass_sees_strips_only():
    decoder = kl_decoder(torch.float32)
    strips = Strips(decoder, 2**15)
    z = normal(1, 4, 5, 4).requires_grad_()
    with strips.cut():
        picture = decoder(z)
    # Nothing is made again from the last block's output, so that it never runs as a whole.
    with rows_seen(decoder.up[0].block[2].conv1) as seen:
        picture.sum().backward()
    assert seen and max(seen) <= 12  # 8 of 40 rows, and 2 on each side


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_in_every_type_the_picture_is_the_same_and_the_gradient_as_exact(dtype):
    z = normal(2, 4, 6, 4)
    exact = kl_decoder(torch.float64)
    _, truth = gradient_of(exact, z.double(), keeper_of(exact))
    decoder = kl_decoder(dtype)
    keeper = keeper_of(decoder)
    plain, whole = gradient_of(decoder, z.to(dtype), keeper)
    picture, found = gradient_of(in_strips(decoder, 2**15), z.to(dtype), keeper)
    assert torch.equal(picture, plain)
    error = relative_error(found, truth)
    print(f"{dtype}: {error:.1e} in strips, {relative_error(whole, truth):.1e} as a whole")
    assert error < 1.3 * relative_error(whole, truth)


def test_errors_and_cancel_leave_the_decoder_as_it_was():
    decoder = kl_decoder(torch.float32)
    own = decoder.up[0].block[1].forward
    decoder.up[0].block[1].forward = own  # as a node may have put there

    def fail(*_):
        raise KeyboardInterrupt

    handle = decoder.up[1].block[1].conv2.register_forward_hook(fail)
    with pytest.raises(KeyboardInterrupt):
        gradient_of(in_strips(decoder), normal(1, 4, 4, 4), keeper_of(decoder))
    handle.remove()
    changed = [m for m in decoder.modules() if "forward" in vars(m)]
    assert changed == [decoder.up[0].block[1]]
    assert decoder.up[0].block[1].forward == own


# --- blocks that are not like those ---------------------------------------------------------------


class Layers(torch.nn.Module):
    """A block of a few layers that ``compute`` puts together."""

    def __init__(self, compute: Callable):
        super().__init__()
        self.first = torch.nn.Conv2d(8, 8, 3, padding=1)
        self.second = torch.nn.Conv2d(8, 8, 3, padding=2, dilation=2)
        self.wider = torch.nn.ConvTranspose2d(8, 8, 4, stride=2, padding=1)
        self.norm = torch.nn.GroupNorm(2, 8)
        self.other = torch.nn.GroupNorm(4, 8)
        self.compute = compute

    def forward(self, x):
        return self.compute(self, x)


class Blocks(torch.nn.Module):
    """Blocks that are called one after the other."""

    def __init__(self, *computes: Callable, between: Callable = lambda x: x):
        super().__init__()
        self.blocks = torch.nn.ModuleList([Layers(compute) for compute in computes])
        self.between = between
        randomize_normed(self, 2)
        self.double().requires_grad_(False)

    def forward(self, x):
        for block in self.blocks:
            x = self.between(block(x))
        return x


def usual(block: Layers, x: torch.Tensor) -> torch.Tensor:
    return x + block.second(block.other(block.first(block.norm(x).sigmoid())).sigmoid())


def norms_beside_each_other(block: Layers, x: torch.Tensor) -> torch.Tensor:
    y = block.first(x)
    return x + block.norm(y).sigmoid() * block.second(block.other(y)).sigmoid()


def norm_without_a_layer(block: Layers, x: torch.Tensor) -> torch.Tensor:
    y = torch.nn.functional.group_norm(block.first(x), 4, eps=0.1)
    return torch.nn.functional.silu(y, inplace=True) + torch.group_norm(x, 2)


def enlarged(block: Layers, x: torch.Tensor) -> torch.Tensor:
    return block.norm(block.second(block.wider(x).tanh()))


def enlarged_smoothly(block: Layers, x: torch.Tensor) -> torch.Tensor:
    y = torch.nn.functional.interpolate(x, scale_factor=3, mode="bilinear")
    return block.first(torch.nn.functional.pad(y, (0, 0, 1, 1), mode="replicate")[..., 1:-1, :])


LOCAL = (
    usual,
    norms_beside_each_other,
    norm_without_a_layer,
    enlarged,
    enlarged_smoothly,
)


def against_plain(decoder: Blocks, strip: int = FEW_ROWS) -> float:
    """Relative error of the gradient in strips, with and without a checkpoint around."""
    z = normal(2, 8, HEIGHT, 8, seed=4).double().requires_grad_()
    given = normal(*decoder(z).shape, seed=5).double()
    (expected,) = torch.autograd.grad(decoder(z), z, given)
    decode = in_strips(decoder, strip)
    (plain,) = torch.autograd.grad(decode(z), z, given)
    (again,) = torch.autograd.grad(recomputed(decode, z, keeper_of(decoder)), z, given)
    return max(relative_error(plain, expected), relative_error(again, expected))


@pytest.mark.parametrize("compute", LOCAL)
def test_whatever_is_local_is_cut(compute):
    decoder = Blocks(compute)
    with rows_seen(decoder.blocks[0].first) as first, rows_seen(decoder.blocks[0].second) as second:
        assert against_plain(decoder) < 1e-12
    assert min(first | second) < PROBE // 2


def attention(block: Layers, x: torch.Tensor) -> torch.Tensor:
    y = block.first(x).flatten(2)
    return x + 1e-6 * (y @ (y.transpose(1, 2) @ y).softmax(-1)).view(x.shape)


def mean_of_all(block: Layers, x: torch.Tensor) -> torch.Tensor:
    return x + block.first(x).mean((2, 3), keepdim=True)


def turned_over(block: Layers, x: torch.Tensor) -> torch.Tensor:
    return x + block.first(x).flip(2)


def shrunk(block: Layers, x: torch.Tensor) -> torch.Tensor:
    return torch.nn.functional.avg_pool2d(block.first(x), 2)


@pytest.mark.parametrize("compute", [attention, mean_of_all, turned_over, shrunk])
def test_what_looks_at_all_rows_is_differentiated_as_a_whole(compute):
    decoder = Blocks(usual, compute)
    assert against_plain(decoder) < 1e-12
    z = normal(1, 8, HEIGHT, 8).double().requires_grad_()
    decode = in_strips(decoder)
    made = decode(z)
    with rows_seen(decoder.blocks[1].first) as seen:
        made.sum().backward()
    assert seen == {HEIGHT}


def remembered(block: Layers, x: torch.Tensor) -> torch.Tensor:
    before = getattr(block, "before", 0.0)
    block.before = block.first(x)
    return x + before


def counted(block: Layers, x: torch.Tensor) -> torch.Tensor:
    calls = vars(block).setdefault("calls", {"times": 0})
    calls["times"] += 1
    return block.first(x) * (1 + calls["times"] % 2)


def overwritten(block: Layers, x: torch.Tensor) -> torch.Tensor:
    return block.first(x.mul_(2.0))


def of_one_size(block: Layers, x: torch.Tensor) -> torch.Tensor:
    rows = torch.arange(HEIGHT, dtype=x.dtype)[:, None]
    return block.first(x) * rows


def passed_on(block: Layers, x: torch.Tensor) -> torch.Tensor:
    return x.view(x.shape)


@pytest.mark.parametrize("compute", [remembered, counted, overwritten, of_one_size, passed_on])
def test_what_cannot_be_called_again_is_left_alone(compute):
    decoder = Blocks(usual, compute)
    z = normal(1, 8, HEIGHT, 8).double().requires_grad_()

    def picture_and_gradient(decode):
        for name in ("before", "calls"):
            vars(decoder.blocks[1]).pop(name, None)
        with saved_as_copies():
            made = [decode(z), decode(z)]
        return made[1], torch.autograd.grad(made[0].sum() + made[1].square().sum(), z)[0]

    plain, expected = picture_and_gradient(decoder)
    made, found = picture_and_gradient(in_strips(decoder))
    assert torch.equal(made, plain)
    assert relative_error(found, expected) < 1e-12


def test_what_a_block_leaves_behind_keeps_its_gradient():
    def noted(block, x):
        block.noted = block.first(x)
        return x + block.noted

    decoder = Blocks(usual, noted)
    z = normal(1, 8, HEIGHT, 8).double().requires_grad_()
    gradients = []
    for decode in (decoder, in_strips(decoder)):
        made = decode(z)
        left = decoder.blocks[1].noted
        gradients += torch.autograd.grad(made.square().sum() + left.square().sum(), z)
    assert relative_error(gradients[1], gradients[0]) < 1e-12


class Twice(TorchFunctionMode):
    """Sigmoids are twice as large."""

    def __torch_function__(self, function, types, args=(), kwargs=None):
        made = function(*args, **(kwargs or {}))
        return 2.0 * made if function is torch.Tensor.sigmoid else made


def test_the_backward_pass_runs_under_the_modes_of_the_forward_pass():
    decoder = Blocks(usual, usual)
    z = normal(1, 8, HEIGHT, 8).double().requires_grad_()
    gradients = []
    for decode in (decoder, in_strips(decoder)):
        with Twice():
            made = decode(z)
        gradients += torch.autograd.grad(made, z, torch.ones_like(made))
    assert relative_error(gradients[1], gradients[0]) < 1e-12


def test_random_numbers_are_drawn_as_without_strips():
    decoder = Blocks(usual, lambda block, x: block.first(x) * torch.rand_like(x))
    z = normal(1, 8, HEIGHT, 8).double().requires_grad_()
    results = []
    for decode in (decoder, in_strips(decoder)):
        torch.manual_seed(0)
        made = decode(z)
        results.append((made.detach(), *torch.autograd.grad(made.square().sum(), z)))
    assert torch.equal(results[0][0], results[1][0])
    assert relative_error(results[1][1], results[0][1]) < 1e-12


@pytest.mark.parametrize("between", [lambda x: x, lambda x: x.mul_(2.0), lambda x: x.tanh()])
def test_inputs_are_made_again_from_what_was_before_them(between):
    decoder = Blocks(usual, enlarged, usual, usual, usual, usual, usual, between=between)
    assert against_plain(decoder) < 1e-12


def test_a_block_given_more_than_one_tensor_is_left_alone():
    decoder = Blocks(usual)
    x = normal(1, 8, HEIGHT, 8).double().requires_grad_()
    block = decoder.blocks[0]
    block.forward = lambda x, scale=None: usual(block, x) * (1.0 if scale is None else scale)
    scale = torch.tensor(2.0, dtype=torch.float64, requires_grad=True)
    with Strips(decoder, FEW_ROWS).cut():
        cut = block(x)
        alone = block(x, scale)
    assert torch.autograd.grad(alone.sum(), scale)[0] == cut.sum()
    assert "MadeAgain" in cut.grad_fn.name() and "MadeAgain" not in alone.grad_fn.name()


# --- memory ---------------------------------------------------------------------------------------


class Live(TorchDispatchMode):
    """Bytes of the storages that came to life in here and are alive, now and at most.

    Args:
        weights: their storages are not counted.
    """

    def __init__(self, weights: set[int]):
        super().__init__()
        self.now = 0
        self.most = 0
        self._weights = weights
        self._known: set[int] = set()

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        made = function(*args, **(kwargs or {}))
        for tensor in tree_leaves(made):
            if isinstance(tensor, torch.Tensor):
                self._count(tensor.untyped_storage())
        return made

    def _count(self, storage: torch.UntypedStorage) -> None:
        key = storage._cdata
        if key in self._known or key in self._weights:
            return
        self._known.add(key)
        self.now += storage.nbytes()
        self.most = max(self.most, self.now)
        weakref.finalize(storage, self._gone, key, storage.nbytes())

    def _gone(self, key: int, size: int) -> None:
        self._known.discard(key)
        self.now -= size


def full_decoder() -> torch.nn.Module:
    """That of Stable Diffusion, SDXL and (with more channels of the latent) Flux."""
    config = {"ch": 128, "out_ch": 3, "ch_mult": [1, 2, 4, 4], "num_res_blocks": 2}
    decoder = diffusion.Decoder(
        **config, attn_resolutions=[], in_channels=3, resolution=256, z_channels=4
    )
    # As the host does where PyTorch's attention is chosen, which is what it does on a GPU.
    decoder.mid.attn_1.optimized_attention = diffusion.pytorch_attention
    return decoder.requires_grad_(False)


def peak(dtype: torch.dtype, pixels: int, decoding: Callable) -> float:
    """GiB that are alive at the worst moment of a picture and its gradient; nothing is computed."""
    with FakeTensorMode():
        decoder = full_decoder()
        for parameter in decoder.parameters():
            parameter.data = parameter.data.to(dtype)
        keeper = keeper_of(decoder)
        decode = decoding(decoder)
        with Live(keeper.weights) as live:
            z = torch.empty(1, 4, pixels // 8, pixels // 8, dtype=dtype, requires_grad=True)
            picture = recomputed(decode, z, keeper)
            torch.autograd.grad(picture, z, torch.empty_like(picture))
    return live.most / GIB


@pytest.mark.parametrize(
    ("dtype", "pixels", "most"),
    [(torch.bfloat16, 1024, 2.5), (torch.float32, 1024, 4.0), (torch.bfloat16, 2048, 8.0)],
)
def test_a_large_picture_needs_little_memory(dtype, pixels, most):
    found = peak(dtype, pixels, lambda decoder: in_strips(decoder, STRIP))
    print(f"{dtype}, {pixels} pixels: {found:.2f} GiB")
    assert found < most
