"""``seedselect dataset SPEC.yaml``: data sets of rare classes (docs/datasets.md).

Stopped by Ctrl-C or by anything else, the same command goes on where it stopped.
"""

import argparse
import logging
import signal
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from ..errors import SeedSelectError
from .host import prepare_host

if TYPE_CHECKING:  # what follows imports the host, which must be prepared first
    from .driver import ClassRun, Engine
    from .spec import Spec
    from .store import Store
    from .work import Outcome

STOPPED = 130


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="seedselect", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    dataset = commands.add_parser("dataset", help="make a data set of rare classes")
    add = dataset.add_argument
    add("spec", type=Path, help="what to make: a YAML file (docs/datasets.md)")
    add("--output", help="a folder or an address such as s3://bucket/folder; not the spec's")
    add(
        "--dry-run", action="store_true", help="make one unit, keep nothing, and tell what all take"
    )
    add("--report", action="store_true", help="write manifest, outputs and report of what is there")
    add(
        "--ray",
        nargs="?",
        const="",
        metavar="ADDRESS",
        help="use Ray: a cluster of this machine's own, or one at ADDRESS (auto: one that runs)",
    )
    add("--workers", type=int, default=0, help="with --ray: so many, instead of one for each GPU")
    add("--cpu", action="store_true", help="leave the graphics card alone")
    return parser.parse_args(arguments)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command and return its exit code."""
    args = parse(arguments)
    logging.basicConfig(level=logging.WARNING, format="%(message)s")
    # SIGTERM is a scheduler's way to say Ctrl-C; what a shell starts behind it is deaf to SIGINT.
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.default_int_handler)
    try:
        prepare_host(args.cpu)
        return _dataset(args)
    except SeedSelectError as error:
        print(f"seedselect: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("seedselect: stopped. The same command goes on where it stopped.", file=sys.stderr)
        return STOPPED


def _dataset(args: argparse.Namespace) -> int:
    from .driver import Log, Run, keys_of
    from .finish import finish, require_writers
    from .spec import load_spec
    from .store import Store

    spec = load_spec(args.spec, args.output)
    require_writers(spec)
    store = Store(spec.output)
    if args.dry_run:
        from .estimate import dry_run

        print("\n".join(dry_run(spec)))
        return 0
    with store.alone():
        keys, notes = keys_of(spec, store)
        for note in notes:
            print(f"note: {note}", file=sys.stderr)
        if not args.report:
            log = Log(store)
            with Show(spec, log) as show:
                run = Run(spec, store, keys, show)
                if run.waiting:
                    _run(args, spec, store, run)
        for line in finish(spec, store, keys):
            print(line)
    return 0


def _run(args: argparse.Namespace, spec: "Spec", store: "Store", run) -> None:
    engine = _engine(args, spec, store)
    try:
        run(engine)
    finally:
        engine.close()


def _engine(args: argparse.Namespace, spec: "Spec", store: "Store") -> "Engine":
    if args.ray is not None:
        from .cluster import Cluster

        return Cluster(spec, args.ray, 0 if args.workers < 0 else args.workers, args.cpu)
    from .maker import Maker
    from .work import Here

    return Here(spec, store, Maker(spec).make)


class Show:
    """The progress bar, and a line for each unit: on the terminal, and in the log."""

    def __init__(self, spec: "Spec", log):
        from tqdm import tqdm

        self.log = log
        wanted = sum(one.pictures for one in spec.classes)
        self.bar = tqdm(total=wanted, unit=" pictures", disable=not sys.stderr.isatty())
        log.add(event="run", classes=len(spec.classes), wanted=wanted)

    def __enter__(self) -> "Show":
        return self

    def __exit__(self, *_) -> None:
        self.bar.close()

    def __call__(self, outcome: "Outcome | None", classes: Sequence["ClassRun"]) -> None:
        self.bar.n = sum(state.pictures for state in classes)
        self.bar.refresh()
        if outcome is None:
            return
        made = outcome.made
        state = next(state for state in classes if state.one.name == made.unit.label)
        self.bar.write(
            f"{made.unit.name}: {len(made.hashes)} pictures"
            f"{' were there' if outcome.there else f', {outcome.seconds:.1f} s'}, "
            f"{state.pictures} of {state.one.pictures} of {made.unit.label}, {outcome.worker}",
            file=sys.stdout,
        )
        sys.stdout.flush()
        self.log.add(
            event="there" if outcome.there else "made",
            unit=made.unit.name,
            pictures=len(made.hashes),
            seconds=round(outcome.seconds, 3),
            evaluations=made.evaluations,
            worker=outcome.worker,
        )
