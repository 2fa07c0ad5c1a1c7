"""What does an exact gradient cost in time and memory? Everything as ratios, measured in one run.

python3 scripts/host.py bench speed [--only SECTION ...] [--steps N ...] [--rounds 3] [--threads 2]

Weights are random, of the host's own classes, in float32 on the CPU. One iteration is one gradient
of the noise through the whole chain ("ddim", both prompts in a call) and a step of AdamW. The sides
of a comparison take turns, each warmed up first, and a ratio is that of each turn: the median is
told, and the smallest and largest. Sections:

calls            beside the bare calls that an iteration consists of: n without a gradient, and n
                 recorded and differentiated, of the host's guider
batch            a batch of seeds in parts, beside all at a time
published        beside the algorithm as its authors run it (`published.py`), on a UNet of
                 Stable Diffusion's kind with one thread, at 5 to 50 steps
published-full   the same on the UNet and VAE of Stable Diffusion 1.5 in full, at 5 steps; takes
                 long, and only runs when it is asked for

Memory is what is alive at the worst moment of an iteration beside the weights, in bytes of tensors,
counted in runs of their own. Writes ``results/speed.json``, unless only some sections are run.
"""

import argparse
import cProfile
import json
import os
import platform
import pstats
import statistics
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any

from pocket_world import REPO, RESULTS

# isort: split

import comfy.clip_vision
import comfy.model_base
import comfy.model_patcher
import comfy.samplers
import comfy.sd
import comfy.supported_models
import torch
from comfy.ldm.models.autoencoder import AutoencoderKL

from memory_models import KL, SD1
from published import (
    APPEARANCE_WEIGHT,
    LEARNING_RATE,
    SEMANTIC_WEIGHT,
    STEP_WEIGHTS,
    Comparison,
    Published,
    Schedule,
    checkpointed_blocks,
)
from quality import commit_now
from seedselect_core.chain.unroll import Chain, Denoising, unrolled_sampling
from seedselect_core.likeness.comparison import Comparison as OwnComparison
from seedselect_core.likeness.encoders import ClipVisionEncoder
from seedselect_core.likeness.losses import centroid
from seedselect_core.likeness.objective import Objective
from seedselect_core.likeness.targets import Targets
from seedselect_core.likeness.vae import VaeCodec
from seedselect_core.likeness.views import draw_views
from seedselect_core.likeness.weights import LossWeights
from seedselect_core.memory.levels import BLOCKS, KEPT, WHOLE
from seedselect_core.memory.plan import Plan
from seedselect_core.pocket import (
    TEXT_WIDTH,
    UNET_CONFIG,
    VAE_CONFIG,
    VISION_CONFIG,
    load_pocket_model,
)

sys.path.append(str(REPO / "tests"))

from gradients.measure import Wired
from gradients.models import as_patcher, normal, randomize
from gradients.wiring import conditioning, wired
from live import Live

CFG = 7.0
WARM_UP = (1,)  # iterations of so many steps
SMALL_THREADS = 1  # a second one only costs time
STEPS = (5, 10, 20, 50)
GROWTH = (4, 32)
BATCH = 8
# 18 million weights.
SMALL = SD1 | {
    "model_channels": 64,
    "num_res_blocks": [2, 2, 2],
    "channel_mult": [1, 2, 4],
    "transformer_depth": [1, 1, 1, 1, 0, 0],
    "transformer_depth_output": [1, 1, 1, 1, 1, 1, 0, 0, 0],
    "context_dim": 256,
}
SD15_VAE = {"embed_dim": 4, "ddconfig": KL}

# Runs an iteration of so many steps, 0 for all, and returns the gradient.
Iteration = Callable[[int], torch.Tensor]
# Enters what one side of a comparison needs, and hands its iteration on.
Side = Callable[[Callable[[Iteration], None]], None]


# ---------------------------------------------------------------- models


def random_unet(sizes: dict) -> comfy.model_patcher.ModelPatcher:
    """MODEL of Stable Diffusion 1.5, the UNet of these sizes, with random weights."""
    family = comfy.supported_models.SD15
    config = family({**family.unet_config, **sizes, "dtype": torch.float32})
    config.set_inference_dtype(torch.float32, None)
    base = config.get_model({}, device=torch.device("cpu"))
    fill(base.diffusion_model)
    return as_patcher(base)


