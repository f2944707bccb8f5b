"""Run jobs on a fleet of workers: which worker does which job, and what becomes of a dead one's.

A job's files and its result are written here, by one process, and the result last: whatever is
killed, the same command goes on with what is not written yet.
"""

from __future__ import annotations

import collections
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from batch import Outcome, in_words
from batch_jobs import Job
from batch_run import MOST_RESTARTS
from batch_store import Result, Store, StoreError
from fleet_waiting import Waiting
from fleet_worker import Done, Setup

# How long nothing may happen before it is said what is waited for.
SILENT_SECONDS = 60.0


@dataclass(frozen=True)
class Call:
    """What a worker is at: a job, or its start."""

    worker: str
    job: Job | None = None

    @property
    def label(self) -> str:
        return f"{self.job.workflow}, seed {self.job.seed}" if self.job else "start"


@dataclass
class Fleet:
    """One run's state: the calls under way, the workers with nothing to do, what came out."""

    engine: Any  # Threads or Actors
    store: Store
    say: Callable[[str], None]
    waiting: Waiting
    calls: dict[Any, Call] = field(default_factory=dict)
    idle: list[str] = field(default_factory=list)
    results: list[Result] = field(default_factory=list)
    gone: list[str] = field(default_factory=list)
    deaths: collections.Counter[str] = field(default_factory=collections.Counter)

    def run(self) -> None:
        """Until no job is left, or no worker. Raises StoreError."""
        while self.waiting or any(call.job for call in self.calls.values()):
            for worker in self.idle[:]:
                if job := self.waiting.take(worker):
                    self.idle.remove(worker)
                    self.begin(Call(worker, job))
            if not self.calls:
                return
            if (through := self.engine.first_of(self.calls, SILENT_SECONDS)) is not None:
                self.finish(through)
            else:
                self.say("waiting for " + "; ".join(self.under_way()))

    def begin(self, call: Call) -> None:
        method, arguments = ("run", (call.job,)) if call.job else ("start", ())
        handle = self.engine.call(call.worker, method, *arguments, label=call.label)
        self.calls[handle] = call

    def finish(self, handle: Any) -> None:
        """Take what a call brought."""
        call = self.calls.pop(handle)
        try:
            brought = self.engine.outcome(handle)
        except self.engine.deaths as error:
            self.bury(call, error)
        except Exception as error:
            if call.job:
                raise  # a mistake of this program: anything else of a job's is a result
            self.gone.append(call.worker)
            self.say(f"{call.worker} has no ComfyUI and is left out: {error}")
        else:
            self.idle.append(call.worker)
            self.take(call, brought)

    def take(self, call: Call, brought: Done | str) -> None:
        if isinstance(brought, Done):
            for name, data in brought.files.items():
                self.store.write_bytes(name, data)
            self.keep(brought.result)
            self.waiting.learn(brought.result)
        else:
            self.say(f"{call.worker} is up: {brought}")

    def keep(self, result: Result) -> None:
        self.store.write(result)
        self.results.append(result)
        self.say(f"{len(self.results)}: {in_words(result)}, {result.server}")

    def bury(self, call: Call, error: Exception) -> None:
        """A worker died: its job is for another one, and it is started again.

        A job with which too many died is taken for the cause; so is a start.
        """
        victim = call.job.id if call.job else call.worker
        self.deaths[victim] += 1
        is_cause = self.deaths[victim] > MOST_RESTARTS
        self.say(f"{call.worker} died during {call.label}: {first_line(error)}")
        self.waiting.forget(call.worker)
        if call.job and is_cause:
            self.keep(failed(call, self.deaths[victim], error))
        elif call.job:
            self.waiting.give_back(call.job)
        if not call.job and is_cause:
            self.gone.append(call.worker)
        else:
            self.begin(Call(call.worker))

    def under_way(self) -> list[str]:
        """The first few of what is waited for, in words."""
        words = [f"{call.worker} ({call.label})" for call in self.calls.values()]
        return words[:5] + ([f"{len(words) - 5} more"] if len(words) > 5 else [])


def run(
    jobs: Sequence[Job],
    workers: Mapping[str, Setup],
    engine: Any,
    store: Store,
    say: Callable[[str], None],
) -> Outcome:
    """Run what is not done yet on these workers, and close the engine."""
    todo = [job for job in jobs if not store.is_done(job)]
    say(f"{len(jobs)} jobs, {len(jobs) - len(todo)} done before, {len(todo)} to do")
    fleet, stopped = Fleet(engine, store, say, Waiting(todo)), ""
    try:
        # None is started for nothing.
        for name in list(workers)[: len(todo)]:
            engine.add(name, workers[name])
            fleet.begin(Call(name))
        fleet.run()
    except StoreError as error:
        stopped = str(error)
    finally:
        engine.close()
    failures = sum(bool(result.error) for result in fleet.results)
    return Outcome(
        len(fleet.results) - failures,
        failures,
        len(todo) - len(fleet.results),
        tuple(fleet.gone),
        stopped,
    )


def failed(call: Call, deaths: int, error: Exception) -> Result:
    job = call.job
    assert job is not None
    words = f"the worker died {deaths} times during this job: {first_line(error)}"
    return Result(job.id, job.workflow, job.text, job.seed, call.worker, error=words)


def first_line(error: Exception) -> str:
    """Ray's errors are a page each."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0]
