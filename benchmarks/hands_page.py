"""The part of docs/results.md that is about hands: its tables and its goals."""

from collections.abc import Callable

from quality import table
from shares import percent, plain, signed

# Sections whose units keep pictures.
PICTURES = ("hands_frequency", "hands_rivals", "hands_palms", "hands_sets")
NAMES = {"right": "right", "well_formed": "well-formed"}
Row = Callable[[str, str, bool], None]


def frequency(summary: dict) -> list[str]:
    head = ["gestures", "right without", "right with", "real hands"]
    head += ["well-formed without", "well-formed with", "real hands", "ground right with"]
    head += ["norm (Gaussian: 32)", "pictures"]

    def cells(row: dict) -> list[str]:
        shares = [percent(row[when][key]) for key in NAMES for when in ("without", "with", "real")]
        found = row["with"]
        more = [f"{found['ground']['mean']:.0%}", f"{found['norm']['mean']:.2f}"]
        return [*shares, *more, found["right"]["count"]]

    buckets = [[name, *cells(row)] for name, row in summary["buckets"].items()]
    gestures = [[f"{row['gesture']}, {row['poses']}", *cells(row)] for row in summary["gestures"]]
    return [table(head, buckets), table(["gesture, poses seen", *head[1:]], gestures)]


def rivals(summary: dict) -> list[str]:
    entries = summary["table"]
    budgets = sorted({entry["budget"] for entry in entries})
    methods = list(dict.fromkeys(entry["method"] for entry in entries))
    rows = []
    for method in methods:
        own = {entry["budget"]: entry for entry in entries if entry["method"] == method}
        cells = [
            f"{percent(own[b]['right'])}; {percent(own[b]['well_formed'])}; {own[b]['cost']}"
            if b in own
            else ""
            for b in budgets
        ]
        rows.append([f"**{method}**" if method == "ours" else method, *cells])
    head = ["right; well-formed; spent", *(f"{b} evaluations" for b in budgets)]
    gaps = [
        [budget, NAMES[key], found["best rival"], signed(found["gap"]), found["gap"]["count"]]
        for budget, measures in summary["ahead"].items()
        for key, found in measures.items()
    ]
    ahead = ["evaluations", "ours ahead in", "of the best rival", "by", "pictures"]
    return [table(head, rows), table(ahead, gaps)]


def palms(summary: dict) -> list[str]:
    head = ["open palms", "right", "five counted", "explained", "well-formed", "spent"]
    head += ["ours ahead in well-formed by"]
    rows = [
        [*_verdicts(method, row), row["cost"], _gap(summary["ahead of"].get(method))]
        for method, row in summary["methods"].items()
    ]
    return [table(head, [*rows, [*_verdicts("real hands", summary["real"]), "", ""]])]


def _verdicts(name: str, row: dict) -> list[str]:
    return [name, *(percent(row[key]) for key in ("right", "counted", "explained", "well_formed"))]


def _gap(gap: dict | None) -> str:
    return "" if gap is None else signed(gap)


def sets(summary: dict) -> list[str]:
    head = ["real hands", "plain: right", "set: right", "plain: well-formed", "set: well-formed"]
    head += ["predictions a picture", "wanted; duplicates, misses"]
    rows = [
        [
            name,
            *(percent(row[who][key]) for key in NAMES for who in ("plain", "made")),
            f"{row['evaluations']:.0f}",
            f"{row['wanted']}; {row['duplicates']}, {row['misses']}",
        ]
        for name, row in summary["table"].items()
    ]
    return [table(head, rows)]


def diversity(summary: dict) -> list[str]:
    parts = []
    for eye, found in summary["table"].items():
        head = [f"seen by {eye}", "entropy (bits)", f"NDB of {found['bins']} bins"]
        head += ["mean distance", "to the nearest real one", "near-duplicates of another"]
        rows = [
            [
                who,
                *(plain(row[key]) for key in ("entropy", "ndb", "pairwise", "nearest_real")),
                percent(row["duplicate_share"]),
            ]
            for who, row in found["rows"].items()
        ]
        parts.append(table(head, rows))
    return parts


def classification(summary: dict) -> list[str]:
    shots = {name: row["arms"] for name, row in summary["table"].items()}
    rows = [
        [
            arm,
            *(
                f"{percent(arms[arm]['rare'])}; {arms[arm]['frequent']['mean']:.1%}; "
                f"{arms[arm]['overall']['mean']:.1%}"
                for arms in shots.values()
            ),
        ]
        for arm in next(iter(shots.values()))
    ]
    gains = [
        [name, row["best rival"], signed(row["gain"]["rare"]), signed(row["gain"]["frequent"])]
        for name, row in summary["table"].items()
        if "gain" in row
    ]
    head = ["gain of seedselect", "over", "on the rare", "on the frequent"]
    return [table(["rare; frequent; all gestures", *shots], rows), table(head, gains)]


def goals_of_frequency(summary: dict, row: Row) -> None:
    """Bad where it is rare and good where it is frequent, without; right and well-formed, with."""
    rare = summary["buckets"]["eight rarest"]
    often = summary["buckets"]["300 poses and more"]
    right = rare["with"]["right"]
    row("eight rarest gestures right in 90 %", percent(right), right["mean"] >= 0.9)
    formed, real = rare["with"]["well_formed"], rare["real"]["well_formed"]
    measured = f"{percent(formed)}; real hands {percent(real)}"
    met = formed["mean"] >= real["mean"] - 0.1
    row("and well-formed within 10 points of real hands", measured, met)
    start = rare["without"]["right"]
    row("from 5 to 40 % right without", percent(start), 0.05 <= start["mean"] <= 0.4)
    for key, name in NAMES.items():
        change = often["with"][key]["mean"] - often["without"][key]["mean"]
        row(f"frequent gestures as often {name} as without", f"{change:+.1%}", change >= 0)
    start = often["without"]["right"]
    row("frequent gestures right in 95 % without", percent(start), start["mean"] >= 0.95)
    formed, real = often["without"]["well_formed"], often["real"]["well_formed"]
    measured = f"{percent(formed)}; real hands {percent(real)}"
    met = formed["mean"] >= 0.9 * real["mean"]
    row("and nine tenths as often well-formed as real hands", measured, met)


def goals_of_rivals(summary: dict, row: Row) -> None:
    """Ahead of the best rival, the whole paired interval above zero."""
    for budget, measures in summary["ahead"].items():
        for key, found in measures.items():
            gap = found["gap"]
            goal = f"hands: ahead of the best rival at {budget} evaluations in {NAMES[key]}"
            measured = f"{signed(gap)} over {found['best rival']}, {gap['count']} pictures"
            row(f"{goal}, the whole interval above zero", measured, gap["low"] > 0)


# By the names of sections.
PARTS = {
    "hands_frequency": frequency,
    "hands_rivals": rivals,
    "hands_palms": palms,
    "hands_sets": sets,
    "hands_diversity": diversity,
    "hands_classification": classification,
}
GOALS = {"hands_frequency": goals_of_frequency, "hands_rivals": goals_of_rivals}