def random_vae(config: dict) -> comfy.sd.VAE:
    """VAE whose pictures are near gray, so that no pixel is clamped."""
    autoencoder = AutoencoderKL(**config)
    fill(autoencoder)
    with torch.no_grad():
        autoencoder.decoder.conv_out.weight.mul_(0.1)
    vae = comfy.sd.VAE(sd=autoencoder.state_dict(), config={"params": config})
    vae.first_stage_model.requires_grad_(False)
    return vae


def random_clip_vision(config: str) -> comfy.clip_vision.ClipVisionModel:
    """CLIP_VISION of a file of the host's kind."""
    clip_vision = comfy.clip_vision.ClipVisionModel(config)
    fill(clip_vision.model)
    return clip_vision


@torch.no_grad()
def fill(module: torch.nn.Module) -> None:
    randomize(module, 1)
    for part in module.modules():
        # Near zero they would all but cut the noise off.
        if isinstance(part, torch.nn.GroupNorm):
            part.weight.add_(1)


@dataclass(frozen=True)
class World:
    """A model with its prompts.

    Attributes:
        name: for the table.
        text: tokens and width of a prompt.
        latent: [1, C, h, w].
        threads: of PyTorch.
    """

    name: str
    model: comfy.model_patcher.ModelPatcher
    text: tuple[int, int]
    latent: tuple[int, ...]
    threads: int

    def prompts(self) -> tuple[list, list]:
        """Positive and negative CONDITIONING."""
        return conditioning(*self.text, seed=1), conditioning(*self.text, seed=2)

    def graph(self, steps: int) -> Wired:
        how = {"sampler": "ddim", "steps": steps, "cfg": CFG}
        return wired(self.model, *self.prompts(), self.latent, torch.float32, **how)


@dataclass(frozen=True)
class Eyes:
    """What pictures are compared with, for the losses of both sides.

    Attributes:
        vae, clip_vision: the host's VAE and CLIP_VISION.
        embeddings: [k, D], of references.
        layout: [C, h, w], their mean latent.
    """

    vae: comfy.sd.VAE
    clip_vision: comfy.clip_vision.ClipVisionModel
    embeddings: torch.Tensor
    layout: torch.Tensor

    @classmethod
    def of(cls, vae, clip_vision, latent: tuple[int, ...]) -> "Eyes":
        width = clip_vision.model.visual_projection.out_features
        return cls(vae, clip_vision, normal(3, width, seed=3), normal(*latent[1:], seed=4))


# ---------------------------------------------------------------- sides


class BareCalls(comfy.samplers.Sampler):
    """The calls of one iteration by themselves, of the guider as the host has prepared it."""

    def __init__(self, use: Callable[[Iteration], None]):
        self._use = use

    def sample(
        self,
        model_wrap,
        sigmas,
        extra_args,
        callback,
        noise,
        latent_image=None,
        denoise_mask=None,
        disable_pbar=False,
    ):
        options = extra_args["model_options"]

        def call(x: torch.Tensor, sigma: torch.Tensor) -> torch.Tensor:
            return model_wrap(x, sigma.expand(len(x)), model_options=options, seed=0)

        def iteration(steps: int) -> torch.Tensor:
            x = (noise * sigmas[0]).requires_grad_()
            levels = sigmas[:-1][: steps or None]
            with torch.no_grad():
                for sigma in levels:
                    call(x, sigma)
            return sum(torch.autograd.grad(call(x, sigma).sum(), x)[0] for sigma in levels)

        self._use(iteration)
        return noise


def bare_calls(graph: Wired) -> Side:
    def side(use: Callable[[Iteration], None]) -> None:
        sampler = BareCalls(use)
        graph.guider.sample(
            graph.noise, graph.latent_image, sampler, graph.sigmas, disable_pbar=True, seed=0
        )

    return side


def whole_calls(chain: Chain) -> None:
    """As where there is memory for the pictures, but for no call."""
    chain.plan = Plan(WHOLE, 1, strips=False, keeps_pictures=True)


