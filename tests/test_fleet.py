"""A fleet without Ray and without ComfyUI: who gets which job, what is resumed, what becomes of
the dead, and the table at the end.
"""

from __future__ import annotations

import collections
import json
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import ClassVar

import pytest

import compare
import fleet
import fleet_run
import fleet_table
from batch_jobs import Job
from batch_run import MOST_RESTARTS, ServerGone
from batch_store import Result, Store
from comfy_server import ROOT, without_own_folders
from fleet_engines import Threads
from fleet_waiting import Waiting
from fleet_worker import Done, Setup
from test_compare import command_line


def job(workflow: str, seed: int) -> Job:
    return Job(f"{workflow}-{seed}", workflow, "a cat", seed, {})


def jobs(**counts: int) -> list[Job]:
    return [job(name, seed) for name, count in counts.items() for seed in range(count)]


def result(job: Job, server: str = "worker 1", **more) -> Result:
    return Result(job.id, job.workflow, job.text, job.seed, server, **more)


# ---------------------------------------------------------------- who gets which job


def test_a_worker_stays_with_the_workflow_it_has_loaded() -> None:
    waiting = Waiting(jobs(a=3, b=3))
    order = [waiting.take(worker).workflow for worker in ("1", "2", "1", "2", "1", "2")]
    assert order == ["a", "b"] * 3 and not waiting


def test_workers_spread_over_workflows_by_what_waits_in_each() -> None:
    waiting = Waiting(jobs(few=2, many=9))
    taken = [waiting.take(str(worker)).workflow for worker in range(4)]
    # 9 against 2; 8/2 against 2; 7/3 against 2; 6/4 against 2.
    assert taken == ["many", "many", "many", "few"]


@pytest.mark.parametrize(
    ("load", "is_helped"),
    # One worker has 4 jobs of 1 s before it: whoever loads for less than that is through sooner.
    [(3.9, True), (4.1, False)],
)
def test_a_worker_changes_its_workflow_only_where_loading_pays(
    load: float, is_helped: bool
) -> None:
    waiting = Waiting(jobs(a=6))
    for seconds, is_first in ((1.0 + load, True), (1.0, False)):
        waiting.learn(result(waiting.take("1"), seconds=seconds, is_first=is_first))
    assert (waiting.take("2") is not None) is is_helped
    # What the other leaves is done by the one who has loaded it.
    assert all(waiting.take("1") for _ in range(4 - is_helped)) and not waiting


def test_what_nobody_has_loaded_is_begun_whatever_loading_takes() -> None:
    waiting = Waiting(jobs(a=2, b=1))
    for seconds, is_first in ((900.0, True), (1.0, False)):
        waiting.learn(result(waiting.take("1"), seconds=seconds, is_first=is_first))
    assert waiting.take("1").workflow == "b" and waiting.take("1") is None


def test_a_job_that_comes_back_is_the_next() -> None:
    waiting = Waiting(jobs(a=3))
    first = waiting.take("1")
    waiting.forget("1")
    waiting.give_back(first)
    assert waiting.take("2") == first


# ---------------------------------------------------------------- a run


class Fake:
    """A worker that makes a file of each job's id. Its name says what goes wrong with it."""

    ran: ClassVar = collections.Counter()
    death, restart = threading.Event(), threading.Event()

    def __init__(self, name: str, setup: Setup):
        self.name, self.url, self.starts, self.stopped = name, setup.url, 0, threading.Event()

    def start(self) -> str:
        self.starts += 1
        if self.starts > 1:
            Fake.restart.set()
        if self.url == "never":
            raise ConnectionError("nobody there")
        if self.url == "dies starting":
            raise ServerGone("killed")
        if self.url == "after a death":
            assert Fake.death.wait(60)
        return "here"

    def run(self, job: Job) -> Done:
        Fake.ran[job.id] += 1
        if self.url == "after a death":
            assert Fake.restart.wait(60), "all would be done before the other is there again"
        if (self.url == "dies once" and self.starts == 1) or job.workflow == "deadly":
            Fake.death.set()
            raise ServerGone("killed")
        files = {f"{job.id}.0.png": job.id.encode()}
        return Done(result(job, self.name, seconds=1.0, files=tuple(files)), files)

    def stop(self) -> None:
        self.stopped.set()


def run(store: Store, todo: list[Job], *urls: str) -> tuple[fleet_run.Outcome, list[str]]:
    said: list[str] = []
    Fake.ran.clear()
    Fake.death.clear()
    Fake.restart.clear()
    engine = Threads(Fake)
    workers = {f"worker {place}": Setup(url) for place, url in enumerate(urls, 1)}
    outcome = fleet_run.run(todo, workers, engine, store, said.append)
    assert all(worker.stopped.is_set() for worker in engine._workers.values())
    return outcome, said


