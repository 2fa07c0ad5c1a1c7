"""Write docs/results.md from the figures that `quality` measured: tables, plots, commands.

python3 scripts/host.py bench results_page

Nothing on that page is typed by hand but the sentences between the figures.
"""

import functools
import json
import os
import re
from collections.abc import Callable
from pathlib import Path

import matplotlib

from quality import SECTIONS, short, state_of, table

# isort: split

import hands_page
from claims.common import RARE
from shares import count_and_share, percent, plain, signed

matplotlib.use("Agg")
import matplotlib.pyplot as plt

REPO = Path(__file__).resolve().parent.parent
FIGURES = REPO / "benchmarks" / "results" / "quality"
PAGE = REPO / "docs" / "results.md"
PLOTS = REPO / "docs" / "results"
COLORS = ["#8a8a8a", "#4477aa", "#66ccee", "#228833", "#ccbb44", "#aa3377", "#000000", "#ee6677"]


def section(name: str) -> dict:
    return json.loads((FIGURES / f"{name}.json").read_text())


def describe_run(result: dict) -> str:
    """Where a section's figures come from; a commit with a star had uncommitted changes."""
    commits = ", ".join(f"`{short(commit)}`" for commit in result["commits"])
    return (
        f"*`python3 scripts/host.py bench quality --only {result['section']}`; measured at commit "
        f"{commits}, {result['machine']}, torch {result['torch']}, "
        f"{result['core_seconds'] / 60:.0f} minutes of one core.*"
    )


def current(name: str) -> bool:
    """Whether a section was measured with the code as it is now."""
    measured = (FIGURES / f"{name}.json").exists()
    return measured and section(name).get("code") == state_of(SECTIONS[name])


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


def eyes() -> str:
    result = section("eyes")
    kinds = result["summary"]["kinds"]
    letters = list(next(iter(kinds.values()))["letters"])
    if current("frequency"):
        kinds = {"the first alone, as above": _one_eye(letters)} | kinds
    rows = [
        [
            kind,
            percent(row["right"]),
            *(f"{share:.0%}" for share in row["letters"].values()),
            count_and_share(row["liked"]),
            count_and_share(row["liked and agreed"]),
        ]
        for kind, row in kinds.items()
    ]
    head = ["encoders", "right", *letters, "right of those that the first likes", "both like"]
    return "\n\n".join([table(head, rows), describe_run(result)])


def _one_eye(letters: list[str]) -> dict:
    """What the section on frequency says of the rare letters, as a row of that on two encoders."""
    summary = section("frequency")["summary"]
    right = {row["letter"]: row["with"]["right"]["mean"] for row in summary["letters"]}
    return {
        "right": summary["buckets"]["eight rarest"]["with"]["right"],
        "letters": {letter: right[letter] for letter in letters},
        "liked": summary["liked"],
        "liked and agreed": summary["liked by both encoders"],
    }


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
    ahead = [
        [
            budget,
            row["best rival"],
            *map(signed, [row["of these letters"], *row["letters"].values()]),
        ]
        for budget, row in result["summary"]["ahead"].items()
    ]
    head_of_ahead = ["evaluations", "best rival", "ours above it, these four letters"]
    return "\n\n".join(
        [
            finish(figure, "rivals"),
            table(head, rows),
            by_letter,
            table([*head_of_ahead, *each[0]["letters"]], ahead),
            picture_of("rivals"),
            describe_run(result),
        ]
    )


def modes() -> str:
    result = section("modes")
    rows = [
        [
            name,
            f"{row['cpu_seconds']:.1f}",
            f"{row['evaluations']:.0f}",
            f"{row['mebibytes']:.0f}",
            percent(row["right"]),
            f"{row['colours']['mean']:.0%}",
            f"{row['semantic']['mean']:.3f}",
        ]
        for name, row in result["summary"]["modes"].items()
    ]
    head = ["mode", "CPU seconds", "predictions", "MiB", "judged right", "both colours right"]
    return "\n\n".join([table([*head, "semantic loss"], rows), describe_run(result)])


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
    eyes = {eye: found["distances"] for eye, found in result["summary"]["table"].items()}
    names = list(next(iter(eyes.values())))
    rows = [[eye, *(f"{own[name]:.3f}" for name in names)] for eye, own in eyes.items()]
    parts += ["Mean distance of two of sixteen pictures:", table(["seen by", *names], rows)]
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
    """Rare letters right, frequent ones unharmed, and an encoder that is not fooled."""
    summary = section("frequency")["summary"]
    rare = summary["buckets"]["eight rarest"]
    often = summary["buckets"]["300 fonts and more"]
    right = rare["with"]["right"]
    row("eight rarest letters right in 97 %", percent(right), right["mean"] >= 0.97)
    start = rare["without"]["right"]
    row("from under 30 % without", percent(start), start["mean"] < 0.3)
    change = often["with"]["right"]["mean"] - often["without"]["right"]["mean"]
    row("frequent letters unharmed", f"{change:+.1%}", change >= 0)
    colors = rare["with"]["colours"]
    row("the prompt's colours kept in 98 % of them", percent(colors), colors["mean"] >= 0.98)
    liked = summary["liked"]
    both = summary["liked by both encoders"]
    measured = f"{count_and_share(liked)}; to a second encoder too {count_and_share(both)}"
    goal = "of pictures as like the references as they are to each other 95 % right"
    row(goal, measured, liked is not None and liked["mean"] >= 0.95)