def use_blocks(chain: Chain) -> None:
    chain.plan = Plan(BLOCKS, 1, strips=True)


def keep_all(chain: Chain) -> None:
    chain.plan = Plan(KEPT, 1, strips=False, kept_calls=chain.steps, keeps_pictures=True)


def last_prediction(chain: Chain, noise: torch.Tensor, steps: int) -> torch.Tensor:
    return chain(noise, steps=steps)[-1].sum()


def compared(eyes: Eyes, model: comfy.model_base.BaseModel) -> Callable:
    """The loss of the authors' weights by the pack's own objective."""
    encoder = ClipVisionEncoder(eyes.clip_vision)
    aim = centroid(eyes.embeddings)[None]
    likeness = OwnComparison(encoder, draw_views(1), eyes.embeddings, aim, spread=0.0)
    targets = Targets((likeness,), eyes.layout[None], eyes.layout)
    weights = LossWeights(
        SEMANTIC_WEIGHT, APPEARANCE_WEIGHT, norm=0.0, contrast=0.0, steps=STEP_WEIGHTS
    )
    objective = Objective(VaeCodec(eyes.vae), targets, weights, model.process_latent_out)

    def loss(chain: Chain, noise: torch.Tensor, steps: int) -> torch.Tensor:
        denoised = chain(noise, keep=len(STEP_WEIGHTS), steps=steps)
        losses = objective(noise, denoised, keeper=chain.keeper, plan=chain.plan)
        return losses.total.sum()

    return loss


def exact(
    graph: Wired,
    prepare: Callable[[Chain], None],
    loss: Callable[[Chain, torch.Tensor, int], torch.Tensor] = last_prediction,
    eyes: Eyes | None = None,
) -> Side:
    """The pack's chain.

    Args:
        prepare: chooses its level.
        loss: of the noise, in so many steps.
        eyes: the models that ``loss`` calls.
    """
    patchers = [] if eyes is None else [eyes.vae.patcher, eyes.clip_vision.patcher]

    def side(use: Callable[[Iteration], None]) -> None:
        def search(chain: Chain, noise: torch.Tensor) -> torch.Tensor:
            prepare(chain)

            def gradient(steps: int, noise: torch.Tensor) -> torch.Tensor:
                def once() -> torch.Tensor:
                    return torch.autograd.grad(loss(chain, noise, steps), noise)[0]

                return chain.recovering(once)

            use(descending(gradient, noise))
            return noise

        unrolled_sampling(
            Denoising(graph.guider, graph.sampler, graph.sigmas),
            graph.noise,
            graph.latent_image,
            search,
            patchers=patchers,
            seed=0,
        )

    return side


def comparison(world: World, eyes: Eyes) -> Comparison:
    out = world.model.model.process_latent_out
    return Comparison(eyes.vae, eyes.clip_vision, out, centroid(eyes.embeddings))


def baseline(world: World, graph: Wired, eyes: Eyes) -> Published:
    """The authors' algorithm on the weights of ``world``."""
    base = world.model.model
    positive, negative = (prompt[0][0] for prompt in world.prompts())
    return Published(
        base.diffusion_model,
        Schedule.of(base.model_sampling, graph.sigmas),
        torch.cat([negative, positive]),
        CFG,
        comparison(world, eyes),
        eyes.layout,
    )


def published(world: World, graph: Wired, eyes: Eyes) -> Side:
    theirs = baseline(world, graph, eyes)

    def gradient(steps: int, noise: torch.Tensor) -> torch.Tensor:
        return torch.autograd.grad(theirs.loss(noise, steps), noise)[0]

    def side(use: Callable[[Iteration], None]) -> None:
        with checkpointed_blocks(theirs.unet):
            use(descending(gradient, graph.noise))

    return side


def descending(gradient: Callable, noise: torch.Tensor) -> Iteration:
    """An iteration: ``gradient(steps, noise)`` and a step of AdamW."""
    noise = noise.clone().requires_grad_()
    descent = torch.optim.AdamW([noise], LEARNING_RATE)

    def iteration(steps: int) -> torch.Tensor:
        noise.grad = gradient(steps, noise)
        descent.step()
        return noise.grad

    return iteration


