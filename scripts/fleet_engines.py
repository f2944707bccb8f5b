"""What a fleet's workers run in: Ray's actors on any number of machines, or threads on this one.

Both offer the same: add a worker, call one of its methods, wait for the first call that is through.
Where a worker is placed, that a dead one is started anew, how results travel: all that is Ray's.
"""

from __future__ import annotations

import concurrent.futures
import os
from collections.abc import Collection, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

from batch_run import ServerGone
from fleet_worker import Setup, Worker
from host import ROOT

# What the machines of a cluster need of this repository: the scripts, and the pack itself.
NOT_SENT = ["/tests", "/benchmarks", "/docs", "*.ruff_cache"]


class Threads:
    """Workers in this process, a thread for each."""

    deaths: tuple[type[Exception], ...] = (ServerGone,)

    def __init__(self, make: type = Worker):
        self._make, self._workers = make, {}
        self._pools: dict[str, ThreadPoolExecutor] = {}

    def add(self, name: str, setup: Setup) -> None:
        self._workers[name] = self._make(name, setup)
        self._pools[name] = ThreadPoolExecutor(1, name)

    def call(self, name: str, method: str, *arguments: Any, label: str = "") -> Future:
        return self._pools[name].submit(getattr(self._workers[name], method), *arguments)

    def first_of(self, calls: Collection[Future], seconds: float) -> Future | None:
        """One that is through, None if none is within so many seconds."""
        done, _ = concurrent.futures.wait(calls, seconds, concurrent.futures.FIRST_COMPLETED)
        return next((call for call in calls if call in done), None)  # the oldest of them

    def outcome(self, call: Future) -> Any:
        return call.result()

    def close(self) -> None:
        """End every server, whatever its worker is doing."""
        for name, pool in self._pools.items():
            pool.shutdown(wait=False, cancel_futures=True)
            self._workers[name].stop()


class Actors:
    """Workers that are Ray's actors. ray: the module, connected to a cluster."""

    def __init__(self, ray: Any, resources: Mapping[str, float], make: type = Worker):
        """resources: what each worker takes, by Ray's names ("num_gpus")."""
        # Ray's own errors: of a process, a machine or a result that is lost.
        self.deaths = (ServerGone, ray.exceptions.RayError)
        self._ray, self._actors = ray, {}
        # An actor that died is started again, elsewhere if need be. The job it had fails here at
        # once, so that another worker can have it; only the start waits for the new actor.
        remote = {"max_restarts": -1, "max_task_retries": 0, **resources}
        self._make = ray.remote(**remote)(make)

    def add(self, name: str, setup: Setup) -> None:
        self._actors[name] = self._make.options(name=name).remote(name, setup)

    def call(self, name: str, method: str, *arguments: Any, label: str = "") -> Any:
        """label: what Ray's dashboard calls it."""
        task = getattr(self._actors[name], method)
        retries = -1 if method == "start" else 0
        return task.options(name=label or method, max_task_retries=retries).remote(*arguments)

    def first_of(self, calls: Collection[Any], seconds: float) -> Any | None:
        done, _ = self._ray.wait(list(calls), timeout=seconds)
        return done[0] if done else None

    def outcome(self, call: Any) -> Any:
        try:
            return self._ray.get(call)
        except self._ray.exceptions.RayTaskError as error:
            raise error.cause or error from None  # what the worker itself raised

    def close(self) -> None:
        """Leave the cluster: it ends this program's actors, and their servers end with them."""
        self._ray.shutdown()


def connect(ray: Any, address: str) -> str:
    """Join a cluster, or with "local" the one that RAY_ADDRESS names or else one on this machine.

    The address of its dashboard, empty where it has none. The cluster's machines get this
    repository as it is here, so that they all run the same pack. Raises ConnectionError.
    """
    environment = {
        "working_dir": str(ROOT),
        "excludes": NOT_SENT,
        "env_vars": {"PYTHONPATH": "scripts"},
    }
    if address == "local":
        address = os.environ.get("RAY_ADDRESS", address)
    joined = ray.init(address, runtime_env=environment, logging_level="warning")
    return joined.dashboard_url or ""
