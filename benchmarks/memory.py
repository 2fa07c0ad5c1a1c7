"""Which card holds which model? What a run needs in memory, at full size and at every level.

python3 scripts/host.py bench memory [--only PART_OF_A_NAME ...] [--no-check]

The pack's own chain and objective run on the meta device of PyTorch, whose tensors have shapes and
types and no numbers: forward, recomputation and backward, through the host's own classes. Every
storage that comes to life is counted, so that the peak is what a card has to hold beside the
weights. Writes ``results/memory.json`` and docs/memory.md.

It ends with a check on real numbers: the UNet and the decoder of Stable Diffusion 1.5, with random
weights, are run on the CPU, and the peak of that process stands beside the prediction.
"""

import argparse
import contextlib
import functools
import gc
import json
import multiprocessing
import os
import subprocess
import sys
import weakref
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor

from pocket_world import RESULTS

# isort: split

import comfy.model_management
import comfy.samplers
import psutil
import torch
import torch.nn.functional as F
from torch.overrides import handle_torch_function, has_torch_function
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_flatten, tree_leaves, tree_unflatten

from memory_models import (
    BF16,
    ENCODERS,
    F16,
    F32,
    MODELS,
    SD15_IN_FULL,
    Diffusion,
    build_encoder,
    build_vae,
    vae_latent,
)
from memory_page import goals, write_page
from quality import commit_now
from seedselect_core.chain.unroll import Chain, Denoising, unrolled_sampling
from seedselect_core.host.needs import exchanged
from seedselect_core.likeness.comparison import Comparison
from seedselect_core.likeness.encoders import ClipVisionEncoder
from seedselect_core.likeness.objective import Objective
from seedselect_core.likeness.targets import Targets
from seedselect_core.likeness.vae import VaeCodec
from seedselect_core.likeness.views import apply_views, draw_views
from seedselect_core.likeness.weights import LossWeights
from seedselect_core.memory.levels import KEPT, LEVELS, NONE, WHOLE, Level
from seedselect_core.memory.plan import MARGIN, Plan
from seedselect_core.memory.recompute import recomputed
from seedselect_core.memory.strips import Strips

TABLE = RESULTS / "memory.json"
META = torch.device("meta")
CPU = torch.device("cpu")
aten = torch.ops.aten

ENCODER = "ViT-H/14"  # by which the pictures of every model are compared
VIEWS = 2
# Those that take a gradient and keep no call whole, from fast to small.
SHOWN = [level for level in LEVELS if level not in (KEPT, NONE)]
WAYS = {"whole": False, "in strips": True}
DECODERS = (
    *[
        (kind, dtype, pixels)
        for kind in ("SD", "Flux")
        for dtype in (BF16, F32)
        for pixels in (1024, 2048)
    ],
    ("Flux.2", BF16, 1024),
    ("Qwen", BF16, 1328),
    ("HunyuanImage", BF16, 2048),
    ("TAESD", BF16, 1024),
)


# ---------------------------------------------------------------- tensors without numbers


class NoNumbers(TorchDispatchMode):
    """Answers what is asked of numbers that are not there: yes, or one.

    Where tensors of the meta device are moved to main memory, they get memory there that nobody
    writes to. What shapes an operation gives is asked once: PyTorch takes long to find out.
    """

    def __init__(self):
        super().__init__()
        self._known: dict[tuple, tuple | None] = {}

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        if not (args and isinstance(args[0], torch.Tensor) and args[0].is_meta):
            return function(*args, **kwargs)
        if function is aten.equal.default:
            return True
        if function is aten._local_scalar_dense.default:
            return torch.ones((), dtype=args[0].dtype).item()
        if function is aten._to_copy.default and kwargs.get("device") == CPU:
            return torch.empty(args[0].shape, dtype=kwargs.get("dtype") or args[0].dtype)
        if function._schema.is_mutable or any(r.alias_info for r in function._schema.returns):
            return function(*args, **kwargs)
        return self._asked_once(function, args, kwargs)

    def _asked_once(self, function, args: tuple, kwargs: dict):
        leaves, structure = tree_flatten((args, kwargs))
        key = (function, structure, *map(_kind, leaves))
        if self._known.get(key) is not None:
            kinds, structure = self._known[key]
            return tree_unflatten([_like(kind) for kind in kinds], structure)
        output = function(*args, **kwargs)
        if key not in self._known:
            leaves, structure = tree_flatten(output)
            here = all(leaf is None or getattr(leaf, "is_meta", False) for leaf in leaves)
            self._known[key] = ([_kind(leaf) for leaf in leaves], structure) if here else None
        return output