# ---------------------------------------------------------------- measurements


def seconds(side: Side, warm_up: Sequence[int] = WARM_UP) -> float:
    """Of one iteration, after others of so many steps, 0 for all."""
    found = []

    def use(iteration: Iteration) -> None:
        for steps in warm_up:
            iteration(steps)
        began = time.perf_counter()
        iteration(0)
        found.append(time.perf_counter() - began)

    side(use)
    return found[0]


def in_turns(sides: dict[str, Side], rounds: int) -> dict[str, list[float]]:
    """Seconds of an iteration of every side, in every round."""
    found = {name: [] for name in sides}
    for number in range(rounds):
        # There and back, so that what grows with time meets all alike.
        for name in list(sides)[:: -1 if number % 2 else 1]:
            found[name].append(seconds(sides[name], warm_up(name)))
    return found


def warm_up(name: str) -> Sequence[int]:
    """Steps of the iterations before the measured one, 0 for all."""
    # A chain learns in a whole run which calls it may keep, and takes the memory in the next.
    return (0, 0) if name == KEPT.name else WARM_UP


def peak(side: Side, modules: Sequence[torch.nn.Module], warm_up: Sequence[int] = WARM_UP) -> int:
    """Bytes beside the weights at the worst moment of an iteration that is not the first."""
    found = []

    def use(iteration: Iteration) -> None:
        for steps in warm_up:
            iteration(steps)
        with Live(modules) as live:
            iteration(0)
        found.append(live.peak)

    side(use)
    return found[0]


def gradient_of(side: Side) -> torch.Tensor:
    found = []
    side(lambda iteration: found.append(iteration(0).clone()))
    return found[0]


def python_time(side: Side) -> dict[str, float]:
    """Share of an iteration that files of this pack and of PyTorch's own Python take, by file.

    Copies count for the file that asks for them, other kernels do not. A profiler makes Python
    look dearer than it is.
    """
    profiler = cProfile.Profile()

    def use(iteration: Iteration) -> None:
        iteration(0)
        profiler.runcall(iteration, 0)

    side(use)
    shares: dict[str, float] = {}
    stats = pstats.Stats(profiler).stats
    for (file, _, name), (_, _, own, _, callers) in stats.items():
        by_file = [(file, own)]
        if file == "~":
            copies = callers.items() if "'clone'" in name else []
            by_file = [(f"{caller[0]} (copies)", times[2]) for caller, times in copies]
        for where, time_there in by_file:
            place = next((p for p in ("seedselect_core/", "torch/") if p in where), None)
            if place is not None:
                where = place + where.rsplit(place, 1)[1]
                shares[where] = shares.get(where, 0.0) + time_there
    total = sum(own for _, _, own, _, _ in stats.values())
    return {where: share / total for where, share in shares.items()}


# ---------------------------------------------------------------- rows


@dataclass(frozen=True)
class Row:
    """One ratio.

    Attributes:
        what: both sides, as "one / other".
        value: the median.
        low, high: over the rounds; None where it was counted once.
        goal: what it may be at most; None where there is none.
        parts: of a goal that is missed, what takes the time: shares of an iteration.
    """

    section: str
    model: str
    steps: int
    what: str
    value: float
    low: float | None = None
    high: float | None = None
    goal: float | None = None
    threads: int = SMALL_THREADS
    parts: dict[str, float] = field(default_factory=dict)

    @property
    def met(self) -> bool | None:
        return None if self.goal is None else self.value <= self.goal

    def __str__(self) -> str:
        spread = "" if self.low is None else f" ({self.low:.3f} to {self.high:.3f})"
        verdict = "met" if self.met else "MISSED"
        goal = "" if self.goal is None else f"goal {self.goal:.3f} {verdict}"
        line = f"{self.model:18} {self.steps:>5}  {self.what:38} {self.value:.3f}{spread:18} {goal}"
        shares = [f"    {share:6.1%}  {where}" for where, share in self.parts.items()]
        return "\n".join([line.rstrip(), *shares])


