"""Many runs over the HTTP API of one or several ComfyUI servers: queued, resumed, nothing lost.

A job is one workflow with one prompt and one seed. Its result is a small JSON file in the output
folder, written when the job is done and never before, so whatever is killed (this program, a
server), running the same command again does what is left.
"""

from __future__ import annotations

import collections
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from batch_jobs import Job
from batch_run import ServerGone, run_job
from batch_store import Result, Store, StoreError
from comfy_client import Client

RETURN_SECONDS = 120.0


@dataclass(frozen=True)
class Outcome:
    """What one call did, in jobs."""

    done: int
    failed: int
    left: int  # that no server was left to run
    gone: tuple[str, ...]  # servers that stopped answering
    stopped: str = ""  # why the call ended before its jobs did, empty where it did not


class Pool:
    """Jobs that wait and jobs that run. An idle server waits while another's job may come back."""

    def __init__(self, jobs: Sequence[Job]):
        self._waiting, self._running, self._changed = (
            collections.deque(jobs),
            0,
            threading.Condition(),
        )

    def take(self) -> Job | None:
        """The next job, None once nothing waits and nothing runs."""
        with self._changed:
            self._changed.wait_for(lambda: self._waiting or not self._running)
            if not self._waiting:
                return None
            self._running += 1
            return self._waiting.popleft()

    def finish(self, back: Job | None) -> None:
        """A job that was taken has ended. back: the same job if somebody else has to run it."""
        with self._changed:
            self._running -= 1
            self._waiting.extend([back] if back else [])
            self._changed.notify_all()


@dataclass(frozen=True)
class Batch:
    """What the servers of one call share."""

    pool: Pool
    store: Store
    say: Callable[[str], None]
    return_seconds: float
    finished: list[Result]
    gone: list[str]
    stopped: list[str]

    def work(self, url: str) -> None:
        """Run jobs on one server, one at a time, until none is left or the server is gone."""
        seen: set[str] = set()
        while (job := self.pool.take()) is not None:
            back: Job | None = job
            try:
                result = run_job(
                    Client(url),
                    job,
                    self.store,
                    job.workflow not in seen,
                    self.return_seconds,
                    self.say,
                )
                self.store.write(result)
                self.finished.append(result)
                self.say(f"{len(self.finished)}: {in_words(result)}")
                seen.add(job.workflow)
                back = None
            except ServerGone as error:
                self.gone.append(url)
                self.say(f"{url} stopped answering ({error}); its job goes back to the queue")
                return
            except StoreError as error:
                self.stopped.append(str(error))
                return
            finally:
                self.pool.finish(back)


def run_all(
    jobs: Sequence[Job],
    servers: Sequence[str],
    store: Store,
    say: Callable[[str], None],
    return_seconds: float = RETURN_SECONDS,
) -> Outcome:
    """Run what is not done yet on all servers at once. A job whose server dies goes to another."""
    todo = [job for job in jobs if not store.is_done(job)]
    batch = Batch(Pool(todo), store, say, return_seconds, [], [], [])
    say(
        f"{len(jobs)} job{'s' * (len(jobs) != 1)}, {len(jobs) - len(todo)} done before,"
        f" {len(todo)} to do on {len(servers)} server{'s' * (len(servers) > 1)}"
    )
    threads = [threading.Thread(target=batch.work, args=(url,), daemon=True) for url in servers]
    for thread in threads:
        thread.start()
    for thread in threads:
        while thread.is_alive():
            thread.join(1.0)  # without a limit, Windows' Ctrl+C would wait for the end
    failed = sum(bool(result.error) for result in batch.finished)
    left = len(todo) - len(batch.finished)
    return Outcome(
        len(batch.finished) - failed,
        failed,
        left,
        tuple(batch.gone),
        "; ".join(dict.fromkeys(batch.stopped)),
    )


def in_words(result: Result) -> str:
    what = f"{result.workflow}, seed {result.seed}, {result.text[:40]!r}"
    return (
        f"{what}: FAILED, {result.error}"
        if result.error
        else f"{what}: {seconds_in_words(result.seconds)}"
    )


def seconds_in_words(seconds: float | None) -> str:
    return "from the server's cache" if seconds is None else f"{seconds:.2f} s"