def _kind(value):
    """All that a tensor without numbers is; of anything else the value, and its type."""
    if isinstance(value, torch.Tensor):
        return (value.shape, value.stride(), value.dtype, value.device)
    return (type(value), value)


def _like(kind: tuple) -> torch.Tensor | None:
    if kind == _kind(None):
        return None
    shape, stride, dtype, device = kind
    return torch.empty_strided(shape, stride, dtype=dtype, device=device)


class Alive(TorchDispatchMode):
    """Counts the storages that come to life in here and are alive, in bytes.

    Args:
        device: whose memory counts.
        weights: storages that do not count, as `storages` names them.

    Attributes:
        peak: most bytes on the device at a time.
        away: most bytes in main memory at a time, where that is another.
    """

    def __init__(self, device: torch.device, weights: set[int]):
        super().__init__()
        self.peak = 0
        self.away = 0
        self._device = device
        self._weights = weights
        self._alive: dict[int, weakref.ref] = {}
        self._now = {"here": 0, "away": 0}

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        output = function(*args, **(kwargs or {}))
        for tensor in tree_leaves(output):
            if isinstance(tensor, torch.Tensor):
                self._count(tensor)
        return output

    def _count(self, tensor: torch.Tensor) -> None:
        storage = tensor.untyped_storage()
        key = storage._cdata
        if key in self._alive or key in self._weights:
            return
        place = "here" if tensor.device == self._device else "away"
        size = storage.nbytes()
        self._now[place] += size
        self.peak = max(self.peak, self._now["here"])
        self.away = max(self.away, self._now["away"])

        def died(_) -> None:
            del self._alive[key]
            self._now[place] -= size

        self._alive[key] = weakref.ref(storage, died)


# ---------------------------------------------------------------- kernels as on a card


def seen_by_modes(function: Callable) -> Callable:
    """``function`` in the place of PyTorch's own, which its function modes are told of."""

    @functools.wraps(function)
    def torch_function(*args, **kwargs):
        if has_torch_function(args):
            return handle_torch_function(torch_function, args, *args, **kwargs)
        return function(*args, **kwargs)

    return torch_function