class Table:
    """Makes and prints the rows of a section for one model and number of steps."""

    def __init__(self, section: str, world: World, steps: int):
        self._place = (section, world.name, steps)
        self._threads = world.threads

    def ratio(
        self,
        times: dict[str, list[float]],
        one: str,
        other: str,
        goal: float | None = None,
        parts: Callable[[], dict[str, float]] = dict,
    ) -> Row:
        """Of two sides that took turns; ``parts`` is asked where the goal is missed."""
        ratios = [a / b for a, b in zip(times[one], times[other], strict=True)]
        value = statistics.median(ratios)
        missed = goal is not None and value > goal
        return self._row(
            f"time: {one} / {other}",
            value,
            low=min(ratios),
            high=max(ratios),
            goal=goal,
            parts=parts() if missed else {},
        )

    def difference(self, one: torch.Tensor, other: torch.Tensor) -> Row:
        """Of both gradients at the same noise."""
        value = ((one - other).norm() / other.norm()).item()
        return self._row("gradient: relative difference", value)

    def memory(self, what: str, value: float, goal: float | None = None) -> Row:
        return self._row(f"memory: {what}", value, goal=goal)

    def _row(self, what: str, value: float, **more: Any) -> Row:
        row = Row(*self._place, what, value, threads=self._threads, **more)
        print(row, flush=True)
        return row


def largest(shares: dict[str, float], count: int = 6) -> dict[str, float]:
    ordered = sorted(shares.items(), key=lambda item: -item[1])
    return {where: round(share, 4) for where, share in ordered[:count]}


# ---------------------------------------------------------------- sections

BARE = "bare calls"
PUBLISHED = "published"


def sd15(threads: int) -> World:
    return World("SD 1.5, 256 x 256", random_unet(SD1), (77, 768), (1, 4, 32, 32), threads)


def small() -> World:
    latent = (1, 4, 16, 16)
    return World("18 M UNet", random_unet(SMALL), (77, SMALL["context_dim"]), latent, 1)


def pocket() -> World:
    latent = (1, 4, UNET_CONFIG["image_size"], UNET_CONFIG["image_size"])
    model = load_pocket_model()[0]
    model.model.requires_grad_(False)
    return World("pocket model", model, (16, TEXT_WIDTH), latent, SMALL_THREADS)


def calls(args: argparse.Namespace) -> Iterator[Row]:
    worlds = (
        # A turn of the small one is short, so that there can be more of them.
        (pocket, 5, 5 * args.rounds, 1.15, None),
        (lambda: sd15(args.threads), 2, args.rounds, 1.05, 1.35),
    )
    for make, steps, rounds, goal, blocks_goal in worlds:
        world = make()
        torch.set_num_threads(world.threads)
        graph = world.graph(steps)
        whole = exact(graph, whole_calls)
        sides = {BARE: bare_calls(graph), WHOLE.name: whole, BLOCKS.name: exact(graph, use_blocks)}
        times = in_turns(sides, rounds)
        table = Table("calls", world, steps)
        yield table.ratio(
            times, WHOLE.name, BARE, goal, lambda whole=whole: largest(python_time(whole))
        )
        yield table.ratio(times, BLOCKS.name, WHOLE.name, blocks_goal)


def beside_published(args: argparse.Namespace) -> Iterator[Row]:
    world = small()
    torch.set_num_threads(world.threads)
    eyes = Eyes.of(random_vae(VAE_CONFIG), random_clip_vision(str(VISION_CONFIG)), world.latent)
    loss = compared(eyes, world.model.model)
    graph = world.graph(STEPS[0])
    theirs, ours = (
        gradient_of(side)
        for side in (published(world, graph, eyes), exact(graph, whole_calls, loss, eyes))
    )
    yield Table("published", world, STEPS[0]).difference(ours, theirs)
    for steps in args.steps or STEPS:
        yield from published_at(world, eyes, steps, args.rounds)
    if args.steps:
        return
    modules = modules_of(world, eyes)
    few, many = (
        peak(exact(world.graph(steps), whole_calls, loss, eyes), modules) for steps in GROWTH
    )
    table = Table("published", world, GROWTH[1])
    yield table.memory(f"{WHOLE.name}, {GROWTH[1]} / {GROWTH[0]} steps", many / few, 1.03)


