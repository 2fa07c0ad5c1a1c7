"""Write docs/results.md from the figures that `quality` measured: tables, plots, commands.

python3 scripts/host.py bench results_page

Nothing on that page is typed by hand but the sentences between the figures.
"""

import json
import os
import re
from collections.abc import Callable
from pathlib import Path

import matplotlib

from quality import SECTIONS, code_of

# isort: split

from claims.common import RARE

matplotlib.use("Agg")
import matplotlib.pyplot as plt

REPO = Path(__file__).resolve().parent.parent
FIGURES = REPO / "benchmarks" / "results" / "quality"
PAGE = REPO / "docs" / "results.md"
PLOTS = REPO / "docs" / "results"
COLORS = ["#8a8a8a", "#4477aa", "#66ccee", "#228833", "#ccbb44", "#aa3377", "#000000", "#ee6677"]


def percent(figure: dict) -> str:
    """Mean and 95 % interval of a share."""
    return f"{figure['mean']:.1%} ({figure['low']:.0%} to {figure['high']:.0%})"


def signed(figure: dict) -> str:
    """Mean and 95 % interval of a difference of shares."""
    return f"{figure['mean']:+.1%} ({figure['low']:+.1%} to {figure['high']:+.1%})"


def plain(figure: dict) -> str:
    """Mean and 95 % interval of what is no share."""
    return f"{figure['mean']:.2f} ({figure['low']:.2f} to {figure['high']:.2f})"


def table(head: list[str], rows: list[list]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(str(cell) for cell in line) + " |" for line in lines)


def section(name: str) -> dict:
    return json.loads((FIGURES / f"{name}.json").read_text())


def describe_run(result: dict) -> str:
    """Where a section's figures come from; a commit with a star had uncommitted changes."""
    commits = ", ".join(f"`{c[:12]}{'*' * c.endswith('*')}`" for c in result["commits"])
    return (
        f"*`python3 scripts/host.py bench quality --only {result['section']}`; measured at commit "
        f"{commits}, {result['machine']}, torch {result['torch']}, "
        f"{result['core_seconds'] / 60:.0f} minutes of one core.*"
    )


def current(name: str) -> bool:
    """Whether a section was measured with the code as it is now."""
    measured = (FIGURES / f"{name}.json").exists()
    return measured and section(name).get("code") == code_of(SECTIONS[name])


def error_bars(points: list[dict]) -> list[list[float]]:
    return [
        [max(0.0, point["mean"] - point["low"]) for point in points],
        [max(0.0, point["high"] - point["mean"]) for point in points],
    ]


def finish(figure, name: str) -> str:
    PLOTS.mkdir(parents=True, exist_ok=True)
    figure.tight_layout()
    figure.savefig(PLOTS / f"{name}.png", dpi=110)
    plt.close(figure)
    return f"![{name}](results/{name}.png)"


def picture_of(name: str) -> str:
    """The pictures that a section's units kept."""
    return f"![{name}]({os.path.relpath(FIGURES / f'{name}.png', PAGE.parent)})"