def _on_a_card(before: Callable) -> Callable:
    """Flash attention where PyTorch has it, else the memory-efficient one."""

    @seen_by_modes
    def scaled_dot_product_attention(q, k, v, attn_mask=None, dropout_p=0.0, is_causal=False, **_):
        heads = q.shape[1]
        if k.shape[1] != heads:
            k, v = (x.repeat_interleave(heads // x.shape[1], 1) for x in (k, v))
        width = q.shape[-1]
        if q.dtype in (F16, BF16) and attn_mask is None and width <= 256:
            q, k, v = (F.pad(x, (0, -width % 8)) if width % 8 else x for x in (q, k, v))
            attend = aten._scaled_dot_product_flash_attention
            return attend(q, k, v, 0.0, is_causal)[0][..., :width]
        if attn_mask is not None:
            if attn_mask.dtype == torch.bool:
                attn_mask = torch.zeros_like(attn_mask, dtype=q.dtype)
            attn_mask = attn_mask.expand(*q.shape[:3], k.shape[2])
        attend = aten._scaled_dot_product_efficient_attention
        return attend(q, k, v, attn_mask, True, 0.0, is_causal)[0]

    return scaled_dot_product_attention


def _on_the_cpu(before: Callable) -> Callable:
    @seen_by_modes
    def scaled_dot_product_attention(q, k, v, attn_mask=None, dropout_p=0.0, is_causal=False, **_):
        attend = aten._scaled_dot_product_flash_attention_for_cpu
        return attend(q, k, v, 0.0, is_causal, attn_mask=attn_mask)[0]

    return scaled_dot_product_attention


class _FusedNorm(torch.autograd.Function):
    """Root mean square norm that keeps its input and one number a row, as the kernel of a card."""

    @staticmethod
    def forward(ctx, x, dimensions):
        rows = x.shape[: x.ndim - dimensions]
        ctx.save_for_backward(x, x.new_empty(rows, dtype=F32))
        return torch.empty_like(x)

    @staticmethod
    def backward(ctx, gradient):
        x, _ = ctx.saved_tensors
        return torch.empty_like(x), None


def _fused(before: Callable) -> Callable:
    @seen_by_modes
    def rms_norm(x, shape, weight=None, eps=None):
        return _FusedNorm.apply(x, len(shape))

    return rms_norm


@contextlib.contextmanager
def without_numbers(card: bool = True) -> Iterator[None]:
    """What runs in here runs on the meta device with the kernels of a card, or of the CPU.

    The two differ in what attention and the root mean square norm keep for the backward pass.
    """
    attention = _on_a_card if card else _on_the_cpu
    with contextlib.ExitStack() as stack:
        enter = stack.enter_context
        enter(exchanged(F, "scaled_dot_product_attention", attention))
        if card:
            enter(exchanged(F, "rms_norm", _fused))
        enter(exchanged(comfy.model_management, "get_free_memory", lambda before: _plenty))
        enter(NoNumbers())
        yield


def _plenty(device=None, torch_free_too=False):
    return (2**50, 2**50) if torch_free_too else 2**50


# ---------------------------------------------------------------- what is measured


def one_call(chain: Chain, noise: torch.Tensor, level: Level) -> None:
    """The gradient of one call of the model."""
    chain.plan = Plan(level, 1, strips=False)
    z = noise.detach().clone().requires_grad_()
    (end,) = chain(z)
    torch.autograd.grad(end, z, torch.ones_like(end))


def one_decoding(chain: Chain, codec: VaeCodec, latent: torch.Tensor, strips: bool) -> None:
    """The gradient of one decoded picture."""
    cut = Strips(codec.vae.first_stage_model).cut if strips else contextlib.nullcontext

    def decode(z):
        with cut():
            return codec.decode(z)

    z = latent.detach().clone().requires_grad_()
    images = recomputed(decode, z, chain.keeper)
    torch.autograd.grad(images, z, torch.ones_like(images))


def one_comparison(chain: Chain, objective: Objective, latent: torch.Tensor, strips: bool) -> None:
    """The gradient of the loss of one picture: decoded, seen by the encoder, compared."""
    z = latent.detach().clone().requires_grad_()
    losses = objective(z, [z], keeper=chain.keeper, plan=Plan(WHOLE, 1, strips))
    torch.autograd.grad(losses.total.sum(), z)


def one_encoding(chain: Chain, encoder: ClipVisionEncoder, images: torch.Tensor) -> None:
    """The gradient of what the encoder sees in a picture."""
    images = images.detach().clone().requires_grad_()
    views = draw_views(VIEWS)
    seen = recomputed(lambda x: encoder(apply_views(x, views)), images, chain.keeper)
    torch.autograd.grad(seen, images, torch.ones_like(seen))


def peak_of(chain: Chain, device: torch.device, work: Callable[[], None]) -> Alive:
    """``work``, counted, in the state that the chain is in."""
    gc.collect()
    with Alive(device, chain.keeper.weights) as alive:
        work()
    return alive


def in_chain(spec: Diffusion, device: torch.device, search: Callable, patchers=()) -> None:
    """``search``, with a chain of one denoising step of a model on ``device``."""
    noise = torch.ones(spec.latent, device=device)
    denoising = Denoising(
        spec.guider(spec.build(device), device),
        comfy.samplers.ksampler("euler"),
        torch.tensor([1.0, 0.0]),
    )
    unrolled_sampling(denoising, noise, torch.zeros_like(noise), search, patchers=patchers, seed=0)


def bytes_of(*patchers) -> int:
    return sum(patcher.model_size() for patcher in patchers)


def largest_layer(model: torch.nn.Module) -> int:
    """Bytes of the largest weight, in the type that is computed in."""
    return max(weight.numel() for weight in model.parameters()) * BF16.itemsize


def model_row(name: str) -> dict:
    """What the calls of a model need at every level."""
    spec = next(spec for spec in MODELS if spec.name == name)
    row = {"name": name, "pixels": spec.pixels, "guided": spec.guided, "vae": spec.vae}

    def search(chain: Chain, noise: torch.Tensor) -> torch.Tensor:
        model = chain.guider.model_patcher
        row["weights"] = bytes_of(model)
        row["largest layer"] = largest_layer(model.model)
        row["transformer"] = not hasattr(model.model.diffusion_model, "input_blocks")
        row["levels"] = {}
        for level in SHOWN:
            if level.parts == "prompts" and not spec.guided:
                continue
            # The first time it is learnt what is overwritten; either may need more.
            found = [
                peak_of(chain, META, lambda level=level: one_call(chain, noise, level))
                for _ in range(2)
            ]
            row["levels"][level.name] = {
                "device": max(alive.peak for alive in found),
                "main memory": max(alive.away for alive in found),
            }
        return noise

    in_chain(spec, META, search)
    return row


def picture_row(kind: str, pixels: int) -> dict:
    """What it takes to decode a picture and compare it with the references."""
    vae = build_vae(kind, BF16, META)
    clip = build_encoder(ENCODER, META)
    codec = VaeCodec(vae)
    row = {"name": kind, "pixels": pixels, "weights": bytes_of(vae.patcher, clip.patcher)}
    latent = torch.ones(vae_latent(kind, pixels), device=META)

    def search(chain: Chain, noise: torch.Tensor) -> torch.Tensor:
        objective = objective_of(clip, codec, latent)
        for way, strips in WAYS.items():
            work = functools.partial(one_comparison, chain, objective, latent, strips)
            row[way] = peak_of(chain, META, work).peak
        return noise

    in_chain(MODELS[0], META, search, (vae.patcher, clip.patcher))
    return row


def objective_of(clip, codec: VaeCodec, latent: torch.Tensor) -> Objective:
    """The loss of pictures like ``latent``, whose references are without numbers as well."""
    aim = torch.ones(1, clip.config["projection_dim"], device=latent.device)
    layout = torch.ones_like(latent[0])
    comparison = Comparison(ClipVisionEncoder(clip), draw_views(VIEWS), aim, aim, spread=1.0)
    targets = Targets((comparison,), layout[None], layout)
    # In the place of the latent format, which only scales.
    return Objective(codec, targets, LossWeights(), torch.clone)


def decoder_row(kind: str, dtype: torch.dtype, pixels: int) -> dict:
    """What it takes to decode one picture."""
    vae = build_vae(kind, dtype, META)
    codec = VaeCodec(vae)
    row = {"name": kind, "type": str(dtype).removeprefix("torch."), "pixels": pixels}
    row["weights"] = bytes_of(vae.patcher)
    latent = torch.ones(vae_latent(kind, pixels), device=META)

    def search(chain: Chain, noise: torch.Tensor) -> torch.Tensor:
        for way, strips in WAYS.items():
            work = functools.partial(one_decoding, chain, codec, latent, strips)
            row[way] = peak_of(chain, META, work).peak
        return noise

    in_chain(MODELS[0], META, search, (vae.patcher,))
    return row


def encoder_row(kind: str) -> dict:
    """What an image encoder needs for two views of a picture of 1024 x 1024 pixels."""
    clip = build_encoder(kind, META)
    encoder = ClipVisionEncoder(clip)
    images = torch.ones(1, 1024, 1024, 3, device=META)
    row = {"name": kind, "weights": bytes_of(clip.patcher)}

    def search(chain: Chain, noise: torch.Tensor) -> torch.Tensor:
        row["device"] = peak_of(chain, META, lambda: one_encoding(chain, encoder, images)).peak
        return noise

    in_chain(MODELS[0], META, search, (clip.patcher,))
    return row


# ---------------------------------------------------------------- the check on real numbers

# Of the CPU, whose main memory is the device's.
CHECKED = {
    "model": [level.name for level in SHOWN if not level.away],
    "decoder": list(WAYS),
}
# glibc gives back what is freed, so that the process is as large as what it holds.
GLIBC = {"MALLOC_MMAP_THRESHOLD_": "131072", "MALLOC_TRIM_THRESHOLD_": "131072"}


def checked_part(part: str, way: str, device: torch.device) -> dict:
    """The UNet at a level, or the decoder in a way, of SD 1.5 at 512 x 512 in float32."""
    vae = build_vae(SD15_IN_FULL.vae, F32, device)
    row = {}

    def search(chain: Chain, noise: torch.Tensor) -> torch.Tensor:
        if part == "model":
            module = chain.guider.inner_model
            level = next(level for level in SHOWN if level.name == way)
            work = functools.partial(one_call, chain, noise, level)
        else:
            module = vae.first_stage_model
            work = functools.partial(one_decoding, chain, VaeCodec(vae), noise, WAYS[way])
        fill(module)
        row["before"] = psutil.Process().memory_info().rss
        row["counted"] = peak_of(chain, device, work).peak
        row["peak"] = largest_size()
        return noise

    in_chain(SD15_IN_FULL, device, search, (vae.patcher,))
    return row


def largest_size() -> int:
    """The most bytes of main memory that this process has held."""
    if sys.platform == "win32":
        return psutil.Process().memory_info().peak_wset
    import resource

    # In KiB, or on a Mac in bytes.
    kilo = 1 if sys.platform == "darwin" else 2**10
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * kilo


def fill(module: torch.nn.Module) -> None:
    """Random weights that keep activations of a size."""
    for weight in module.parameters():
        width = weight[0].numel() ** -0.5 if weight.ndim > 1 else 0.1
        weight.normal_(std=width)


def check_row(part: str, way: str) -> dict:
    """What is predicted of a part, and what a process that runs it holds."""
    with without_numbers(card=False):
        predicted = checked_part(part, way, META)["counted"]
    command = [sys.executable, __file__, "--run", part, way]
    done = subprocess.run(
        command, env=os.environ | GLIBC, stdout=subprocess.PIPE, text=True, check=True
    )
    found = json.loads(done.stdout.splitlines()[-1])
    return {
        "part": part,
        "way": way,
        "predicted": predicted,
        "counted": found["counted"],
        "before": found["before"],
        "measured": found["peak"] - found["before"],
    }


# ---------------------------------------------------------------- the table


MAKERS = {
    "models": model_row,
    "pictures": picture_row,
    "decoders": decoder_row,
    "encoders": encoder_row,
}


def cases() -> list[tuple]:
    """Section and arguments of every row."""
    pictures = dict.fromkeys((spec.vae, spec.pixels) for spec in MODELS)
    return [
        *(("models", spec.name) for spec in MODELS),
        *(("pictures", *picture) for picture in pictures),
        *(("decoders", *decoder) for decoder in DECODERS),
        *(("encoders", encoder) for encoder in ENCODERS),
    ]


def made_row(case: tuple) -> dict:
    """The row of one of `cases`."""
    section, *arguments = case
    with without_numbers():
        return MAKERS[section](*arguments)


def all_rows(parts: list[str], jobs: int) -> dict[str, list[dict]]:
    """The rows of which a name holds one of ``parts``, by section; all without any."""
    wanted = [
        case
        for case in cases()
        if not parts or any(part.lower() in f"{case[0]} {case[1]}".lower() for part in parts)
    ]
    table = {section: [] for section in MAKERS}
    # Spawned: a fork of a process that has run PyTorch's threads may wait for them forever.
    with ProcessPoolExecutor(jobs, multiprocessing.get_context("spawn")) as pool:
        for case, row in zip(wanted, pool.map(made_row, wanted), strict=True):
            table[case[0]].append(told(row))
    return table


def told(row: dict) -> dict:
    print(json.dumps(row), flush=True)
    return row


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--only", nargs="*", default=[], help="parts of names; writes nothing")
    parser.add_argument("--no-check", action="store_true", help="without the run on real numbers")
    parser.add_argument("--jobs", type=int, default=os.cpu_count())
    parser.add_argument("--run", nargs=2, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.run:
        print(json.dumps(checked_part(*args.run, CPU)))
        return
    table = all_rows(args.only, args.jobs)
    if args.only:
        return
    table["check"] = []
    if not args.no_check:
        table["check"] = [told(check_row(part, way)) for part in CHECKED for way in CHECKED[part]]
    table["margin"] = MARGIN
    table["commit"] = commit_now()
    table["torch"] = torch.__version__
    table["goals"] = goals(table)
    TABLE.write_text(json.dumps(table, indent=1) + "\n", encoding="utf-8")
    write_page(table)
    for goal in table["goals"]:
        print(("met     " if goal["met"] else "MISSED  ") + goal["goal"] + ": " + goal["found"])


if __name__ == "__main__":
    main()
