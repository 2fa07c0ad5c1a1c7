"""What makes a set of pictures various? The measurement behind the defaults of 'Diverse Set'.

python3 scripts/host.py bench sets_trial [--letters DB] [--count 48] [--references 8]

Sets of rare letters are made in each way below, from the same first noises. Writes
``results/sets_trial.json`` and ``docs/sets.md``, which have a table for each choice of letters,
count and references. Lines that are there stay, with the commit that they were measured at; what is
no way any more was tried and dropped.
"""

import argparse
import json
from dataclasses import replace

from pocket_world import REPO, RESULTS, SAMPLING, PocketWorld, colors_of, letter_references

# isort: split

import torch
import torch.nn.functional as F

from claims.classification import REAL_GROUP
from claims.diversity_section import eyes
from pocket.atlas import load_atlas
from pocket.drawing import COLORS, LETTERS, RGB, paint
from quality import commit_now, short, table
from seedselect_core.search.presets import PRESETS
from seedselect_core.sets.bootstrap import SetSettings, make_set
from seedselect_core.sets.diversity import diversity_report

PAGE = REPO / "docs" / "sets.md"
BATCH = 4
# By name the settings that a set is made by.
WAYS = {
    "the defaults: turned by 63 degrees, duplicates at 0.07": {},
    "turned by 40 degrees, duplicates at 0.02": {"angle": 0.7, "min_distance": 0.02},
    "turned by 40 degrees": {"angle": 0.7},
    "turned by 74 degrees": {"angle": 1.3},
    "duplicates at 0.1": {"min_distance": 0.1},
}


def real_glyphs(letter: str) -> torch.Tensor:
    """The letter in fonts that nothing was trained on, in the prompt's colours, IMAGE."""
    ink, ground = (RGB[COLORS.index(color)][None] for color in colors_of(letter))
    masks = load_atlas(REAL_GROUP)[:, LETTERS.index(letter)].float() / 255
    many = len(masks)
    return paint(masks, ink.expand(many, 3), ground.expand(many, 3)).movedim(1, -1)


@torch.inference_mode()
def run(world: PocketWorld, letter: str, references: int, way: dict, count: int) -> dict:
    """Figures of one set."""
    scene = world.scene(world.prompt(letter), letter_references(letter, references), BATCH)
    scene = replace(scene, second_opinion=world.second_encoder)
    sampling = SAMPLING.override(seed=1000 * ord(letter))
    wanted = SetSettings(count=count, attempts=2.0, **way)
    _, made = make_set(scene, sampling, PRESETS["default"], wanted)
    images = made.images[:count]
    answers = world.right(images, letter).values()
    row = {
        "made": len(images),
        "right": sum(map(sum, answers)) / 2 / len(images),
        "evaluations": sum(made.evaluations) / len(images),
        "later": made.cost()[1],
        "duplicates": made.duplicates,
        "misses": made.misses,
    }
    real = real_glyphs(letter)
    for name, see in eyes(world).items():
        report = diversity_report(*(F.normalize(see(x), dim=1) for x in (real, images)))
        row[f"near to {name}"] = report.generated.duplicates / len(images)
        row[f"entropy by {name}"] = report.generated.entropy
    return row


def measure(world: PocketWorld, name: str, letters: str, count: int, references: int) -> dict:
    runs = [run(world, letter, references, WAYS[name], count) for letter in letters]
    means = {key: round(sum(row[key] for row in runs) / len(runs), 4) for key in runs[0]}
    return {"way": name, "commit": commit_now(), **means}


HEAD = """# How the pictures of a set are made to differ

Written by `python3 scripts/host.py bench sets_trial`: sets of letters of the toy model, in batches
of {batch} from the same first noises, preset *default*, with the second encoder's opinion.
*near*: share of pictures nearer to another of their set than half of what a real glyph is to its
nearest, seen by both encoders and both judges, which take no part. *entropy*: bits over clusters of
real glyphs in the prompt's colours, mean of the four. *right*: the mean of the two judges. *later*:
evaluations of the model for each picture after the first batch. So few pictures show no small
differences.
"""


DROPPED = """Of the ways of 12 pictures some are no setting any more: they were code of a branch
that was not kept. All of them turned by 40 degrees. The first batch never came nearer to the
references than they are to each other, so that the early stop, which became a rule, had nothing to
do. The gradient of the repulsion was never shown to be exact.
"""


def described(rows: list[dict]) -> str:
    head = ["way", "made", "near to encoder, second, judge, judge", "entropy", "right"]
    lines = []
    for row in rows:
        entropies = [row[key] for key in row if key.startswith("entropy")]
        lines.append(
            [
                row["way"],
                f"{row['made']:.1f}",
                ", ".join(f"{row[key]:.0%}" for key in row if key.startswith("near to")),
                f"{sum(entropies) / 4:.2f}",
                f"{row['right']:.0%}",
                f"{row['evaluations']:.0f}",
                f"{row['later']:.0f}",
                f"{row['duplicates']:.1f}, {row['misses']:.1f}",
                short(row["commit"], 7),
            ]
        )
    return table([*head, "evaluations", "later", "duplicates, misses", "commit"], lines)


def write_page(trials: list[dict]) -> None:
    lines = [HEAD.format(batch=BATCH)]
    for trial in trials:
        letters = ", ".join(trial["letters"])
        references = f"{trial['references']} reference{'s' * (trial['references'] > 1)}"
        lines += [f"## {letters}: {trial['count']} pictures towards {references}", ""]
        lines += [described(trial["sets"]), ""]
    PAGE.write_text("\n".join([*lines, DROPPED]))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--letters", default="DB")
    parser.add_argument("--count", type=int, default=48)
    parser.add_argument("--references", type=int, default=8)
    how = vars(parser.parse_args())
    path = RESULTS / "sets_trial.json"
    trials = json.loads(path.read_text()) if path.exists() else []
    trial = next((trial for trial in trials if how.items() <= trial.items()), None)
    if trial is None:
        trial = how | {"sets": []}
        trials.insert(0, trial)
    rows = trial["sets"]
    world = PocketWorld()
    for name in WAYS:
        if any(row["way"] == name for row in rows):
            continue
        rows.append(measure(world, name, **how))
        print(rows[-1], flush=True)
        path.write_text(json.dumps(trials, indent=1) + "\n")
        write_page(trials)


if __name__ == "__main__":
    main()