def frequency() -> str:
    result = section("frequency")
    letters = result["summary"]["letters"]
    buckets = result["summary"]["buckets"]
    figure, axes = plt.subplots(figsize=(9, 3.6))
    for offset, when, color in ((-0.2, "without", COLORS[0]), (0.2, "with", COLORS[3])):
        points = [row[when]["right"] for row in letters]
        axes.bar(
            [index + offset for index in range(len(letters))],
            [point["mean"] for point in points],
            0.4,
            yerr=error_bars(points),
            color=color,
            ecolor="#444444",
            error_kw={"linewidth": 0.8},
            label=when + " SeedSelect",
        )
    labels = [f"{row['letter']}\n{row['fonts']}" for row in letters]
    axes.set_xticks(range(len(letters)), labels, fontsize=7)
    axes.set(ylabel="judged right", xlabel="letter, and fonts of it that the model has seen")
    axes.legend(loc="lower center", bbox_to_anchor=(0.5, 1.0), ncols=2, frameon=False)
    rows = [
        [
            name,
            percent(row["without"]["right"]),
            percent(row["with"]["right"]),
            percent(row["with"]["colours"]),
            f"{row['with']['norm']['mean']:.2f}",
            row["with"]["right"]["count"],
        ]
        for name, row in buckets.items()
    ]
    head = ["letters", "right without", "right with", "both colours right with"]
    head += ["norm (Gaussian: 16)", "pictures"]
    rarest = [row for row in letters if row["letter"] in RARE]
    by_letter = [
        [when, *(f"{row[when]['right']['mean']:.0%}" for row in rarest)]
        for when in ("without", "with")
    ]
    names = ["right", *(f"{row['letter']}, {row['fonts']} fonts" for row in rarest)]
    missed = [
        [
            letter,
            f"{row['missed']:g} of {row['of']}",
            "none is" if row["read by both"] is None else f"{row['read by both']:.3f}",
            ", ".join(f"{loss:.3f}" for loss in row["others"]),
            f"{row['others read by the encoder']} of {len(row['others'])}",
        ]
        for letter, row in result["summary"]["missed"].items()
    ]
    losses = ["missed", "pictures (a judge counts half)", "mean semantic loss of those both read"]
    losses += ["semantic losses of the others", "the encoder reads of these"]
    tables = [table(head, rows), table(names, by_letter), table(losses, missed)]
    return "\n\n".join([finish(figure, "frequency"), *tables, describe_run(result)])


def rivals() -> str:
    result = section("rivals")
    entries = result["summary"]["table"]
    methods = list(dict.fromkeys(entry["method"] for entry in entries))
    budgets = sorted({entry["budget"] for entry in entries})
    figure, axes = plt.subplots(figsize=(7, 4.2))
    rows = []
    for method, color in zip(methods, COLORS, strict=True):
        own = {entry["budget"]: entry for entry in entries if entry["method"] == method}
        axes.plot(
            list(own),
            [entry["right"]["mean"] for entry in own.values()],
            label=method,
            color=color,
            marker="o",
            linewidth=2.5 if method == "ours" else 1.2,
        )
        cells = [
            f"{percent(own[b]['right'])}; {own[b]['semantic_alike']['mean']:.3f}; {own[b]['cost']}"
            if b in own
            else ""
            for b in budgets
        ]
        rows.append([f"**{method}**" if method == "ours" else method, *cells])
    axes.set_xscale("log")
    axes.set_xticks(budgets, budgets)
    axes.set(xlabel="model evaluations for each picture", ylabel="judged right", ylim=(0, 1.03))
    axes.legend(fontsize=8)
    head = ["judged right; semantic loss; spent", *(f"{b} evaluations" for b in budgets)]
    last = max(budgets)
    each = [entry for entry in entries if entry["budget"] == last]
    by_letter = table(
        [f"at {last}", *each[0]["letters"]],
        [[e["method"], *(f"{share:.0%}" for share in e["letters"].values())] for e in each],
    )
    return "\n\n".join(
        [
            finish(figure, "rivals"),
            table(head, rows),
            by_letter,
            picture_of("rivals"),
            describe_run(result),
        ]
    )


def styles() -> str:
    result = section("styles")
    rows = {"no search": result["summary"]["without"], **result["summary"]["styles"]}
    cells = [
        [
            name,
            percent(row["right"]),
            percent(row["colours"]),
            f"{row['norm']['mean']:.2f}",
            row["right"]["count"],
        ]
        for name, row in rows.items()
    ]
    head = ["references", "judged right", "both colours right", "norm", "pictures"]
    return "\n\n".join([table(head, cells), picture_of("styles"), describe_run(result)])


def tradeoff() -> str:
    result = section("tradeoff")
    rows = [
        [
            sweep,
            label,
            percent(figures["right"]),
            f"{figures['colours']['mean']:.0%}",
            f"{figures['semantic']['mean']:.3f}",
            f"{figures['norm']['mean']:.2f}",
        ]
        for sweep, variants in result["summary"]["sweeps"].items()
        for label, figures in variants.items()
    ]
    head = ["setting", "value", "judged right", "both colours right", "semantic loss", "norm"]
    return "\n\n".join([table(head, rows), describe_run(result)])


def transfer() -> str:
    result = section("transfer")
    parts = []
    for name, changes in result["summary"]["table"].items():
        rows = [
            [change, percent(figures["with"]), percent(figures["without"])]
            for change, figures in changes.items()
        ]
        parts.append(table([name, "judged right", "random noise, sampled the same way"], rows))
    return "\n\n".join([*parts, describe_run(result)])