def test_every_job_is_done_once_and_again_only_what_is_missing(tmp_path: Path) -> None:
    store, todo = Store(tmp_path), jobs(a=20, b=20)
    outcome, _ = run(store, todo[:15], "", "")
    assert (outcome.done, outcome.failed, outcome.left) == (15, 0, 0)
    outcome, said = run(store, todo, "", "", "")
    assert said[0] == "40 jobs, 15 done before, 25 to do" and outcome.done == 25
    assert Fake.ran == collections.Counter(each.id for each in todo[15:])
    assert {path.read_text() for path in store.results.glob("*.png")} == {each.id for each in todo}
    (store.results / f"{todo[3].id}.0.png").unlink()
    assert run(store, todo, "")[0].done == 1 and Fake.ran == collections.Counter([todo[3].id])
    outcome, said = run(store, todo, "", "")
    assert outcome.done == 0 and not Fake.ran and len(said) == 1, "and no worker is started"


def test_a_dead_workers_job_is_done_by_another_and_it_is_started_again(tmp_path: Path) -> None:
    outcome, said = run(Store(tmp_path), jobs(a=6), "dies once", "after a death")
    assert (outcome.done, outcome.failed, outcome.gone) == (6, 0, ())
    assert sorted(Fake.ran.values()) == [1, 1, 1, 1, 1, 2]
    assert sum("worker 1 died during a, seed" in line for line in said) == 1
    assert sum(line.startswith("worker 1 is up") for line in said) == 2


def test_a_job_that_kills_every_worker_fails_and_the_others_are_done(tmp_path: Path) -> None:
    store, todo = Store(tmp_path), [job("deadly", 0), *jobs(a=5)]
    outcome, _ = run(store, todo, "", "")
    assert (outcome.done, outcome.failed, outcome.left) == (5, 1, 0)
    assert store.read(todo[0]).error == "the worker died 3 times during this job: killed"
    assert Fake.ran[todo[0].id] == MOST_RESTARTS + 1


def test_a_worker_without_a_server_is_left_out_and_told(tmp_path: Path) -> None:
    outcome, _ = run(Store(tmp_path), jobs(a=4), "never", "dies starting", "")
    assert outcome.done == 4 and set(outcome.gone) <= {"worker 1", "worker 2"}
    outcome, said = run(Store(tmp_path / "none"), jobs(a=4), "never", "dies starting")
    assert (outcome.done, outcome.left) == (0, 4)
    assert set(outcome.gone) == {"worker 1", "worker 2"}
    assert "worker 1 has no ComfyUI and is left out: nobody there" in said


def test_a_full_disk_ends_the_run(tmp_path: Path) -> None:
    (tmp_path / "results").write_text("a file where the folder should be")
    outcome, _ = run(Store(tmp_path), jobs(a=3), "")
    assert "cannot be written to" in outcome.stopped and outcome.left == 3


def test_silence_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fleet_run, "SILENT_SECONDS", 0.01)
    monkeypatch.setattr(Fake, "start", lambda self: time.sleep(0.2) or "here")
    _, said = run(Store(tmp_path), jobs(a=9), *[""] * 7)
    assert (
        "waiting for " + "; ".join(f"worker {place} (start)" for place in range(1, 6)) + "; 2 more"
        in said
    )


# ---------------------------------------------------------------- the table


def test_the_table_counts_each_worker_and_all() -> None:
    known = [
        result(job("a", 1), "worker 10 on x", seconds=2.0, evaluations=4.0),
        result(job("a", 2), "worker 2 on x", seconds=4.0, evaluations=4.0),
        result(job("a", 3), "worker 2 on x", seconds=6.0, evaluations=4.0),
        result(job("a", 4), "worker 2 on x", seconds=None),  # from the server's cache
        result(job("a", 5), "worker 2 on x", error="out of memory"),
    ]
    assert fleet_table.table(known, 3600.0) == [
        ["worker", "jobs", "failed", "seconds", "seconds each", "evaluations", "price"],
        ["worker 2 on x", "3", "1", "10.0", "5.00", "8", "10"],
        ["worker 10 on x", "1", "0", "2.0", "2.00", "4", "2"],
        ["all", "4", "1", "12.0", "4.00", "12", "12"],
    ]
    assert fleet_table.table([], 0.0)[1:] == [["all", "0", "0", "0.0", "", ""]]
    assert fleet_table.in_words([["a", "b"], ["long", "1"]]) == "a     b\nlong  1"


# ---------------------------------------------------------------- the command


