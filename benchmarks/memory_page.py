"""docs/memory.md from results/memory.json: which card holds which model, and how that is known."""

from pathlib import Path

PAGE = Path(__file__).resolve().parent.parent / "docs" / "memory.md"
GIB = 2**30
GB = 10**9
CARDS = (8, 12, 16, 24, 32)
# Of a card, for the driver's context and the desktop, in GiB.
TAKEN = 0.6
# Weights that do not fit are streamed layer by layer: one in use, one on its way.
STREAMED_LAYERS = 2
# How far a measured peak may be from the predicted one.
NEARNESS = 0.15

GOALS_OF_CARDS = (
    ("SD 1.5", 4),
    ("SDXL", 8),
    ("SD 3.5 medium", 8),
    ("Z-Image-Turbo, fp8", 12),
    ("Flux-dev, fp8", 16),
    ("Qwen-Image, fp8", 32),
)
# Largest need in GiB of a decoder of 1024 x 1024 pixels, by type.
GOALS_OF_DECODERS = {"bfloat16": 2.5, "float32": 4.0}
BY_BLOCKS = "by blocks"
WHOLE = "whole calls"
SHARE_BY_BLOCKS = 1 / 6
GROWTH_BY_FEWER_BITS = 1.1

HEAD = """# What card do I need?

Made by `make memory`, which counts every figure and writes this page and
[memory.json](../benchmarks/results/memory.json); nothing here is typed by hand.
torch {torch}, commit {commit}. **Predicted**: no card was used, see [how](#how-this-is-counted).

One seed at a time, one picture of the size that the model is made for, the exact gradient. A card
is told to hold a model where everything fits that is on it at the worst moment of a search: the
weights of the model and the activations of a call; or, while a picture is compared, VAE, image
encoder (CLIP ViT-H/14) and their activations. What is not in use is moved out, as ComfyUI does it
between nodes; within a search it makes room once, before the first iteration, and where that is not
enough it sends a part of the weights to the card for each call.
{taken} GiB of each card are left to driver and desktop, and activations are counted {margin} times,
for what kernels need for themselves and for gaps.

{summary}

The search chooses by itself. *Whole calls* is the fastest. *Prompts apart* and *by blocks* make
each call of the model once more; *in main memory*, what waits for its backward pass waits there.
*N GiB streamed*: so much of the weights stays in main memory and is sent to the card for each call,
which is slow. A picture is decoded whole where that fits, and else in strips of rows.

{cards}

## What a call needs

GiB beside the weights, at each level; in brackets what waits in main memory. Weights in GB.

{calls}

## What a picture needs

GiB beside the weights, to decode one picture and compare it with the references (VAE in bfloat16,
image encoder in half precision, computed in float32, two views).

{pictures}

Decoders alone:

{decoders}

Image encoders alone, two views of a picture: {encoders}.

## Goals

{goals}

## How this is counted

The pack's own chain and objective run on PyTorch's meta device, whose tensors have shapes and types
and no numbers, through ComfyUI's own classes at full size: one call or one picture, forward,
recomputed, backward, twice in a row. Every storage that comes to life is counted until it dies.
Attention and the root mean square norm keep what the kernels of a card keep. What kernels take for
themselves is not counted, nor are the few latents that a run keeps for each step.

Is it right? The UNet and the decoder of Stable Diffusion 1.5 at 512 x 512, in float32 with random
weights, were run on the CPU, each way in a process of its own; *counted* is the same count on real
tensors, *measured* by how much that process grew.

{check}

To make this page again: `make memory`. One model: `make memory ARGS="--only SDXL"`.
"""


# ---------------------------------------------------------------- cards


def usable(card: float) -> float:
    """Bytes of a card that a search can use."""
    return (card - TAKEN) * GIB


def way_of_pictures(row: dict, margin: float, card: float) -> str | None:
    """The fastest way to decode and compare a picture that a card holds."""
    for way in ("whole", "in strips"):
        if row["weights"] + margin * row[way] <= usable(card):
            return way
    return None


