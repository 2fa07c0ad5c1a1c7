"""Which settings of the optimization work best? The measurement behind the presets.

python3 scripts/host.py bench presets [--letters DBJ] [--seeds 12] [--only NAME ...]

Rare letters, on fonts of their own, are optimized under each variant below, from the same noises,
and both judges read the results. Writes ``results/presets.json`` and ``docs/presets.md``. Lines
that are there stay, with the commit that they were measured at: a variant is measured again where
``--only`` names it or ``--anew`` asks for all. What is no variant any more was tried and dropped.
"""

import argparse
import json
import time
from dataclasses import dataclass, replace

from pocket_world import (
    REPO,
    RESULTS,
    SAMPLING,
    PocketWorld,
    colors_of,
    colors_right,
    letter_references,
)

# isort: split

import torch

from quality import commit_now, short, table
from seedselect_core.search.optimize import optimize_seed
from seedselect_core.search.presets import PRESETS
from seedselect_core.search.settings import Settings

PAGE = REPO / "docs" / "presets.md"
DEFAULT = PRESETS["default"]
QUICK = PRESETS["quick"]
THOROUGH = PRESETS["thorough"]
NO_GRADIENT = "no gradient"


@dataclass(frozen=True)
class Variant:
    """Settings, and which encoders take part.

    Attributes:
        encoders: "first", "second", or "both" of the toy model's for the loss.
        opinion: whether the second encoder is asked for its opinion.
    """

    settings: Settings
    encoders: str = "first"
    opinion: bool = False


def of(preset: Settings, **changes) -> Variant:
    """A preset with other settings, or ``encoders`` and ``opinion``."""
    own = {name: changes.pop(name) for name in ("encoders", "opinion") if name in changes}
    weights = changes.pop("weights", {})
    return Variant(replace(preset, **changes).reweighted(**weights), **own)


