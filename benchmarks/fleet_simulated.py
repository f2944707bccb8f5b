"""What a fleet costs beside its jobs: the real driver and real Ray actors, which only sleep.

    python benchmarks/fleet_simulated.py [--jobs 10000] [--workers 100] [--seconds 1] [--bytes 0]

Needs Ray. All actors are on this machine, so its processors are the limit before Ray's are.
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

sys.path.append(str(Path(__file__).resolve().parents[1] / "scripts"))

import fleet_run
from batch_jobs import Job
from batch_store import Result, Store
from console import print_everywhere
from fleet_engines import Actors, connect
from fleet_worker import Done, Setup


class Sleeper:
    """A worker without a ComfyUI. Its setup's folder says how long a job takes, and what it makes:
    seconds, bytes.
    """

    def __init__(self, name: str, setup: Setup):
        self.name = name
        seconds, size = setup.folder.split()
        self.seconds, self.size = float(seconds), int(size)
        self.ended: float | None = None

    def start(self) -> str:
        return f"process {os.getpid()}"

    def run(self, job: Job) -> Done:
        waited = None if self.ended is None else time.monotonic() - self.ended
        time.sleep(self.seconds)
        files = {f"{job.id}.0.png": os.urandom(self.size)} if self.size else {}
        result = Result(
            *(job.id, job.workflow, job.text, job.seed, self.name, self.seconds),
            files=tuple(files),
            sampling_seconds=waited,  # stands for the time since the worker's last job
        )
        self.ended = time.monotonic()
        return Done(result, files)


@dataclass
class Clock:
    """Notes when the first and the last worker are up; counts the rest."""

    workers: int
    up: int = 0
    last_up: float = 0.0

    def __call__(self, line: str) -> None:
        if " is up: " in line:
            self.up += 1
            self.last_up = time.monotonic()
            if self.up == self.workers:
                print(f"{self.up} workers are up, {os.getloadavg()[0]:.1f} processes waiting")
        elif line.split(":")[0].endswith("000") or not line[0].isdigit():
            print(line, flush=True)


def simulated(jobs: int, workers: int, seconds: float, size: int) -> None:
    import ray

    began = time.monotonic()
    connect(ray, "local")
    every = [Job(f"job-{place}", "sleep", "nothing", place, {}) for place in range(jobs)]
    setups = {
        f"worker {place}": Setup(folder=f"{seconds} {size}") for place in range(1, workers + 1)
    }
    engine, clock = Actors(ray, {"num_cpus": 0}, Sleeper), Clock(workers)
    with tempfile.TemporaryDirectory() as folder:
        store = Store(Path(folder))
        processor = time.process_time()
        started = time.monotonic()
        fleet_run.run(every, setups, engine, store, clock)
        wall, processor = time.monotonic() - started, time.process_time() - processor
        results = [store.read(job) for job in every]
    waits = sorted(
        1000 * result.sampling_seconds
        for result in results
        if result is not None and result.sampling_seconds is not None
    )
    print(f"{sum(map(bool, results))} of {jobs} results; Ray was up after {started - began:.1f} s")
    print(f"the last worker was up after {clock.last_up - started:.1f} s")
    print(f"the run took {wall:.1f} s, the jobs alone {jobs * seconds / workers:.1f} s")
    print(
        f"a worker waited between two jobs: median {waits[len(waits) // 2]:.1f} ms, 99 %"
        f" {waits[len(waits) * 99 // 100]:.1f} ms, most {waits[-1]:.1f} ms"
    )
    print(f"driver's processor time: {1000 * processor / jobs:.2f} ms a job")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--jobs", type=int, default=10_000)
    parser.add_argument("--workers", type=int, default=100)
    parser.add_argument("--seconds", type=float, default=1.0, help="that each job takes")
    parser.add_argument("--bytes", type=int, default=0, help="that each job makes")
    options = parser.parse_args()
    simulated(options.jobs, options.workers, options.seconds, options.bytes)


if __name__ == "__main__":
    print_everywhere()
    main()
