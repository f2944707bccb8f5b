"""The jobs of a fleet that wait, and which of them a worker gets next.

A worker that has loaded a workflow's models gets another job of that workflow while there is one.
After that it goes where most jobs wait for each worker, unless loading would take longer than
leaving the rest to those who have loaded already.
"""

from __future__ import annotations

import collections
import statistics
from collections.abc import Sequence

from batch_jobs import Job
from batch_store import Result


class Waiting:
    """What waits, by workflow, and what each worker has loaded."""

    def __init__(self, jobs: Sequence[Job]):
        self._jobs: dict[str, collections.deque[Job]] = {}
        self._loaded: dict[str, str] = {}  # worker -> the workflow it ran last
        # Seconds of jobs that load the models, and of those that found them loaded.
        self._first: dict[str, list[float]] = collections.defaultdict(list)
        self._warm: dict[str, list[float]] = collections.defaultdict(list)
        for job in jobs:
            self._jobs.setdefault(job.workflow, collections.deque()).append(job)

    def __bool__(self) -> bool:
        return any(self._jobs.values())

    def take(self, worker: str) -> Job | None:
        """The next job for this worker, None where none waits that it should do."""
        workflow = self._loaded.get(worker)
        if workflow is None or not self._jobs[workflow]:
            open_ones = [name for name, jobs in self._jobs.items() if jobs and self._pays(name)]
            if not open_ones:
                return None
            workflow = max(open_ones, key=self._share)  # the first of equals
        self._loaded[worker] = workflow
        return self._jobs[workflow].popleft()

    def give_back(self, job: Job) -> None:
        """A job that was taken and has to be run by somebody else, before all others."""
        self._jobs[job.workflow].appendleft(job)

    def forget(self, worker: str) -> None:
        """This worker has nothing loaded any more."""
        self._loaded.pop(worker, None)

    def learn(self, result: Result) -> None:
        """How long a job took."""
        if result.seconds is not None and not result.error:
            times = self._first if result.is_first else self._warm
            times[result.workflow].append(result.seconds)

    def _workers_on(self, workflow: str) -> int:
        return sum(loaded == workflow for loaded in self._loaded.values())

    def _share(self, workflow: str) -> float:
        """Jobs for each worker, if one more joined."""
        return len(self._jobs[workflow]) / (1 + self._workers_on(workflow))

    def _pays(self, workflow: str) -> bool:
        """Whether one more worker would be through with a job before it was anyone else's turn."""
        workers, first, warm = self._workers_on(workflow), *self._times(workflow)
        if not workers or first is None or warm is None:
            return True
        return first - warm <= warm * len(self._jobs[workflow]) / workers

    def _times(self, workflow: str) -> tuple[float | None, float | None]:
        """Median seconds of a job that loads the models, and of one that does not."""
        known = self._first[workflow], self._warm[workflow]
        first, warm = (statistics.median(times) if times else None for times in known)
        return first, warm
