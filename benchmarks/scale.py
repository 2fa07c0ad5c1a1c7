"""Data sets on many workers: the drill, the scaling, and a simulation of a thousand GPUs.

python3 scripts/host.py bench scale [--units N] [--kills N] [--folder FOLDER] [--skip-drill]

Needs the extra ``ray``. Writes ``results/scale.json``. The drill makes N units of the toy model on
two workers while workers and the run itself are killed, and a write fails; then it compares every
byte with what one process made in peace. The simulation runs the very code of the driver against a
clock that is reckoned, with unit times as they were measured, spread about another mean.
"""

import argparse
import heapq
import json
import os
import platform
import random
import resource
import secrets
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from pocket_world import REPO, RESULTS

# isort: split

import numpy as np
import psutil
import yaml

from pocket.drawing import TAIL_ORDER
from quality import commit_now
from seedselect_core.datasets.cli import STOPPED
from seedselect_core.datasets.driver import Run
from seedselect_core.datasets.spec import Gates, load_spec
from seedselect_core.datasets.units import Made, sha256
from seedselect_core.datasets.work import Outcome

RARE = TAIL_ORDER[-8:]
MARK = "SEEDSELECT_DRILL"
# The smallest honest search: one draw, two steps, one gradient.
SMALLEST = {
    "seed": 5,
    "model": {"toy": True},
    "sampling": {"steps": 2},
    "search": {"candidates": 1, "iterations": 1, "gradient_steps": 1, "views": 1},
    "units": {"pictures": 1, "batch": 1},
    "references": 1,
    "prompts": ["a {ink} letter {class} on {ground}"],
    "words": {"ink": ["red", "blue", "green"], "ground": ["white", "yellow"]},
}


