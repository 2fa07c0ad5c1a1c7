"""Ray: one actor for each GPU, on this machine or on many (https://docs.ray.io).

Ray finds the machines, places the actors, and carries what they are asked and what they answer.
It is needed for ``--ray`` alone.
"""

import functools
import logging
import os
import signal
import sys
from collections import Counter
from typing import Any

from ..errors import SeedSelectError
from ..text import printable, quoted
from .host import PACK
from .maker import Maker
from .spec import Spec
from .store import Store
from .units import Unit
from .work import Outcome, do

# A unit whose worker is lost so often is at fault itself: it needs more memory than there is.
LOSSES = 6
PATIENCE = 60.0  # seconds without an outcome after which it is looked whether the cluster is there
# A machine may have these otherwise than the one that was started.
PASSED_ON = ("COMFYUI_DIR", "OMP_NUM_THREADS")
HOOK = "seedselect_core.datasets.host.prepare_host"


class Worker:
    """The actor: it loads the models once, and makes units one by one."""

    def __init__(self, spec: Spec):
        self.maker = Maker(spec)
        self.store = Store(spec.output)

    def do(self, unit: Unit, key: str) -> Outcome:
        return do(self.store, unit, key, self.maker.make)


class Cluster:
    """An engine of Ray's actors: see `work.Here`.

    Args:
        address: of a running cluster, "auto" for the one of this machine, or "" to start one.
        workers: actors; 0 for one for each GPU.
        cpu: leave the GPUs alone.

    Raises:
        SeedSelectError: Ray is not installed, or no such cluster answers, or it has no GPU.
    """

    def __init__(self, spec: Spec, address: str, workers: int, cpu: bool):
        self.ray = _ray()
        self._connect(address, workers)
        gpus = 0 if cpu else int(self.ray.cluster_resources().get("GPU", 0))
        count = workers or gpus
        if gpus and count > gpus:
            raise SeedSelectError(f"--workers: the cluster has {gpus} GPUs. Give --cpu, or fewer.")
        if count < 1:
            raise SeedSelectError(
                "--ray: the cluster has no GPU. Give --workers N to use its CPUs."
            )
        needs = {"num_gpus": 1} if gpus else {"num_cpus": 1, "num_gpus": 0}
        actor = self.ray.remote(**needs)(Worker)
        self.new = functools.partial(actor.remote, spec)
        self.idle = [self.new() for _ in range(count)]
        self.under_way: dict[Any, tuple[Any, Unit, str]] = {}
        self.losses: Counter[Unit] = Counter()
        self.slots = count

    def _connect(self, address: str, workers: int) -> None:
        # A worker imports this pack, and so the host, when it is sent its first spec.
        environment = {name: os.environ[name] for name in PASSED_ON if name in os.environ}
        environment["PYTHONPATH"] = os.pathsep.join([str(PACK), os.environ.get("PYTHONPATH", "")])
        setup = {"env_vars": environment, "worker_process_setup_hook": HOOK}
        started = {} if address else {"include_dashboard": None, "num_cpus": workers or None}
        try:
            found = self.ray.init(
                address=address or "local",
                runtime_env=setup,
                log_to_driver=False,
                **started,
            )
        except Exception as error:  # Ray raises some of no class of their own
            raise SeedSelectError(f"--ray: {printable(error)}") from quoted(error)
        # Ray takes this signal for its own.
        signal.signal(signal.SIGTERM, signal.default_int_handler)
        if found.dashboard_url:
            print(f"Ray's dashboard: http://{found.dashboard_url}", file=sys.stderr, flush=True)

    def submit(self, unit: Unit, key: str) -> None:
        self._start(self.idle.pop(), unit, key)

    def _start(self, actor: Any, unit: Unit, key: str) -> None:
        self.under_way[actor.do.remote(unit, key)] = (actor, unit, key)

    def wait(self) -> list[Outcome]:
        """The next outcomes. What was lost with its worker is asked of a new one on the way.

        Raises:
            SeedSelectError: what a worker raised; or a unit's worker was lost too often.
        """
        found: list[Outcome] = []
        while not found:
            ended, _ = self.ray.wait(list(self.under_way), num_returns=1, timeout=PATIENCE)
            if not ended and not any(node["Alive"] for node in self.ray.nodes()):
                raise SeedSelectError("--ray: no machine of the cluster answers any more.")
            for one in ended:
                actor, unit, key = self.under_way.pop(one)
                try:
                    found.append(self.ray.get(one))
                    self.idle.append(actor)
                except self.ray.exceptions.RayTaskError as error:
                    raise error.as_instanceof_cause() from None
                except self.ray.exceptions.RayActorError as error:
                    self._lost(unit, error)
                    # One that is restarted answers at once that it is not there yet; what is asked
                    # of a new one waits for it.
                    self.ray.kill(actor)
                    self._start(self.new(), unit, key)
        return found

    def _lost(self, unit: Unit, error: Exception) -> None:
        logging.warning(
            "SeedSelect: the worker of %s was lost; another is asked.", printable(unit.name)
        )
        self.losses[unit] += 1
        if self.losses[unit] == LOSSES:
            raise SeedSelectError(
                f"{unit.name}: its worker was lost {LOSSES} times. If memory runs out, lower "
                f"units.batch. The last time: {printable(error, 300)}"
            ) from quoted(error)

    def close(self) -> None:
        """End the actors, and the cluster if it was started here."""
        self.ray.shutdown()


def _ray():
    try:
        import ray
    except ImportError as error:
        raise SeedSelectError(
            "--ray: Ray is not installed. pip install 'ray[default]' into ComfyUI's Python."
        ) from quoted(error)
    return ray
