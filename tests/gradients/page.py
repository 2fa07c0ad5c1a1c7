"""docs/coverage.md from docs/coverage.json: every cell is a measured value."""

from collections import Counter
from pathlib import Path

PAGE = Path(__file__).resolve().parents[2] / "docs" / "coverage.md"

TITLES = {
    "samplers": "Samplers",
    "schedulers": "Schedulers",
    "families": "Model families",
    "weights": "Weights, LoRA and patches",
    "conditioning": "Conditioning and guiders",
    "memory": "Memory modes",
    "encoders": "Image encoders",
    "vaes": "VAEs",
}
HEAD = """# What the gradient is exact for

Made by `make coverage`, which measures every row and writes this page and `coverage.json`; nothing
here is typed by hand. ComfyUI {comfyui}, torch {torch}, Python {python}, {machine}, commit
{commits}.

- *Forward*: the unrolled chain returns what the host's own sampling returns, to the last bit, in
  float32 on the CPU. (Encoders and VAEs: the value is that of the host's own node.)
- *Gradient error*: the largest relative error of a directional derivative against central
  differences, in float64. Exact means at most 1e-5, forward equality, and weights that are the same
  objects and bytes afterwards.
- *By blocks*: the same where memory is short and every block of the model is made again by itself
  (empty: such a graph cannot be cut, as where LoRA hooks exchange weights within a call).
- *Refused*: the user gets the sentence in the last column, before any work. *Not run*: the machine
  that made this page could not run it.
- Weights of fewer bits: the gradient of the code is measured with the values that they mean, in
  float64; the remark tells how far the run's own gradient is from it. Layers that round their
  activations too (int8, w4a4) are differentiated as if they did not, since rounding has no slope.
- `torch.compile`: a search runs the model as it was before it was compiled. Sampling with the
  backend inductor, whose kernels round otherwise, differs in the last bits; no row claims it.
- Models are the host's real classes with random weights, small, read through the host's own loader
  and detection where their shapes allow.

What is not in this table is not refused: the nodes warn, compare the gradient with one finite
difference, and go on if the two agree.

{summary}
"""


def write_page(table: dict) -> None:
    PAGE.write_text(page(table), encoding="utf-8")


def page(table: dict) -> str:
    rows = table["rows"]
    verdicts = sorted({row["verdict"] for row in rows})
    summary = ["| | " + " | ".join(verdicts) + " |", "| --- " * (len(verdicts) + 1) + "|"]
    parts = []
    for section, title in TITLES.items():
        own = [row for row in rows if row["section"] == section]
        if not own:
            continue
        counts = Counter(row["verdict"] for row in own)
        cells = " | ".join(str(counts[verdict]) for verdict in verdicts)
        summary.append(
            f"| [{title}](#{title.lower().replace(',', '').replace(' ', '-')}) | {cells} |"
        )
        parts += [f"## {title}", "", *_lines(own), ""]
    commits = ", ".join(sorted({row["commit"] for row in rows}))
    return (
        HEAD.format(**table, commits=commits, summary="\n".join(summary)) + "\n" + "\n".join(parts)
    )


def _lines(rows: list[dict]) -> list[str]:
    lines = ["| name | forward | gradient error | by blocks | verdict | remark |"]
    lines.append("| --- | --- | --- | --- | --- | --- |")
    for row in rows:
        forward = {True: "equal", False: "differs", None: ""}[row.get("forward")]
        whole = _shown(row.get("gradient_error"))
        apart = _shown(row.get("blocks_error"))
        remark = " ".join(filter(None, (row.get("refusal"), row.get("remark"))))
        remark = remark.replace("|", "\\|").replace("\n", " ")
        cells = (row["name"], forward, whole, apart, row["verdict"], remark)
        lines.append(f"| {' | '.join(cells)} |")
    return lines


def _shown(error: float | None) -> str:
    return "" if error is None else f"{error:.0e}"
