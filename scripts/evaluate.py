"""Does SeedSelect help on your own concepts? Accuracy, diversity and few-shot classification.

COMFYUI_DIR=/path/to/ComfyUI python3 scripts/host.py evaluate IMAGES \\
    --checkpoint NAME --clip-vision NAME --judge-clip-vision ANOTHER --prompt "a photo of a {}"

COMFYUI_DIR is the ComfyUI that has the models; not needed if this pack lies in its custom_nodes.
IMAGES holds a folder of real pictures for each concept; its name goes into the prompt ("_" becomes
a space). The first pictures of a folder, by name, are the references; the others are held out and
seen by nothing but the figures. Take a few concepts that are easily confused with each other.

Plain pictures and SeedSelect pictures start from the same seeds. Stopped with Ctrl-C, the same
command goes on where it stopped. Into the output folder go the pictures, the seeds, a contact sheet
for each concept, and report.json and report.md:

accuracy        share of the pictures whose nearest class centroid is their concept's; centroids are
                those of the held-out pictures, in the features of the judge
diversity       entropy and NDB of seedselect_core.diversity, beside plain and real pictures
classification  a linear probe on the judge's features, trained on the references alone, with plain
                and with SeedSelect pictures added, and tested on the held-out pictures

--pocket tries all this in a minute, on the model that ships with the pack.
"""

import argparse
import hashlib
import json
import os
import sys
import time
from dataclasses import asdict, dataclass, replace
from functools import cache, cached_property
from pathlib import Path

REPO = Path(__file__).resolve().parent.parent
HOST = Path(os.environ["COMFYUI_DIR"])  # set by scripts/host.py evaluate
sys.path.insert(0, str(HOST))  # first: the host's nodes.py must win over nodes/ here
sys.path.append(str(REPO))

import torch  # noqa: E402
from comfy.cli_args import args as host_args  # noqa: E402

# The host decides on its device when it is imported.
if {"--cpu", "--pocket"} & set(sys.argv) or not (
    torch.cuda.is_available() or torch.backends.mps.is_available() or torch.xpu.is_available()
):
    host_args.cpu = True

import comfy.clip_vision  # noqa: E402
import comfy.model_management  # noqa: E402
import comfy.model_patcher  # noqa: E402
import comfy.sample  # noqa: E402
import comfy.samplers  # noqa: E402
import comfy.sd  # noqa: E402
import comfy.utils  # noqa: E402
import folder_paths  # noqa: E402
import torch.nn.functional as F  # noqa: E402
import utils.extra_config  # noqa: E402

from evaluate_figures import linear_probe, nearest_class, real_by_others, wilson  # noqa: E402
from evaluate_report import KINDS, contact_sheet, report_lines, to_picture  # noqa: E402
from pocket.judges import load_judges, normalize  # noqa: E402
from seedselect_core.chain.sampling import sample_from_seed  # noqa: E402
from seedselect_core.errors import Rule, SeedSelectError, require_rules  # noqa: E402
from seedselect_core.host.samplers import REFUSED  # noqa: E402
from seedselect_core.likeness.encoders import ClipVisionEncoder, unit_embeddings  # noqa: E402
from seedselect_core.pictures import read_image  # noqa: E402
from seedselect_core.pocket import load_pocket_model  # noqa: E402
from seedselect_core.references import (  # noqa: E402
    ReferenceSet,
    list_image_files,
    load_reference_folder,
    reference_set_from_batch,
)
from seedselect_core.search.loop import Progress  # noqa: E402
from seedselect_core.search.optimize import optimize_seed  # noqa: E402
from seedselect_core.search.presets import PRESETS  # noqa: E402
from seedselect_core.search.scene import Callbacks, Scene  # noqa: E402
from seedselect_core.search.settings import Settings  # noqa: E402
from seedselect_core.seeds.seed import SamplingSettings, Seed, load_seed  # noqa: E402
from seedselect_core.sets.diversity import LEAST_REALS, diversity_report, nearest  # noqa: E402

# What is taken where nothing is given: for a checkpoint, and for the pocket model.
REAL_DEFAULTS = {"prompt": ["a photo of a {}"], "width": 512, "height": 512, "steps": 20}
POCKET_DEFAULTS = {"prompt": ["a red letter {} on yellow"], "width": 64, "height": 64, "steps": 10}
SEED_STRIDE = 1000  # between batches, so that candidates drawn for one are not those of another


@dataclass
class Concept:
    """One folder. references: what is searched for; real: held out, [n, height, width, 3]."""

    name: str
    folder: Path
    references: ReferenceSet
    real: torch.Tensor