# Lines of a group cost about the same, but for those of the first.
GROUPS = {
    "The presets": {
        "plain, no optimization": Variant(Settings(iterations=0)),
        "quick": Variant(QUICK),
        "default": Variant(DEFAULT),
        "thorough": Variant(PRESETS["thorough"]),
        "paper": Variant(PRESETS["paper"]),
    },
    "About 400 evaluations, from *default*": {
        "gradient as it is": of(DEFAULT, white=False),
        "adamw": of(DEFAULT, optimizer="adamw"),
        "adamw, gradient as it is": of(DEFAULT, optimizer="adamw", white=False),
        "rate 0.1": of(DEFAULT, learning_rate=0.1),
        "rate 0.4": of(DEFAULT, learning_rate=0.4),
        "8 candidates drawn in full": of(DEFAULT, candidates=8, draft_steps=0),
        "24 candidates by their first 3 steps": of(DEFAULT, draft="first steps"),
        "one candidate": of(DEFAULT, candidates=1, iterations=20),
        "with neighbours": of(DEFAULT, neighbors=12, neighbor_angle=0.8, iterations=10),
        "both encoders": of(DEFAULT, encoders="both"),
        "second opinion": of(DEFAULT, opinion=True),
        "the second encoder alone": of(DEFAULT, encoders="second"),
        "towards the nearest references": of(DEFAULT, towards="nearest"),
        "one view": of(DEFAULT, views=1),
        "four views": of(DEFAULT, views=4),
        "all steps differentiated": of(DEFAULT, gradient_steps=0, iterations=7),
        "5 steps differentiated": of(DEFAULT, gradient_steps=5, iterations=12),
        "1 step differentiated": of(DEFAULT, gradient_steps=1, iterations=23),
        "last three steps": of(DEFAULT, weights={"steps": (0.05, 0.25, 0.7)}),
        "no norm prior": of(DEFAULT, weights={"norm": 0.0}),
        "norm prior four times as strong": of(DEFAULT, weights={"norm": 3.2}),
        "on the sphere": of(DEFAULT, shell="sphere", weights={"norm": 0.0}),
        "standard channels": of(DEFAULT, shell="channels", weights={"norm": 0.0}),
    },
    "About 100 evaluations, from *quick*": {
        "quick, adamw": of(QUICK, optimizer="adamw"),
        "quick, rate 0.2": of(QUICK, learning_rate=0.2),
        "quick, 16 candidates, 2 iterations": of(QUICK, candidates=16, iterations=2),
        "quick, 3 candidates drawn in full": of(QUICK, candidates=3, draft_steps=0),
        "quick, by their first 3 steps": of(QUICK, draft="first steps"),
        "quick, 1 step differentiated": of(QUICK, gradient_steps=1, iterations=5),
    },
    "About 1,600 evaluations, from *thorough*": {
        "thorough, both encoders": of(THOROUGH, encoders="both"),
        "thorough, second opinion": of(THOROUGH, opinion=True),
        "thorough, eight views": of(THOROUGH, views=8),
        "thorough, four views, all steps differentiated": of(
            THOROUGH, views=4, gradient_steps=0, iterations=35
        ),
        "thorough, until as like as the references": of(THOROUGH, target=1.0),
        "thorough, four views, 250 candidates, 40 iterations": of(
            THOROUGH, views=4, candidates=250, iterations=40
        ),
        "thorough, four views, 400 candidates, 16 iterations": of(
            THOROUGH, views=4, candidates=400, iterations=16
        ),
    },
    "Without a gradient": {
        "default, at the level without a gradient": of(DEFAULT, memory=NO_GRADIENT),
        "quick, at the level without a gradient": of(QUICK, memory=NO_GRADIENT),
        "best of 40": Variant(Settings(iterations=0, candidates=40)),
        "best of 40, second opinion": Variant(Settings(iterations=0, candidates=40), opinion=True),
        "zero-order search": Variant(Settings(iterations=0, candidates=8, neighbors=32)),
    },
    "20 to 25 evaluations": {
        "best of 2": Variant(Settings(iterations=0, candidates=2)),
        "best of 2, eight views": Variant(Settings(iterations=0, candidates=2, views=8)),
        "one iteration": Variant(
            Settings(iterations=1, gradient_steps=1, views=2, learning_rate=0.4)
        ),
        "best of 5 drafts": Variant(Settings(iterations=0, candidates=5, draft_steps=3, views=8)),
        "best of 8 by their first 3 steps": Variant(
            Settings(iterations=0, candidates=8, draft_steps=3, draft="first steps", views=8)
        ),
    },
}
VARIANTS = {name: variant for group in GROUPS.values() for name, variant in group.items()}


@torch.inference_mode()
def run(world: PocketWorld, letter: str, seeds: int, variant: Variant) -> dict:
    """Figures of one letter; those of single pictures are lists."""
    began = time.time()
    scene = world.scene(world.prompt(letter), letter_references(letter), seeds)
    encoders = [world.encoder, world.second_encoder]
    if variant.encoders == "second":
        encoders.reverse()
    scene = replace(
        scene,
        encoder=encoders[0],
        further_encoders=(encoders[1],) if variant.encoders == "both" else (),
        second_opinion=encoders[1] if variant.opinion else None,
    )
    seed, drawn, history = optimize_seed(
        scene, SAMPLING.override(seed=1000 * ord(letter)), variant.settings
    )
    images = world.vae.decode(drawn["samples"])
    right = world.right(images, letter)
    likely = [loss <= history.spread for loss in seed.semantic]
    return {
        "judges": right,
        "right": [sum(answers) / 2 for answers in zip(*right.values(), strict=True)],
        "colours": colors_right(images, *colors_of(letter)).all(1).tolist(),
        "semantic": seed.semantic,
        "as_like_as_references": likely,
        "evaluations": [seed.evaluations / seeds],
        "seconds": [time.time() - began],
    }


def mean(values: list) -> float:
    return sum(values) / len(values)


