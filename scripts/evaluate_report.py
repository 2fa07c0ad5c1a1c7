"""What `evaluate` shows: a contact sheet for each concept, and report.md."""

from collections.abc import Iterator

import torch
from PIL import Image, ImageDraw, ImageFont, ImageOps

KINDS = {"plain": "plain", "seedselect": "SeedSelect"}


def to_picture(image: torch.Tensor) -> Image.Image:
    """IMAGE [H, W, 3] in 0..1 as 8 bits."""
    pixels = (image[..., :3].float().clamp(0, 1) * 255).round().to(torch.uint8)
    return Image.fromarray(pixels.cpu().numpy())


def contact_sheet(name: str, pictures: dict, right: dict[str, list[bool]]) -> Image.Image:
    """Rows of up to eight pictures; framed green where the judge reads the concept, else red."""
    cell = 136
    side = 130
    head = 44
    sheet = Image.new("RGB", (side + 8 * cell, head + 4 * cell), "white")
    draw = ImageDraw.Draw(sheet)
    large = ImageFont.load_default(22)
    small = ImageFont.load_default(15)
    draw.text((12, 10), name, "black", large)
    for row, kind in enumerate(("references", "real", *KINDS)):
        top = head + row * cell
        draw.text((12, top + 6), {"real": "held out", **KINDS}.get(kind, kind), "black", small)
        if kind in right:
            share = sum(right[kind]) / len(right[kind])
            draw.text((12, top + 26), f"{share:.0%} right", "#6B7178", small)
        for place, image in enumerate(pictures[kind][:8]):
            left = side + place * cell
            if kind in right:
                frame = "#2E9E4F" if right[kind][place] else "#D0342C"
                draw.rectangle([left, top, left + cell - 5, top + cell - 5], fill=frame)
            sheet.paste(ImageOps.pad(to_picture(image), (cell - 12,) * 2), (left + 4, top + 4))
    return sheet


def report_lines(report: dict) -> Iterator[str]:
    """report.md."""
    settings = report["settings"]
    summary = report["summary"]
    yield "# SeedSelect on your concepts\n"
    yield f"Command: `{report['command']}`\n"
    for warning in report["warnings"]:
        yield f"- **Note:** {warning}"
    yield "\n## Accuracy\n"
    yield (
        f"Share of {settings['pictures']} pictures of each kind that lie nearest to the centroid "
        "of their own concept's held-out pictures, as the judge sees them. Real: the held-out "
        "pictures themselves, each left out of its centroid: what can be reached.\n"
    )
    yield "| concept | plain | SeedSelect | real | held out |\n| --- | --- | --- | --- | --- |"
    for row in report["concepts"]:
        shares = " | ".join(f"{row['accuracy'][k]:.0%}" for k in (*KINDS, "real"))
        yield f"| {row['concept']} | {shares} | {row['held_out']} |"
    means = []
    for kind in (*KINDS, "real"):
        low, high = summary["accuracy"][kind]["interval"]
        means.append(f"{summary['accuracy'][kind]['mean']:.0%} ({low:.0%} to {high:.0%})")
    yield f"| **all pictures** (95 % interval) | {' | '.join(means)} | |"

    yield "\n## Diversity\n"
    yield (
        "Entropy of the shares of bins that half of the held-out pictures make, and NDB, the "
        'number of bins whose share differs significantly; the other half is "real". Equally '
        "many pictures of each kind are compared. Read a figure beside the real one.\n"
    )
    yield (
        "| concept | bins | compared | entropy: real, plain, SeedSelect | NDB: real, plain, "
        "SeedSelect | mean distance: real, plain, SeedSelect | near-copies of references |"
    )
    yield "| --- | --- | --- | --- | --- | --- | --- |"
    for row in report["concepts"]:
        if (found := row["diversity"]) is None:
            yield f"| {row['concept']} | too few held-out pictures | | | | | |"
            continue
        sets = [found["real"], found["plain"], found["generated"]]
        columns = [f"{found['bins']}", f"{found['compared']}"]
        columns += [", ".join(f"{s[key]:.2f}" for s in sets) for key in ("entropy", "ndb")]
        columns += [", ".join(f"{s['pairwise']:.3f}" for s in sets)]
        columns += [f"{row['copies_of_references']['seedselect']} of {settings['pictures']}"]
        yield f"| {row['concept']} | {' | '.join(columns)} |"

    yield "\n## Few-shot classification\n"
    yield (
        f"A linear probe on the judge's features, trained on {settings['references']} references a "
        f"concept alone, and with {settings['pictures']} pictures of either kind added; share of "
        "the held-out pictures that it gets right.\n"
    )
    yield "| concept | references | + plain | + SeedSelect |\n| --- | --- | --- | --- |"
    order = ("references", *KINDS)
    for row in report["concepts"]:
        shares = " | ".join(f"{row['classification'][k]:.0%}" for k in order)
        yield f"| {row['concept']} | {shares} |"
    means = " | ".join(f"{summary['classification'][k]:.0%}" for k in order)
    yield f"| **mean** | {means} |"