def parse(arguments: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("images", type=Path, help="a folder with one folder of real pictures per concept")
    add("--prompt", nargs="+", help="with {} for the concept; several take turns, batch by batch")
    add("--negative", default="", help="negative prompt")
    add("--checkpoint", help="a checkpoint of your ComfyUI, or the path of one")
    add("--clip-vision", help="the encoder that SeedSelect follows, or its path")
    add("--judge-clip-vision", help="another encoder for the figures; better of another family")
    add("--pocket", action="store_true", help="the model that ships with the pack, on the CPU")
    add("--cpu", action="store_true", help="leave the graphics card alone")
    add("--references", type=int, default=4, help="pictures of each folder to follow (4)")
    add("--held-out", type=int, default=200, help="at most so many others for the figures (200)")
    add("--minimum", type=int, default=8, help="warn below so many held-out pictures (8)")
    add("--pictures", type=int, default=16, help="to make of each kind and concept (16)")
    add("--batch", type=int, default=4, help="pictures made side by side (4)")
    add("--seed", type=int, default=0)
    add("--width", type=int)
    add("--height", type=int)
    add("--steps", type=int)
    add("--cfg", type=float, default=7.0)
    add("--sampler", default="ddim", help="any of ComfyUI's")
    add("--scheduler", default="normal")
    add("--preset", default="default", choices=list(PRESETS))
    add("--iterations", type=int, help="instead of the preset's")
    add("--bins", type=int, default=0, help="for the diversity; 0 chooses by itself")
    add("--output", type=Path, default=Path("evaluation"))
    args = parser.parse_args(arguments)
    for name, value in (POCKET_DEFAULTS if args.pocket else REAL_DEFAULTS).items():
        if getattr(args, name) is None:
            setattr(args, name, value)
    require_arguments(args)
    return args


def require_arguments(args: argparse.Namespace) -> None:
    """Raise `SeedSelectError` for the first argument that cannot be used."""
    if not args.images.is_dir():
        raise SeedSelectError(f"IMAGES: there is no folder '{args.images}'.")
    for name, given in (("checkpoint", args.checkpoint), ("clip-vision", args.clip_vision)):
        if not (args.pocket or given):
            raise SeedSelectError(f"--{name}: name one, or give --pocket.")

    def at_least(least: int, name: str) -> Rule:
        value = getattr(args, name)
        return Rule(f"--{name.replace('_', '-')}", value >= least, f"{least} or more", value)

    def whole_latents(name: str) -> Rule:
        value = getattr(args, name)
        return Rule(f"--{name}", value >= 64 and value % 8 == 0, "a multiple of 8", value)

    samplers = [name for name in comfy.samplers.SAMPLER_NAMES if name not in REFUSED]
    places = all("{}" in prompt for prompt in args.prompt)
    require_rules(
        Rule("--prompt", places, "such that {} stands where the concept goes", args.prompt),
        Rule("--sampler", args.sampler in samplers, f"one of {', '.join(samplers)}", args.sampler),
        whole_latents("width"),
        whole_latents("height"),
        at_least(2, "pictures"),
        *(at_least(1, name) for name in ("references", "held_out", "batch")),
    )


def read_concepts(args: argparse.Namespace) -> tuple[list[Concept], list[str]]:
    """Every folder's pictures, and warnings about files left out and folders that are too small."""
    concepts = []
    warnings = []
    folders = sorted(p for p in args.images.iterdir() if p.is_dir() and p.name[0] != ".")
    if not folders:
        raise SeedSelectError(
            f"IMAGES: '{args.images}' holds no folders. Make one for each concept, named as the "
            "prompt shall name it, and put real pictures of the concept into it."
        )
    for folder in folders:
        name = folder.name.replace("_", " ")
        references, refused = load_reference_folder(folder, limit=args.references)
        left_out = list(refused)
        real = []
        # One by one at the size they are needed in: photographs as they are would fill the memory.
        for path in list_image_files(folder):
            if path.name in references.names or len(real) == args.held_out:
                continue
            try:
                picture = reference_set_from_batch(read_image(path)[None])
                real.append(picture.resized(args.width, args.height)[0])
            except Exception as error:  # readers of damaged files raise errors of every kind
                left_out.append(f"{path.name} was left out: {error}")
        if not real:
            raise SeedSelectError(
                f"IMAGES: '{folder.name}' holds {len(references)} readable pictures, and all are "
                f"taken as references. Add at least {args.minimum} more, or lower --references."
            )
        if len(real) < args.minimum:
            warnings.append(
                f"{name}: only {len(real)} held-out pictures; its figures are rough below "
                f"{args.minimum}, and good from 40 on."
            )
        warnings += [f"{name}: {text}" for text in dict.fromkeys(left_out)]
        concepts.append(Concept(name, folder, references, torch.stack(real)))
    if len(concepts) == 1:
        warnings.append(
            "Only one concept: accuracy and classification say nothing. Add folders of concepts "
            "that it may be taken for."
        )
    return concepts, warnings


class PocketJudge:
    """Features [B, D] of the CNN that reads letters and that no optimization has seen."""

    def __init__(self):
        trunk = torch.nn.Sequential(*list(load_judges()["plain"])[:-1])
        device = torch.device("cpu")
        self.patcher = comfy.model_patcher.ModelPatcher(trunk, device, device)

    def __call__(self, images: torch.Tensor) -> torch.Tensor:
        pictures = F.interpolate(images.movedim(-1, 1), (64, 64), mode="bilinear", antialias=True)
        return self.patcher.model(normalize(pictures))


class Models:
    """Loaded when first asked for, by the host's own loaders: a finished run needs few of them."""

    def __init__(self, args: argparse.Namespace):
        self.args = args
        extra = HOST / "extra_model_paths.yaml"
        if extra.is_file():
            utils.extra_config.load_extra_path_config(str(extra))
        files = [("--checkpoint", "checkpoints", args.checkpoint)]
        files += [("--clip-vision", "clip_vision", args.clip_vision)]
        files += [("--judge-clip-vision", "clip_vision", args.judge_clip_vision)]
        self.paths = {flag: _model_file(flag, kind, name) for flag, kind, name in files if name}
        followed = self.paths.get("--clip-vision")
        judge = self.paths.get("--judge-clip-vision")
        self.judge_is_followed = not args.pocket and judge in (None, followed)

    @cached_property
    def generator(self) -> tuple:
        """MODEL, CLIP, VAE and the encoder that is followed."""
        if self.args.pocket:
            model, clip, vae, clip_vision = load_pocket_model()
            return model, clip, vae, ClipVisionEncoder(clip_vision)
        model, clip, vae = comfy.sd.load_checkpoint_guess_config(
            self.paths["--checkpoint"],
            embedding_directory=folder_paths.get_folder_paths("embeddings"),
        )[:3]
        if clip is None or vae is None:
            raise SeedSelectError(
                f"--checkpoint: '{self.args.checkpoint}' lacks a text encoder or a VAE. Name a "
                "checkpoint that holds all three."
            )
        return model, clip, vae, self._encoder("--clip-vision")

    @cached_property
    def judge(self):
        if "--judge-clip-vision" in self.paths:
            return self._encoder("--judge-clip-vision")
        return PocketJudge() if self.args.pocket else self._encoder("--clip-vision")

    def _encoder(self, flag: str) -> ClipVisionEncoder:
        clip_vision = comfy.clip_vision.load(self.paths[flag])
        if clip_vision is None:
            raise SeedSelectError(f"{flag}: '{self.paths[flag]}' is no CLIP, SigLIP or DINO model.")
        return ClipVisionEncoder(clip_vision)


def _model_file(flag: str, kind: str, name: str) -> str:
    path = name if Path(name).is_file() else folder_paths.get_full_path(kind, name)
    if path is None:
        known = ", ".join(folder_paths.get_filename_list(kind)) or "none"
        raise SeedSelectError(
            f"{flag}: there is no '{name}'. The {kind} of the ComfyUI in {HOST}: {known}. If that "
            "is not your own ComfyUI, set COMFYUI_DIR to the folder of yours."
        )
    return str(Path(path).resolve())


@cache
def pack_fingerprint(repo: Path = REPO) -> str:
    """Of everything in this pack that pictures depend on."""
    digest = hashlib.sha256()
    for pattern in ("seedselect_core/**/*.py", "pocket/weights/*.safetensors"):
        for path in sorted(repo.glob(pattern)):
            digest.update(path.read_bytes())
    return digest.hexdigest()[:16]


def _file_state(path: str | None) -> list | None:
    # A checkpoint is too large to read for this.
    return path and [path, os.stat(path).st_size, os.stat(path).st_mtime_ns]


def _made_with(args: argparse.Namespace, models: Models, concept: Concept) -> dict:
    """Everything that the pictures of a concept depend on, as JSON has it."""
    made = {name: getattr(args, name) for name in ("prompt", "negative", "width", "height")}
    made |= {"batch": args.batch, "pocket": args.pocket, "sampling": asdict(sampling_of(args))}
    made |= {"checkpoint": _file_state(models.paths.get("--checkpoint"))}
    made |= {"clip_vision": _file_state(models.paths.get("--clip-vision"))}
    made |= {"settings": asdict(settings_of(args)), "references": concept.references.fingerprint()}
    made |= {"pack": pack_fingerprint()}
    return json.loads(json.dumps(made))


def settings_of(args: argparse.Namespace) -> Settings:
    """Those of the preset, with as many iterations as are asked for."""
    settings = PRESETS[args.preset]
    if args.iterations is None:
        return settings
    return replace(settings, iterations=args.iterations)


def sampling_of(args: argparse.Namespace) -> SamplingSettings:
    return SamplingSettings(args.steps, args.cfg, args.sampler, args.scheduler, args.seed)


def make_pictures(args: argparse.Namespace, models: Models, concept: Concept, folder: Path) -> None:
    """Whatever is not yet there: ``plain/NNN.png``, ``seedselect/NNN.png`` and the seeds."""
    made_with = _made_with(args, models, concept)
    record = folder / "made_with.json"
    if record.exists() and (before := json.loads(record.read_text())) != made_with:
        changed = ", ".join(key for key in made_with if before.get(key) != made_with[key])
        raise SeedSelectError(
            f"--output: '{folder}' holds pictures made with other settings or files "
            f"({changed}). Choose another folder, or delete this one."
        )
    for part in ("plain", "seedselect", "seeds"):
        (folder / part).mkdir(parents=True, exist_ok=True)
    record.write_text(json.dumps(made_with, indent=1) + "\n")
    for number, first in enumerate(range(0, args.pictures, args.batch)):
        span = range(first, min(first + args.batch, args.pictures))
        paths = {kind: [folder / kind / f"{i:03}.png" for i in span] for kind in KINDS}
        if all(path.exists() for kind in KINDS for path in paths[kind]):
            continue
        began = time.monotonic()
        news = f"{concept.name}: pictures {span[0] + 1} to {span[-1] + 1} of {args.pictures}"
        seed_path = folder / "seeds" / f"{first:03}.seed.safetensors"
        _make_batch(args, models, concept, number, paths, seed_path, news)
        start = "\r" if sys.stdout.isatty() else ""
        print(f"{start}{news}, {time.monotonic() - began:.0f} s".ljust(80), flush=True)


def _make_batch(
    args: argparse.Namespace,
    models: Models,
    concept: Concept,
    number: int,
    paths: dict[str, list[Path]],
    seed_path: Path,
    news: str,
) -> None:
    """The batch of this number, plain and optimized, and its seed."""

    def show(progress: Progress) -> None:
        if sys.stdout.isatty():
            share = progress.done / progress.planned
            print(f"\r{news}, SeedSelect {share:4.0%}", end="", flush=True)

    model, clip, vae, encoder = models.generator
    prompt = args.prompt[number % len(args.prompt)].format(concept.name)
    sampling = replace(sampling_of(args), seed=args.seed + SEED_STRIDE * number)
    with torch.inference_mode():
        positive, negative = (
            clip.encode_from_tokens_scheduled(clip.tokenize(text))
            for text in (prompt, args.negative)
        )
        empty = torch.zeros(len(paths["plain"]), 4, args.height // 8, args.width // 8)
        latent = comfy.sample.fix_empty_latent_channels(model, empty, 8)
        plain = Seed(comfy.sample.prepare_noise(latent, sampling.seed), sampling)
        drawn = sample_from_seed(model, positive, negative, plain)["samples"]
        _save(vae.decode(drawn), paths["plain"])
        seed, found, _ = optimize_seed(
            Scene(model, positive, negative, vae, encoder, concept.references, {"samples": latent}),
            sampling,
            settings_of(args),
            callbacks=Callbacks(progress=show),
        )
        seed.save(seed_path)
        _save(vae.decode(found["samples"]), paths["seedselect"])


def _save(images: torch.Tensor, paths: list[Path]) -> None:
    for image, path in zip(images, paths, strict=True):
        unfinished = path.with_suffix(".part")
        to_picture(image).save(unfinished, format="PNG")
        unfinished.replace(path)  # so that a picture is there whole or not at all


def measure(args: argparse.Namespace, judge, concepts: list[Concept], warnings: list[str]) -> dict:
    """All figures as they go into report.json; draws the contact sheets on the way."""
    pictures = [
        {
            "real": c.real,
            "references": c.references.resized(args.width, args.height),
            **{kind: _read(args.output / c.folder.name / kind, args.pictures) for kind in KINDS},
        }
        for c in concepts
    ]
    seen = [{name: unit_embeddings(judge, images) for name, images in p.items()} for p in pictures]
    real = [s["real"] for s in seen]
    answers = {kind: nearest_class(real, [s[kind] for s in seen]) for kind in KINDS}
    answers["real"] = real_by_others(real)
    probes = {"references": [s["references"] for s in seen]}
    for kind in KINDS:
        probes[kind] = [torch.cat([s["references"], s[kind]]) for s in seen]
    probes = {name: linear_probe(train, real) for name, train in probes.items()}

    rows = []
    for i, concept in enumerate(concepts):
        right = {name: [answer == i for answer in read[i]] for name, read in answers.items()}
        folder = args.output / concept.folder.name
        contact_sheet(concept.name, pictures[i], right).save(folder / "contact_sheet.png")
        row = {"concept": concept.name, "references": len(concept.references)}
        row |= {"held_out": len(concept.real)}
        row["accuracy"] = {name: sum(r) / len(r) for name, r in right.items()}
        row["read_as"] = {k: [concepts[a].name for a in answers[k][i]] for k in KINDS}
        row["classification"] = {name: shares[i] for name, shares in probes.items()}
        row["diversity"] = None
        if len(concept.real) < LEAST_REALS:
            warnings.append(f"{concept.name}: diversity needs {LEAST_REALS} held-out pictures.")
        else:
            s = seen[i]
            report = diversity_report(s["real"], s["seedselect"], s["plain"], args.bins)
            copied = {k: nearest(s[k], s["references"]) < report.copy_distance for k in KINDS}
            row["diversity"] = asdict(report)
            warnings += [f"{concept.name}, diversity: {note}" for note in report.notes]
            row["copies_of_references"] = {k: int(c.sum()) for k, c in copied.items()}
        seeds = sorted((folder / "seeds").glob("*.safetensors"))
        row["model_evaluations"] = sum(load_seed(path).evaluations for path in seeds)
        rows.append(row)
    summary = {"accuracy": {}, "classification": {}}
    for name in answers:
        right = sum(a == i for i, read in enumerate(answers[name]) for a in read)
        count = sum(len(read) for read in answers[name])
        # Over pictures, not folders, as the interval is: folders differ in how many are held out.
        summary["accuracy"][name] = {"mean": right / count, "interval": wilson(right, count)}
    for name, shares in probes.items():
        summary["classification"][name] = sum(shares) / len(shares)
    return {"summary": summary, "concepts": rows}


def _read(folder: Path, count: int) -> torch.Tensor:
    return torch.stack([read_image(folder / f"{i:03}.png") for i in range(count)])


def main(arguments: list[str] | None = None) -> int:
    args = parse(arguments)
    concepts, warnings = read_concepts(args)
    models = Models(args)
    if models.judge_is_followed:
        warnings.insert(
            0,
            "The judge is the very encoder that SeedSelect was told to please, so these figures "
            "flatter it. Give another one with --judge-clip-vision.",
        )
    for warning in warnings:
        print(f"note: {warning}", flush=True)
    for concept in concepts:
        make_pictures(args, models, concept, args.output / concept.folder.name)
    report = measure(args, models.judge, concepts, warnings)
    settings = {k: str(v) if isinstance(v, Path) else v for k, v in vars(args).items()}
    given = sys.argv[1:] if arguments is None else arguments
    command = " ".join(["evaluate", *(f'"{a}"' if " " in a else a for a in map(str, given))])
    report |= {"command": command, "settings": settings, "warnings": warnings}
    (args.output / "report.json").write_text(json.dumps(report, indent=1) + "\n")
    (args.output / "report.md").write_text("\n".join(report_lines(report)) + "\n", encoding="utf-8")
    for kind, name in KINDS.items():
        accuracy = report["summary"]["accuracy"][kind]["mean"]
        probe = report["summary"]["classification"][kind]
        print(f"{name}: {accuracy:.0%} right; classifier trained with them {probe:.0%}")
    print(f"see {args.output / 'report.md'}")
    return 0


if __name__ == "__main__":
    comfy.utils.PROGRESS_BAR_ENABLED = sys.stderr.isatty()
    try:
        sys.exit(main())
    except SeedSelectError as error:
        sys.exit(f"evaluate: {error}")
    except KeyboardInterrupt:
        sys.exit("evaluate: stopped. The same command goes on where it stopped.")