def _goals_of_rivals(row: Callable[[str, str, bool], None]) -> None:
    """Ahead of the best rival, for sure where a picture costs least."""
    summary = section("rivals")["summary"]
    for budget, found in summary["ahead"].items():
        own = {
            e["method"]: e["right"]["mean"] for e in summary["table"] if e["budget"] == int(budget)
        }
        best = found["best rival"]
        gap = found["gap"]
        measured = f"{own['ours']:.1%}; best rival {best}, {own[best]:.1%}; {signed(gap)}"
        if int(budget) < max(map(int, summary["ahead"])):
            goal = f"ahead of the best rival at {budget} evaluations, the whole interval above zero"
            met = gap["low"] > 0
        else:
            goal = f"not below the best rival at {budget} evaluations"
            met = gap["mean"] >= 0
        row(f"{goal}, {gap['count']} pictures", measured, met)
    needed = dict(summary["needed"])
    ours = needed.pop("ours")
    rivals = [count for count in needed.values() if count]
    theirs = min(rivals) if rivals else None
    measured = f"{ours or 'never'}; the best rival {theirs or 'never'}"
    met = ours is not None and (theirs is None or ours <= theirs / 2)
    row("90 % right at half the evaluations of the best rival", measured, met)


def _goals_of_transfer(row: Callable[[str, str, bool], None]) -> None:
    """A seed is good for more steps than it was found with."""
    table = section("transfer")["summary"]["table"]["found with 10 steps"]
    found = table["as found"]["with"]["mean"]
    for steps in (20, 30):
        other = table[f"{steps} steps"]
        measured = f"{found:.1%}, then {other['with']['mean']:.1%}; {signed(other['change'])}"
        goal = f"a seed found at 10 steps is within 3 points at {steps}"
        row(goal, measured, other["with"]["mean"] >= found - 0.03)


def _goals_of_diversity(row: Callable[[str, str, bool], None]) -> None:
    """As various as the glyphs that the model was trained on."""
    for eye, found in section("diversity")["summary"]["table"].items():
        rows = found["mean"]
        near = rows["seedselect"]["duplicate_share"]
        real = rows["real"]["duplicate_share"]
        measured = f"{percent(near)}; real glyphs {real['mean']:.1%}"
        row(f"at most 5 % near-duplicates to {eye}", measured, near["mean"] <= 0.05)
        for key in ("entropy", "ndb"):
            made, known, real = (
                rows[who][key] for who in ("seedselect", "fonts the model has seen", "real")
            )
            measured = f"{plain(made)}; seen fonts {plain(known)}; real {plain(real)}"
            met = abs(made["mean"] - real["mean"]) <= abs(known["mean"] - real["mean"])
            name = {"entropy": "entropy", "ndb": "NDB"}[key]
            row(f"{name} as near to real glyphs' as the seen fonts', to {eye}", measured, met)


def _goals_of_classification(row: Callable[[str, str, bool], None]) -> None:
    """What a classifier gains."""
    for shots, found in section("classification")["summary"]["table"].items():
        best = found["best rival"]
        arms = found["arms"]
        measured = (
            f"{arms['seedselect']['rare']['mean']:.1%}; {best} {arms[best]['rare']['mean']:.1%}"
        )
        measured += f"; seen fonts {arms['seen fonts']['rare']['mean']:.1%}"
        measured += f"; {signed(found['gain']['rare'])} over {best}"
        share = found["gained share"]
        if shots in ("1 real images", "2 real images"):
            measured += "" if share is None else f"; {share:.0%} of it"
            goal = f"80 % of what the model's own training glyphs would gain, {shots}"
            row(goal, measured, share is None or share >= 0.8)
        frequent = found["gain"]["frequent"]
        goal = f"no loss on the others, to within half a point, {shots}"
        row(goal, signed(frequent), frequent["mean"] >= -0.005)


def _hands(name: str) -> str:
    """A section on hands."""
    result = section(name)
    shown = [picture_of(name)] if name in hands_page.PICTURES else []
    return "\n\n".join([*hands_page.PARTS[name](result["summary"]), *shown, describe_run(result)])


def _goals_of_hands(name: str, row: Callable[[str, str, bool], None]) -> None:
    hands_page.GOALS[name](section(name)["summary"], row)


GOALS = {
    "frequency": _goals_of_frequency,
    "rivals": _goals_of_rivals,
    "transfer": _goals_of_transfer,
    "diversity": _goals_of_diversity,
    "classification": _goals_of_classification,
}
HANDS_GOALS = {name: functools.partial(_goals_of_hands, name) for name in hands_page.GOALS}


def goals(of: dict[str, Callable]) -> str:
    """Each goal of the sections that are current, the figure, and whether it is met."""
    rows = []

    def row(goal: str, measured: str, met: bool) -> None:
        rows.append([goal, measured, "yes" if met else "**no**"])

    for name, add_goals in of.items():
        if current(name):
            add_goals(row)
    return table(["goal", "measured", "met"], rows)


PARTS = {
    part.__name__: part
    for part in (
        frequency,
        eyes,
        rivals,
        modes,
        tradeoff,
        styles,
        transfer,
        sets,
        diversity,
        classification,
    )
}
PARTS |= {name: functools.partial(_hands, name) for name in hands_page.PARTS}


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
    template = template.replace("<!-- goals -->", goals(GOALS))
    template = template.replace("<!-- hands goals -->", goals(HANDS_GOALS))
    PAGE.write_text(template)
    print(f"wrote {PAGE}")


if __name__ == "__main__":
    main()