def verdict(table: dict, name: str, card: float) -> dict | None:
    """The fastest level at which a card holds a model: its name, and bytes of streamed weights."""
    row = row_of(table, "models", name=name)
    pictures = row_of(table, "pictures", name=row["vae"], pixels=row["pixels"])
    margin = table["margin"]
    if way_of_pictures(pictures, margin, card) is None:
        return None
    room = {level: usable(card) - margin * need["device"] for level, need in row["levels"].items()}
    for level, for_weights in room.items():
        if row["weights"] <= for_weights:
            return {"level": level, "streamed": 0}
    level = max(room, key=room.get)
    if room[level] < STREAMED_LAYERS * row["largest layer"]:
        return None
    return {"level": level, "streamed": row["weights"] - room[level]}


def row_of(table: dict, section: str, **wanted) -> dict:
    return next(row for row in table[section] if wanted.items() <= row.items())


# ---------------------------------------------------------------- goals


def goals(table: dict) -> list[dict]:
    """What was aimed at, what was found, and whether it was met."""
    return [
        *(_goal_of_card(table, name, card) for name, card in GOALS_OF_CARDS),
        _goal_by_blocks(table),
        *(_goal_of_decoder(table, kind, most) for kind, most in GOALS_OF_DECODERS.items()),
        *_goals_of_fewer_bits(table),
        *([_goal_of_check(table)] if table["check"] else []),
    ]


def _goal(goal: str, found: str, met: bool) -> dict:
    return {"goal": goal, "found": found, "met": bool(met)}


def _goal_of_card(table: dict, name: str, card: int) -> dict:
    found = verdict(table, name, card)
    row = row_of(table, "models", name=name)
    title = f"{name} at {row['pixels']} within {card} GB"
    return _goal(title, _said(found), found is not None and not found["streamed"])


def _goal_by_blocks(table: dict) -> dict:
    shares = {
        row["name"]: row["levels"][BY_BLOCKS]["device"] / row["levels"][WHOLE]["device"]
        for row in table["models"]
        if row["transformer"]
    }
    worst = max(shares, key=shares.get)
    return _goal(
        "transformers by blocks: at most 1/6 of whole calls",
        f"at most 1/{1 / shares[worst]:.1f} ({worst})",
        shares[worst] <= SHARE_BY_BLOCKS,
    )


def _goal_of_decoder(table: dict, kind: str, most: float) -> dict:
    rows = [row for row in table["decoders"] if row["type"] == kind and row["pixels"] == 1024]
    largest = max(min(row["whole"], row["in strips"]) for row in rows) / GIB
    title = f"decoders at 1024 in {kind}: at most {most} GiB"
    return _goal(title, f"{largest:.2f} GiB", largest <= most)


def _goals_of_fewer_bits(table: dict) -> list[dict]:
    many = row_of(table, "models", name="Flux-dev")
    few = row_of(table, "models", name="Flux-dev, fp8")
    growth = {}
    totals = {}
    for level in many["levels"]:
        needs = [row["levels"][level]["device"] for row in (many, few)]
        growth[level] = needs[1] / needs[0]
        totals[level] = (few["weights"] + needs[1]) / (many["weights"] + needs[0])
    worst = max(growth, key=growth.get)
    return [
        _goal(
            "Flux-dev in fp8 needs less than in bf16, weights and activations",
            f"at most {max(totals.values()):.2f} times as much",
            max(totals.values()) < 1,
        ),
        _goal(
            f"its activations at most {GROWTH_BY_FEWER_BITS} times those in bf16",
            f"at most {growth[worst]:.2f} times ({worst})",
            growth[worst] <= GROWTH_BY_FEWER_BITS,
        ),
    ]


def _goal_of_check(table: dict) -> dict:
    off = max(abs(row["measured"] / row["predicted"] - 1) for row in table["check"])
    title = f"measured peaks within {NEARNESS:.0%} of the predicted ones"
    return _goal(title, f"{off:.0%} off at most", off <= NEARNESS)


# ---------------------------------------------------------------- the page


def write_page(table: dict) -> None:
    PAGE.write_text(page(table), encoding="utf-8")