def measure(world: PocketWorld, name: str, letters: str, seeds: int) -> dict:
    runs = {letter: run(world, letter, seeds, VARIANTS[name]) for letter in letters}
    row = {"variant": name, "commit": commit_now(), "letters": {}}
    for key in ("right", "colours", "semantic", "evaluations", "seconds"):
        row[key] = round(mean([value for found in runs.values() for value in found[key]]), 4)
    for letter, found in runs.items():
        row["letters"][letter] = round(mean(found["right"]), 4)
    liked = [
        right
        for found in runs.values()
        for right, likely in zip(found["right"], found["as_like_as_references"], strict=True)
        if likely
    ]
    row["liked"] = len(liked)
    row["right_of_liked"] = round(mean(liked), 4) if liked else None
    return row


HEAD = """# What the presets were chosen by

Written by `python3 scripts/host.py bench presets`; {letters}, {seeds} pictures each, drawn at
guidance 7 in 10 steps from the same noises in every line, of other letters and fonts than
[the results](results.md). *right*: the mean of the two judges, by letter in a column of its own.
*colours*: ink and ground are those of the prompt. *liked*: pictures that the guiding encoder finds
as like the references as they are among themselves, and how many of those are right. Evaluations of
the model are for each picture, those that a backward pass makes again included. {pictures} pictures
leave a share of 80 % uncertain by about {error:.0f} points: small differences mean nothing.
"""


DROPPED = """These are what was tried once: their code was on branches that were not kept. The
spectrum prior is a penalty of the noise's power spectrum, as of MPGR (arXiv 2509.07027). *Earlier
presets*: from what *default* was then, AdamW at a rate of 0.2 from the best of 8 candidates drawn
in full, or from *quick*, AdamW at a rate of 0.4 from the best of 10 by their first three steps."""


def described(rows: list[dict]) -> str:
    head = ["variant", "evaluations", "right", "colours", "liked, right of them", "semantic loss"]
    lines = []
    for row in rows:
        liked = "0"
        if row["liked"]:
            liked = f"{row['liked']}, {row['right_of_liked']:.0%}"
        lines.append(
            [
                row["variant"],
                f"{row['evaluations']:.0f}",
                f"{row['right']:.1%}",
                f"{row['colours']:.0%}",
                liked,
                f"{row['semantic']:.3f}",
                ", ".join(f"{letter} {share:.0%}" for letter, share in row["letters"].items()),
                short(row["commit"], 7),
            ]
        )
    return table([*head, "by letter", "commit"], lines)


def write_page(how: dict, rows: dict[str, dict]) -> None:
    pictures = len(how["letters"]) * how["seeds"]
    error = 100 * 1.96 * (0.16 / pictures) ** 0.5
    lines = [
        HEAD.format(**how | {"letters": ", ".join(how["letters"])}, pictures=pictures, error=error)
    ]
    for title, variants in GROUPS.items():
        if own := [rows[name] for name in variants if name in rows]:
            lines += [f"## {title}", "", described(own), ""]
    dropped = [row for name, row in rows.items() if name not in VARIANTS]
    if dropped:
        lines += ["## Tried and dropped", "", DROPPED, ""]
        lines += [described(dropped), ""]
    PAGE.write_text("\n".join(lines))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--letters", default="DBJ")
    parser.add_argument("--seeds", type=int, default=12)
    parser.add_argument("--only", nargs="*", choices=VARIANTS, default=[])
    parser.add_argument("--anew", action="store_true", help="measure every line again")
    args = parser.parse_args()
    how = {"letters": args.letters, "seeds": args.seeds}
    path = RESULTS / "presets.json"
    earlier = json.loads(path.read_text()) if path.exists() else {}
    kept = earlier.get("variants", []) if earlier.get("settings") == how else []
    rows = {row["variant"]: row for row in kept}
    world = PocketWorld()
    for name in args.only or VARIANTS:
        if name in rows and not (args.only or args.anew):
            continue
        rows[name] = measure(world, name, args.letters, args.seeds)
        print(rows[name], flush=True)
        ordered = [rows[v] for v in VARIANTS if v in rows]
        ordered += [row for v, row in rows.items() if v not in VARIANTS]
        path.write_text(json.dumps({"settings": how, "variants": ordered}, indent=1) + "\n")
    write_page(how, rows)


if __name__ == "__main__":
    main()