def sets() -> str:
    result = section("sets")
    rows = [
        [
            name,
            percent(row["right_plain"]),
            percent(row["right_first"]),
            percent(row["right_later"]) if "right_later" in row else "",
            f"{row['evaluations_first']:.0f}, {row['evaluations_later']:.0f}",
            percent(row["later_share"]),
            f"{row['wanted']}; {row['duplicates']}, {row['misses']}",
            f"{row['short']} of {row['sets']}",
        ]
        for name, row in result["summary"]["table"].items()
    ]
    head = ["sets", "plain, right", "first batch, right", "later, right"]
    head += ["predictions a picture: first, later", "later's share", "wanted; duplicates, misses"]
    head += ["sets that stayed short"]
    return "\n\n".join([table(head, rows), picture_of("sets"), describe_run(result)])


def diversity() -> str:
    result = section("diversity")
    parts = []
    for eye, found in result["summary"]["table"].items():
        rows = [
            [
                who,
                *(plain(row[key]) for key in ("entropy", "ndb", "pairwise", "nearest_real")),
                percent(row["duplicate_share"]),
            ]
            for who, row in found["mean"].items()
        ]
        some = next(iter(found["letters"].values()))
        head = [f"seen by {eye}", "entropy (bits)", f"NDB of {some['bins']} bins"]
        head += ["mean distance", "to the nearest real one", "near-duplicates of another"]
        parts.append(table(head, rows))
    return "\n\n".join([*parts, describe_run(result)])


def classification() -> str:
    result = section("classification")
    table_of = result["summary"]["table"]
    shots = {name: row["arms"] for name, row in table_of.items()}
    arms = list(next(iter(shots.values())))
    figure, axes = plt.subplots(figsize=(7, 3.8))
    for number, (arm, color) in enumerate(zip(arms, COLORS, strict=False)):
        points = [rows[arm]["rare"] for rows in shots.values()]
        places = [index + (number - len(arms) / 2) * 0.12 for index in range(len(shots))]
        heights = [point["mean"] for point in points]
        bars = error_bars(points)
        axes.bar(places, heights, 0.11, yerr=bars, color=color, ecolor="#777777", label=arm)
    axes.set_xticks(range(len(shots)), list(shots))
    axes.set(ylabel="accuracy on the rare letters", ylim=(0, 1))
    axes.legend(loc="lower center", bbox_to_anchor=(0.5, 1.0), fontsize=7, ncols=4, frameon=False)
    rows = [
        [
            arm,
            *(
                f"{percent(rows[arm]['rare'])}; {rows[arm]['frequent']['mean']:.1%}; "
                f"{rows[arm]['overall']['mean']:.1%}"
                for rows in shots.values()
            ),
        ]
        for arm in arms
    ]
    head = ["rare; frequent; all letters", *shots]
    return "\n\n".join([finish(figure, "classification"), table(head, rows), describe_run(result)])


def _goals_of_frequency(row: Callable[[str, str, bool], None]) -> None:
    """Rare letters right, frequent ones unharmed."""
    buckets = section("frequency")["summary"]["buckets"]
    rare = buckets["eight rarest"]
    often = buckets["300 fonts and more"]
    right = rare["with"]["right"]["mean"]
    row("eight rarest letters right in 97 %", f"{right:.1%}", right >= 0.97)
    start = rare["without"]["right"]["mean"]
    row("from under 30 % without", f"{start:.1%}", start < 0.3)
    change = often["with"]["right"]["mean"] - often["without"]["right"]["mean"]
    row("frequent letters unharmed", f"{change:+.1%}", change >= 0)
    colors = rare["with"]["colours"]["mean"]
    row("the prompt's colours kept in 95 % of them", f"{colors:.1%}", colors >= 0.95)