def in_full(args: argparse.Namespace) -> Iterator[Row]:
    world = sd15(args.threads)
    torch.set_num_threads(world.threads)
    eyes = Eyes.of(random_vae(SD15_VAE), random_clip_vision(str(VISION_CONFIG)), world.latent)
    yield from published_at(world, eyes, STEPS[0], args.rounds, "published-full")


def modules_of(world: World, eyes: Eyes) -> list[torch.nn.Module]:
    return [world.model.model, eyes.vae.first_stage_model, eyes.clip_vision.model]


def published_at(
    world: World, eyes: Eyes, steps: int, rounds: int, section: str = "published"
) -> Iterator[Row]:
    graph = world.graph(steps)
    loss = compared(eyes, world.model.model)
    sides = {
        PUBLISHED: published(world, graph, eyes),
        WHOLE.name: exact(graph, whole_calls, loss, eyes),
        KEPT.name: exact(graph, keep_all, loss, eyes),
        BLOCKS.name: exact(graph, use_blocks, loss, eyes),
    }
    table = Table(section, world, steps)
    # A turn of few steps is short, and the machine's own unrest is a larger share of it.
    times = in_turns(sides, rounds * max(1, 20 // steps))
    for name, goal in ((WHOLE.name, 1.02), (KEPT.name, 0.8), (BLOCKS.name, None)):
        yield table.ratio(
            times, name, PUBLISHED, goal, lambda name=name: largest(python_time(sides[name]))
        )
    modules = modules_of(world, eyes)
    bytes_of = {name: peak(side, modules, warm_up(name)[:1]) for name, side in sides.items()}
    for name in (WHOLE.name, KEPT.name, BLOCKS.name):
        goal = 1 / 6 if name == BLOCKS.name and steps == max(STEPS) else None
        yield table.memory(f"{name} / {PUBLISHED}", bytes_of[name] / bytes_of[PUBLISHED], goal)


def in_parts(args: argparse.Namespace) -> Iterator[Row]:
    world = replace(small(), latent=(BATCH, 4, 16, 16))
    torch.set_num_threads(world.threads)
    graph = world.graph(STEPS[0])

    def of_parts(size: int) -> Callable:
        def loss(chain: Chain, noise: torch.Tensor, steps: int) -> torch.Tensor:
            return sum(last_prediction(chain, part, steps) for part in noise.split(size))

        return loss

    sizes = (BATCH, BATCH // 2, BATCH // 4, 1)
    sides = {f"{size} at a time": exact(graph, whole_calls, of_parts(size)) for size in sizes}
    times = in_turns(sides, args.rounds)
    table = Table("batch", world, STEPS[0])
    whole, *parts = sides
    for part in parts:
        yield table.ratio(times, part, whole)
    peaks = {name: peak(side, [world.model.model]) for name, side in sides.items()}
    for part in parts:
        yield table.memory(f"{part} / {whole}", peaks[part] / peaks[whole])


SECTIONS = {
    "calls": calls,
    "batch": in_parts,
    "published": beside_published,
    "published-full": in_full,
}
USUAL = ("calls", "batch", "published")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--only", nargs="*", choices=SECTIONS)
    parser.add_argument("--steps", type=int, nargs="*", help="of 'published'; writes nothing")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=2, help="for the full width")
    args = parser.parse_args()
    began = time.monotonic()
    rows = [row for name in args.only or USUAL for row in SECTIONS[name](args)]
    print(f"{time.monotonic() - began:.0f} s")
    if args.only or args.steps:
        return
    kept = {
        "commit": commit_now(),
        "torch": torch.__version__,
        "machine": f"{platform.system()} {platform.machine()}, {os.cpu_count()} CPU cores",
        "rows": [asdict(row) for row in rows],
        "goals": [
            {"goal": f"{row.model}, {row.steps} steps, {row.what}: at most {row.goal:.3f}"}
            | {"value": round(row.value, 4), "met": row.met}
            for row in rows
            if row.goal is not None
        ],
    }
    RESULTS.mkdir(exist_ok=True)
    (RESULTS / "speed.json").write_text(json.dumps(kept, indent=1) + "\n")


if __name__ == "__main__":
    main()