def write_spec(folder: Path, units: int) -> Path:
    """A spec of so many units, as evenly of the eight rarest letters as can be."""
    folder.mkdir(parents=True, exist_ok=True)
    counts = [units // 8 + (place < units % 8) for place in range(8)]
    classes = [{"name": x, "pictures": n} for x, n in zip(RARE, counts, strict=True) if n]
    path = folder / "spec.yaml"
    spec = {"output": str(folder / "made"), "classes": classes, **SMALLEST}
    path.write_text(yaml.safe_dump(spec))
    return path


def start(spec: Path, *arguments: str, mark: str = "") -> subprocess.Popen:
    """The command, in a process of its own, whose children bear ``mark``."""
    command = [sys.executable, "-m", "seedselect_core.datasets", "dataset", str(spec), *arguments]
    # Ray makes its workers nicer than all else, which on a busy machine stops them.
    own = {"OMP_NUM_THREADS": "1", "RAY_worker_niceness": "0", MARK: mark}
    own |= {"RAY_raylet_start_wait_time_s": "300"}
    with open(spec.parent / "run.log", "ab") as log:
        return subprocess.Popen(
            command, cwd=REPO, stdout=log, stderr=log, env=os.environ | own, start_new_session=True
        )


def workers(mark: str) -> list[psutil.Process]:
    """Ray's actors of a drill."""
    found = []
    for process in psutil.process_iter():
        try:
            ours = process.environ().get(MARK) == mark
            if ours and process.cmdline()[0].startswith("ray::Worker"):
                found.append(process)
        except (psutil.Error, OSError, IndexError):  # it has ended meanwhile
            continue
    return found


def bytes_of(folder: Path) -> dict[str, str]:
    """Hashes of all files but the log, which alone tells of times."""
    return {
        str(path.relative_to(folder)): sha256(path.read_bytes())
        for path in sorted(folder.rglob("*"))
        if path.is_file() and path.name not in ("log.jsonl", "running.lock")
    }


def units_in(folder: Path) -> dict[str, tuple[int, int]]:
    """Every unit that is there, and what changes when it is written again."""
    found = {}
    for path in (folder / "units").rglob("*.zip"):
        if not path.name.startswith("."):
            status = path.stat()
            found[str(path.relative_to(folder))] = (status.st_ino, status.st_mtime_ns)
    return found


@dataclass
class Drill:
    """What happens to a run, and what was seen of it.

    Attributes:
        due: what is still to happen, each once so many units are there: "worker", "driver", "disk",
            "ctrl-c".
        seen: units as they were when they were first there.
        done: what has happened.
        twice: units that were written again.
    """

    folder: Path
    due: list[tuple[int, str]]
    chance: random.Random
    seen: dict[str, tuple[int, int]] = field(default_factory=dict)
    done: list[str] = field(default_factory=list)
    twice: set[str] = field(default_factory=set)
    starts: int = 0

    def run(self, spec: Path) -> None:
        """Start the command again until it ends well."""
        code = None
        while code != 0:
            self.starts += 1
            mark = secrets.token_hex(8)
            run = start(spec, "--ray", "--workers", "2", mark=mark)
            while run.poll() is None:
                self.look()
                self.strike(run, mark)
                time.sleep(0.05)
            code = run.returncode
            if code != 0 and not self.due and self.starts > 20:
                raise RuntimeError((spec.parent / "run.log").read_text()[-3000:])
        self.look()

    def look(self) -> None:
        for name, now in units_in(self.folder).items():
            if self.seen.setdefault(name, now) != now:
                self.twice.add(name)

    def strike(self, run: subprocess.Popen, mark: str) -> None:
        """What is due, at a moment that nobody chose."""
        if not self.due or len(self.seen) < self.due[0][0]:
            return
        kind = self.due[0][1]
        there = workers(mark)
        if not there:
            return
        time.sleep(self.chance.random() * 0.5)
        try:
            if kind == "driver":
                run.kill()
                run.wait()
            elif kind == "ctrl-c":
                run.send_signal(signal.SIGINT)
                if run.wait() != STOPPED:
                    raise RuntimeError(f"a run that was stopped ended with {run.returncode}")
            elif kind == "worker":
                os.kill(self.chance.choice(there).pid, signal.SIGKILL)
            else:
                self.fill(run, mark)
        except ProcessLookupError:  # it ended by itself just now
            return
        self.due.pop(0)
        self.done.append(kind)

    def fill(self, run: subprocess.Popen, mark: str) -> None:
        """No worker can write a unit any more, until the run has told so and ended."""
        while run.poll() is None:
            for worker in workers(mark):
                resource.prlimit(worker.pid, resource.RLIMIT_FSIZE, (4096, 4096))
            time.sleep(0.1)
        told = (self.folder.parent / "run.log").read_text().splitlines()[-1]
        if run.returncode != 1 or "cannot be written" not in told:
            raise RuntimeError(f"a run without room ended with {run.returncode}: {told}")


def drill(folder: Path, units: int, worker_kills: int, driver_kills: int, seed: int) -> dict:
    """Make ``units`` in peace and in trouble, and compare. Raises AssertionError where they differ.

    Args:
        seed: of what happens when.
    """
    quiet = write_spec(folder / "quiet", units)
    assert start(quiet).wait() == 0, (folder / "quiet" / "run.log").read_text()[-3000:]
    spec = write_spec(folder / "drill", units)
    chance = random.Random(seed)
    kinds = ["worker"] * worker_kills + ["driver"] * driver_kills + ["disk", "ctrl-c"]
    chance.shuffle(kinds)
    moments = sorted(chance.randrange(units - 2) for _ in kinds)
    troubled = Drill(folder / "drill" / "made", list(zip(moments, kinds, strict=True)), chance)
    troubled.run(spec)
    there = bytes_of(folder / "drill" / "made")
    assert there == bytes_of(folder / "quiet" / "made"), "other bytes than in peace"
    assert not troubled.twice, f"made twice: {sorted(troubled.twice)}"
    assert sum(name.startswith("units/") for name in there) >= units, "units are lost"
    assert not troubled.due, f"did not happen: {troubled.due}"
    assert not list((folder / "drill" / "made").rglob("*.part")), "parts are left"
    counts = {kind: troubled.done.count(kind) for kind in sorted(set(kinds))}
    return {"units": units, "happened": counts, "starts": troubled.starts, "files": len(there)}


# ---------------------------------------------------------------- scaling


def made_rows(folder: Path) -> list[dict]:
    lines = (folder / "made" / "log.jsonl").read_text().splitlines()
    return [row for row in map(json.loads, lines) if row["event"] == "made"]


def rate(folder: Path, units: int, count: int) -> float:
    """Units a second of so many workers, between the first and the last that was made."""
    spec = write_spec(folder, units)
    assert start(spec, "--ray", "--workers", str(count)).wait() == 0
    times = [row["time"] for row in made_rows(folder)]
    return (len(times) - count) / (times[-1] - times[count - 1])


# ---------------------------------------------------------------- simulation


@dataclass(frozen=True)
class World:
    """What is assumed of a cluster.

    Attributes:
        gpus: of one worker each.
        hours: that a unit takes on the mean.
        spread: unit times over their mean, as measured.
        lost_each: hours between two failures of one worker.
        restart: hours from a failure, or the start, until a worker has its models.
        driver: hours that the driver spends on one unit.
    """

    gpus: int
    hours: float
    spread: Sequence[float]
    lost_each: float
    restart: float
    driver: float


class Simulated:
    """An engine whose clock is reckoned, not waited for."""

    def __init__(self, world: World, seed: int):
        self.world = world
        self.slots = world.gpus
        self.chance = random.Random(seed)
        self.clock = 0.0
        self.free = [world.restart] * world.gpus  # when each worker is ready
        self.ends: list[tuple[float, int, float, object]] = []
        self.work = 0.0
        self.losses = 0
        self.count = 0

    def submit(self, unit, key) -> None:
        self.clock += self.world.driver
        began = max(self.clock, heapq.heappop(self.free))
        took = self.world.hours * self.chance.choice(self.world.spread)
        while (until := self.chance.expovariate(1 / self.world.lost_each)) < took:
            self.losses += 1
            began += until + self.world.restart
        self.work += took
        self.count += 1
        heapq.heappush(self.ends, (began + took, self.count, took, unit))

    def wait(self) -> list[Outcome]:
        ended, _, _, unit = heapq.heappop(self.ends)
        self.clock = max(self.clock, ended)
        heapq.heappush(self.free, ended)
        return [Outcome(canned(unit, self.chance), False, 0.0, "")]


def canned(unit, chance: random.Random, pictures: int = 16, good: float = 0.8) -> Made:
    """A unit of which each picture passes the gates with the chance ``good``."""
    losses = [0.5 if chance.random() < good else 9.0 for _ in range(pictures)]
    vectors = np.eye(1, dtype=np.float32).repeat(pictures, 0)
    names = [f"{place}" for place in range(pictures)]
    facts = ["p"] * pictures, losses, losses, [], 1, 0, 0, names
    return Made(unit, "", (1.0, 1.0), *facts, vectors, [], b"")


class Nothing:
    """A store in which nothing is."""

    def names(self, folder: str) -> list[str]:
        return []


def simulate(spec, world: World, classes: int, pictures: int, seed: int = 1) -> dict:
    """A data set of so many classes in such a world: how much of the GPUs' time is work."""
    one = spec.classes[0]
    many = tuple(replace(one, name=f"c{n}", pictures=pictures) for n in range(classes))
    spec = replace(spec, classes=many, gates=Gates(min_distance=0, max_loss=1))
    engine = Simulated(world, seed)
    run = Run(spec, Nothing(), {one.name: "" for one in many}, lambda *_: None)
    run(engine)
    return {
        "gpus": world.gpus,
        "classes": classes,
        "pictures of each": pictures,
        "units": engine.count,
        "workers lost": engine.losses,
        "hours": round(engine.clock, 2),
        "share of the ideal": round(engine.work / world.gpus / engine.clock, 4),
    }


def driver_seconds(spec, count: int = 20_000) -> float:
    """What the driver itself takes for a unit, Ray's part left out."""
    world = World(1000, 1.0, [1.0], 1e9, 0.0, 0.0)
    began = time.process_time()
    found = simulate(spec, world, count // 80, 1000)
    return (time.process_time() - began) / found["units"]


def ray_seconds(count: int = 2000) -> float:
    """What Ray takes of the driver to hand out one call and to take its answer."""
    import ray

    ray.init(num_cpus=2, include_dashboard=False, log_to_driver=False)
    try:
        actor = ray.remote(num_cpus=0)(_Echo).remote()
        ray.get(actor.echo.remote(b""))
        data = os.urandom(64_000)  # the embeddings of a unit
        began = time.process_time()
        for _ in range(count):
            ray.get(actor.echo.remote(data))
        return (time.process_time() - began) / count
    finally:
        ray.shutdown()


class _Echo:
    def echo(self, data: bytes) -> bytes:
        return data


def simulations(spec, spread: Sequence[float], driver: float) -> Iterator[dict]:
    """A thousand GPUs, and fewer units than they would like."""
    for classes, pictures in ((1000, 1000), (300, 1000), (100, 1000)):
        for gpus in (1, 100, 1000):
            hours = 4 / 60
            world = World(gpus, hours, spread, 24.0, 2 / 60, driver / 3600)
            if gpus > 1 or classes == 100:
                yield simulate(spec, world, classes, pictures)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--units", type=int, default=200)
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--driver-kills", type=int, default=2)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--folder", type=Path)
    parser.add_argument("--skip-drill", action="store_true", help="keep what was measured before")
    args = parser.parse_args()
    path = RESULTS / "scale.json"
    result = json.loads(path.read_text()) if args.skip_drill else {}
    with tempfile.TemporaryDirectory(prefix="seedselect-scale-") as made:
        folder = args.folder or Path(made)
        if not args.skip_drill:
            began = time.monotonic()
            found = drill(folder, args.units, args.kills, args.driver_kills, args.seed)
            result["drill"] = found | {"minutes": round((time.monotonic() - began) / 60, 1)}
            result["unit_seconds"] = [row["seconds"] for row in made_rows(folder / "quiet")]
            print(json.dumps(result["drill"], indent=1), flush=True)
            rates = {n: rate(folder / f"by{n}", args.units // 2, n) for n in (1, 2)}
            result["scaling"] = {
                "units a second": {n: round(one, 3) for n, one in rates.items()},
                "share of twice as many": round(rates[2] / rates[1] / 2, 3),
                "load of the machine meanwhile": round(os.getloadavg()[2], 1),
            }
        spec = replace(
            load_spec(write_spec(folder / "plain", 8)),
            units=replace(load_spec(write_spec(folder / "plain", 8)).units, pictures=16),
        )
    mean = statistics.mean(result["unit_seconds"])
    spread = [seconds / mean for seconds in result["unit_seconds"]]
    driver = {"own": driver_seconds(spec), "Ray's": ray_seconds()}
    result["driver_seconds_a_unit"] = {name: round(one, 6) for name, one in driver.items()}
    result["simulation"] = {
        "assumed": "units of 16 pictures and 4 minutes on the mean, spread as measured; of each "
        "picture 80 % pass the gates; each worker is lost once in 24 hours, and takes 2 minutes to "
        "have its models; the driver's own time as measured, one unit after the other",
        "runs": list(simulations(spec, spread, sum(driver.values()))),
    }
    result["commit"] = commit_now()
    result["machine"] = f"{platform.system()} {platform.machine()}, {os.cpu_count()} CPU cores"
    path.write_text(json.dumps(result, indent=1) + "\n")
    print(json.dumps({k: v for k, v in result.items() if k != "unit_seconds"}, indent=1))


if __name__ == "__main__":
    main()