def page(table: dict) -> str:
    return HEAD.format(
        torch=table["torch"],
        commit=_commit(table["commit"]),
        taken=TAKEN,
        margin=table["margin"],
        summary=_summary(table),
        cards=_cards(table),
        calls=_calls(table),
        pictures=_pictures(table),
        decoders=_decoders(table),
        encoders=", ".join(
            f"{row['name']} {_gib(row['device'])} GiB beside {row['weights'] / GB:.1f} GB"
            for row in table["encoders"]
        ),
        goals=_lines(
            ("goal", "found", "met"),
            [(g["goal"], g["found"], "yes" if g["met"] else "**no**") for g in table["goals"]],
        ),
        check=_check(table),
    )


def _commit(commit: str) -> str:
    """As `commit_now` tells it, with a star for changes, shortened."""
    return commit[:12] + (" and changes" if commit.endswith("*") else "")


def _lines(head: tuple, rows: list[tuple]) -> str:
    ruled = [head, ("---",) * len(head), *rows]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in ruled)


def _gib(size: float) -> str:
    return f"{size / GIB:.1f}"


def _said(found: dict | None) -> str:
    if found is None:
        return "no"
    streamed = f", {_gib(found['streamed'])} GiB streamed" if found["streamed"] else ""
    return found["level"] + streamed


def _summary(table: dict) -> str:
    lines = []
    for card in CARDS:
        found = {row["name"]: verdict(table, row["name"], card) for row in table["models"]}
        held = [name for name, how in found.items() if how and not how["streamed"]]
        slow = [name for name, how in found.items() if how and how["streamed"]]
        line = f"- **{card} GB** holds {'; '.join(held) or 'none of them'}."
        if slow:
            line += f" With a part of the weights streamed: {'; '.join(slow)}."
        lines.append(line)
    return "\n".join(lines)


def _title(row: dict) -> str:
    return f"{row['name']}, {row['pixels']}"


def _cards(table: dict) -> str:
    rows = [
        (_title(row), *(_said(verdict(table, row["name"], card)) for card in CARDS))
        for row in table["models"]
    ]
    return _lines(("model, side of the picture", *(f"{card} GB" for card in CARDS)), rows)


def _calls(table: dict) -> str:
    levels = list(dict.fromkeys(level for row in table["models"] for level in row["levels"]))
    rows = []
    for row in table["models"]:
        name = f"{_title(row)}{', guided' if row['guided'] else ''}"
        needs = [_need(row["levels"].get(level)) for level in levels]
        rows.append((name, f"{row['weights'] / GB:.1f}", *needs))
    return _lines(("model", "weights", *levels), rows)


def _need(need: dict | None) -> str:
    if need is None:
        return ""
    away = need["main memory"]
    return _gib(need["device"]) + (f" ({_gib(away)})" if away >= 0.05 * GIB else "")


def _pictures(table: dict) -> str:
    rows = [
        (_title(row), f"{row['weights'] / GB:.1f}", _gib(row["whole"]), _gib(row["in strips"]))
        for row in table["pictures"]
    ]
    return _lines(("VAE, side of the picture", "weights", "whole", "in strips"), rows)


def _decoders(table: dict) -> str:
    rows = []
    for row in table["decoders"]:
        needs = (_gib(row["whole"]), _gib(row["in strips"]))
        rows.append((_title(row), row["type"], f"{row['weights'] / GB:.1f}", *needs))
    return _lines(("VAE, side of the picture", "type", "weights", "whole", "in strips"), rows)


def _check(table: dict) -> str:
    rows = [
        (
            f"{row['part']}, {row['way']}",
            f"{row['predicted'] / GIB:.2f}",
            f"{row['counted'] / GIB:.2f}",
            f"{row['measured'] / GIB:.2f}",
            f"{row['measured'] / row['predicted']:.2f}",
        )
        for row in table["check"]
    ]
    head = ("part", "predicted GiB", "counted", "measured", "measured / predicted")
    return _lines(head, rows) if rows else "This page was made without that check."