def test_a_cluster_without_ray_is_refused_and_no_cluster_runs_here(
    tmp_path: Path, capsys, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fleet.importlib.util, "find_spec", lambda name: None)
    arguments = command_line(tmp_path, ["a"])
    assert fleet.main([*arguments, "--ray", "10.0.0.1:6379"]) == 2
    said = capsys.readouterr().err
    assert "Ray is not installed for" in said and "leave --ray out" in said
    assert not fleet.has_ray("local") and not fleet.has_ray("off")
    assert capsys.readouterr().out.count("running on this machine alone") == 1


def test_a_comparison_needs_a_server_or_a_fleet(tmp_path: Path, capsys) -> None:
    assert compare.main(command_line(tmp_path, ["a"])) == 2
    said = capsys.readouterr().err
    assert "give --server http://127.0.0.1:8188, or --ray for a fleet" in said
    assert compare.parsed([*command_line(tmp_path, ["a"]), "--ray"]).ray == "local"


def test_a_worker_is_a_device_or_a_server_and_none_shares_a_folder(tmp_path: Path) -> None:
    options = fleet.parsed([*command_line(tmp_path, ["a"]), "--workers", "3"])
    cards = [["--cuda-device", "0"], ["--cuda-device", "1"]]
    made = fleet.make_workers([], options, cards)
    assert [setup.arguments[1] for setup in made.values()] == ["0", "1", "0"]
    assert len({setup.folder for setup in made.values()}) == 3
    options.workers = None
    assert len(fleet.make_workers([], options, cards)) == 2
    assert fleet.make_workers(["http://a", "http://b"], options, cards) == {
        "worker 1": Setup("http://a"),
        "worker 2": Setup("http://b"),
    }


def test_the_command_needs_neither_ray_nor_torch(tmp_path: Path) -> None:
    # -S: without the site-packages, so without everything that is not Python's own.
    command = [sys.executable, "-S", fleet.__file__, *command_line(tmp_path, ["a"])]
    refused = subprocess.run([*command, "--ray", "10.0.0.1:6379"], capture_output=True, text=True)
    assert refused.returncode == 2 and "Ray is not installed" in refused.stderr


def test_only_this_repository_leaves_the_path_of_a_server() -> None:
    given = os.pathsep.join([str(ROOT), "other", str(ROOT / "scripts")])
    assert without_own_folders(given) == "other"


OWNER = """
import subprocess, sys, time
sys.path.append(sys.argv[1])
from guard import guarded
sleeper = [sys.executable, "-c", "import time; time.sleep(600)"]
process = subprocess.Popen(sleeper, start_new_session=True)
with guarded(process):
    print(process.pid, flush=True)
    sys.stdin.read()
print("left", flush=True)
sys.stdin = None
time.sleep(600)
"""


@pytest.mark.skipif(sys.platform == "win32", reason="signals")
def test_a_guard_ends_what_it_guards_when_its_owner_is_killed() -> None:
    with owner() as killed:
        guarded = int(killed.stdout.readline())
        assert is_running(guarded)
        killed.kill()
        wait_for(lambda: not is_running(guarded))


@pytest.mark.skipif(sys.platform == "win32", reason="signals")
def test_a_guard_that_was_dismissed_ends_nothing() -> None:
    with owner() as dismissing:
        guarded = int(dismissing.stdout.readline())
        try:
            dismissing.stdin.close()
            # It comes to this line once the guard has ended.
            assert dismissing.stdout.readline() == b"left\n" and is_running(guarded)
            dismissing.kill()
            dismissing.wait()
            assert is_running(guarded)
        finally:
            os.kill(guarded, signal.SIGKILL)


def owner() -> subprocess.Popen:
    """A program that starts a process under guard and prints its number."""
    command = [sys.executable, "-c", OWNER, str(ROOT / "scripts")]
    return subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE)


def is_running(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    # A dead process stays listed until somebody takes note of its end.
    status = Path(f"/proc/{pid}/stat")
    return not status.exists() or status.read_text().rpartition(")")[2].split()[0] != "Z"


def wait_for(is_so, timeout: float = 60) -> None:
    deadline = time.monotonic() + timeout
    while not is_so():
        assert time.monotonic() < deadline, "waited in vain"
        time.sleep(0.01)


def test_what_ray_sends_to_a_machine_is_a_whole_pack() -> None:
    from fleet_engines import NOT_SENT

    left_out = {name.strip("/") for name in NOT_SENT}
    needed = {"scripts", "nodes", "samplers", "loras", "motion", "quality", "demo", "__init__.py"}
    assert not needed & left_out and all((ROOT / name).exists() for name in needed)
    json.dumps(NOT_SENT)