def _goals_of_rivals(row: Callable[[str, str, bool], None]) -> None:
    """On the front at each budget."""
    summary = section("rivals")["summary"]
    for budget, found in summary["ahead"].items():
        own = {
            e["method"]: e["right"]["mean"] for e in summary["table"] if e["budget"] == int(budget)
        }
        best = found["best rival"]
        gap = found["gap"]
        measured = f"{own['ours']:.1%}; best rival {best}, {own[best]:.1%}; {signed(gap)}"
        goal = f"ours on the front at {budget} evaluations, {gap['count']} pictures"
        row(goal, measured, gap["mean"] >= 0)


def _goals_of_sets(row: Callable[[str, str, bool], None]) -> None:
    """What later pictures of a set cost."""
    share = section("sets")["summary"]["table"]["all"]
    cost = share["later_share"]
    row("a later picture costs a third of the first", percent(cost), cost["mean"] <= 1 / 3)
    first = share["right_first"]["mean"]
    later = share["right_later"]["mean"]
    row(
        "and is as often right, to within 2 points",
        f"{later:.1%}, the first {first:.1%}",
        later >= first - 0.02,
    )


def _goals_of_diversity(row: Callable[[str, str, bool], None]) -> None:
    """As various as real glyphs."""
    for eye, found in section("diversity")["summary"]["table"].items():
        real = found["mean"]["real"]
        made = found["mean"]["seedselect"]
        ratio = made["entropy"]["mean"] / real["entropy"]["mean"] - 1
        known = found["mean"]["fonts the model has seen"]
        most = known["entropy"]["mean"] / real["entropy"]["mean"] - 1
        measured = f"{ratio:+.1%}; the fonts that the model has seen {most:+.1%}"
        row(f"entropy within 5 % of real glyphs', seen by {eye}", measured, abs(ratio) <= 0.05)
        measured = f"{plain(made['ndb'])}, real {plain(real['ndb'])}"
        measured += f"; the fonts that the model has seen {plain(known['ndb'])}"
        met = made["ndb"]["mean"] <= 2 * real["ndb"]["mean"]
        row(f"NDB at most twice theirs, seen by {eye}", measured, met)


def _goals_of_classification(row: Callable[[str, str, bool], None]) -> None:
    """What a classifier gains."""
    for shots, found in section("classification")["summary"]["table"].items():
        best = found["best rival"]
        gain = found["gain"]
        theirs = found["arms"][best]["rare"]["mean"]
        most = found["arms"]["more real"]["rare"]["mean"] - theirs
        measured = f"{signed(gain['rare'])} over {best} ({theirs:.1%})"
        measured += f"; further real images {most:+.1%}"
        met = gain["rare"]["mean"] >= 0.1
        row(f"rare classes 10 points above the best rival, {shots}", measured, met)
        met = gain["frequent"]["mean"] >= -0.005
        row(
            f"no loss on the others, to within half a point, {shots}",
            signed(gain["frequent"]),
            met,
        )


GOALS = {
    "frequency": _goals_of_frequency,
    "rivals": _goals_of_rivals,
    "sets": _goals_of_sets,
    "diversity": _goals_of_diversity,
    "classification": _goals_of_classification,
}


def goals() -> str:
    """Each goal of the sections that are current, the figure, and whether it is met."""
    rows = []

    def row(goal: str, measured: str, met: bool) -> None:
        rows.append([goal, measured, "yes" if met else "**no**"])

    for name, add_goals in GOALS.items():
        if current(name):
            add_goals(row)
    return table(["goal", "measured", "met"], rows)


PARTS = {
    part.__name__: part
    for part in (
        frequency,
        rivals,
        tradeoff,
        styles,
        transfer,
        sets,
        diversity,
        classification,
    )
}


def main() -> None:
    template = (Path(__file__).parent / "results_page.template.md").read_text()
    for name, part in PARTS.items():
        command = f"`python3 scripts/host.py bench quality --only {name}`"
        missing = f"*Not measured with the code as it is now: {command}.*"
        template = template.replace(f"<!-- {name} -->", part() if current(name) else missing)

    def explained(match: re.Match) -> str:
        """What is said of sections' figures, where they are there."""
        return match[2] if all(current(name) for name in match[1].split()) else ""

    template = re.sub(r"<!-- with (.*?) -->\n(.*?)<!-- end -->\n", explained, template, flags=re.S)
    template = template.replace("<!-- goals -->", goals())
    PAGE.write_text(template)
    print(f"wrote {PAGE}")


if __name__ == "__main__":
    main()
