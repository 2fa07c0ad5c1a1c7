"""docs/reliability.md from results/campaigns: what was tried, and what must not happen and did."""

from collections import Counter
from pathlib import Path

from campaigns_ledger import FULL, GOALS, MOST_GROWTH, SECONDS_TO_WRITE, WARM, Ledger

PAGE = Path(__file__).resolve().parent.parent / "docs" / "reliability.md"
MOST_SHOWN = 12

TITLES = {
    "references": "hostile reference files and names",
    "seeds": "hostile seed files and names",
    "inputs": "API inputs at and past their bounds, every node",
    "interruptions": "interruptions of a live server",
    "runs": "runs in one server",
    "users": "prompts of two users, interleaved",
    "graphs": "damaged graphs",
}
# Columns in which a campaign cannot count anything.
BLIND = {
    "references": ("lost", "weights", "picture", "growth"),
    "seeds": ("lost", "weights", "picture", "growth"),
    "inputs": ("lost", "growth"),
    "interruptions": (),
    "runs": ("lost",),
    "users": ("lost", "growth"),
    "graphs": ("lost", "growth"),
}

HEAD = """# Nothing lost, nobody let in, nothing raw

Made by `make campaigns`, which counts every figure and writes this page and
[results/campaigns](../benchmarks/results/campaigns); nothing here is typed by hand.
{facts}

{verdict}

{table}

Empty: the campaign has nothing that could be counted there. Where a campaign was stopped early, its
row says how many of how many were made; the same command goes on.

- **hung**: an item in process took over 20 s; a prompt, or the plain one after it, did not end
  within a minute of its Cancel; or the server died of it.
- **lost**: Optimize or Optimize (Advanced) was stopped before it ended, and no seed file holds a
  likeness that it told of in its last two iterations (after SIGTERM and SIGKILL: in the last two
  that it had told of {seconds} s before); or Load Seed does not offer that file.
- **raw errors**: an error of this pack that is not one of its own sentences, or a text of any kind
  that cannot be shown or logged as it is: with a lone surrogate, with control characters, or with
  over 4,000 characters. An error that a test raised inside a layer may be told as it is.
- **read or written outside**: a file opened, made, moved or listed outside the folders of host,
  packs and Python (written: outside input, output, temp and user), a connection to another machine,
  or a program started.
- **weights changed**, **plain picture changed**: after every item a plain KSampler draws the same
  picture in the same server, or in the one that was started after it; hashes of that picture and of
  all weights of model, text encoder, VAE and image encoder are compared with those before the first
  item. Of two users each must get bit for bit what it gets when alone.
- **not flat**: memory, descriptors or files in temp and output grew from the runs after the
  {warm}th to the last ones: over {memory:.0f} MiB, {descriptors} descriptors or {files} files. A
  run that kept its graph or its pictures would leave some hundred KiB, so tens of MiB in all.
  Of interruptions: a run ended well and left an unfinished seed.

## How the items ended

{outcomes}

*accepted*: it ran to its end; of interruptions, it went on where memory or the disk had failed, or
was done before. *refused*: by a sentence of this pack or of the host, before or in the run.
*stopped*: cancelled by the test. *foreign*: an error of the host's own or of a stock node, even one
that ends the host's worker thread, as a node without "inputs" does whoever's it is (the server was
started anew). *told*: the very error that the test raised. *killed*: by a signal of the test.

{found}
To make this page again: `make campaigns`. One campaign, in part and from its beginning:
`make campaigns ARGS="--only graphs --count 20 --anew"`.
"""


def write_page(ledgers: dict[str, Ledger]) -> None:
    PAGE.write_text(page(ledgers), encoding="utf-8")


def page(ledgers: dict[str, Ledger]) -> str:
    made = {name: ledger for name, ledger in ledgers.items() if ledger.done}
    return HEAD.format(
        facts=_facts(made),
        verdict=_verdict(made),
        table=_table(made),
        warm=WARM,
        seconds=SECONDS_TO_WRITE,
        memory=MOST_GROWTH["memory"],
        descriptors=MOST_GROWTH["descriptors"],
        files=MOST_GROWTH["temp files"],
        outcomes=_outcomes(made),
        found=_found(made),
    )


def _facts(made: dict[str, Ledger]) -> str:
    """Commits, host and machine of all runs."""
    entries = [facts for ledger in made.values() for facts in ledger.facts]

    def of(name: str) -> str:
        values = dict.fromkeys(_short(facts[name]) for facts in entries)
        return ", ".join(values) or "unknown"

    return (
        f"ComfyUI {of('host')}, torch {of('torch')}, Python {of('python')}, {of('machine')}. "
        f"Commit {of('commit')}."
    )


def _short(value: str) -> str:
    """A commit as `commit_now` tells it, shortened; anything else as it is."""
    bare = value.rstrip("*")
    if len(bare) != 40:
        return value
    return bare[:12] + (" and changes" if value.endswith("*") else "")


def _verdict(made: dict[str, Ledger]) -> str:
    total = sum(sum(ledger.faults.values()) for ledger in made.values())
    whole = all(name in made and made[name].done >= FULL[name] for name in FULL)
    goal = "The goal is 0 in every column"
    if total == 0:
        return f"{goal}: **met**." if whole else f"{goal}. So far it is met; not all was made yet."
    return f"{goal}: **not met**, {total} in all."


def _lines(head: tuple, rows: list[tuple]) -> str:
    ruled = [head, ("---",) * len(head), *rows]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in ruled)


def _table(made: dict[str, Ledger]) -> str:
    rows = []
    for name, ledger in made.items():
        number = f"{ledger.made:,}"
        if ledger.done < FULL[name]:
            number = f"{ledger.done:,} of {FULL[name]:,}"
        counts = ["" if key in BLIND[name] else f"{ledger.faults[key]:,}" for key in GOALS]
        rows.append((TITLES[name], number, *counts))
    return _lines(("campaign", "made", *GOALS.values()), rows)


def _outcomes(made: dict[str, Ledger]) -> str:
    rows = []
    for name, ledger in made.items():
        ends = [f"{count:,} {was}" for was, count in ledger.outcomes.most_common()]
        rows.append((TITLES[name], ", ".join(ends)))
    return _lines(("campaign", "ended"), rows)


def _found(made: dict[str, Ledger]) -> str:
    """The faults in words, the same ones together."""
    parts = []
    for name, ledger in made.items():
        kinds: Counter[tuple] = Counter()
        first = {}
        for number, faults, text in ledger.described:
            key = (", ".join(GOALS[fault] for fault in faults), _kind(text))
            kinds[key] += 1
            first.setdefault(key, (number, text))
        if not kinds:
            continue
        rows = []
        for key, count in kinds.most_common(MOST_SHOWN):
            number, text = first[key]
            rows.append((key[0], str(count), str(number), _code(text)))
        parts.append(f"### {TITLES[name]}\n\n" + _lines(("fault", "of", "first", "what"), rows))
    return "## What was found\n\n" + "\n\n".join(parts) + "\n" if parts else ""


def _kind(text: str) -> str:
    """What a fault has in common with others: what was said, without what it was said to."""
    return text.rpartition(": ")[2][:60]


def _code(text: str) -> str:
    return "`" + text.replace("`", "'").replace("|", "\\|") + "`"
