"""A fleet on real ComfyUI servers: without Ray, and with Ray where it is installed."""

from __future__ import annotations

import csv
import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import ModuleType

import pytest
from PIL import Image
from thinning import thorough

import compare
import fleet
import fleet_run
from batch_jobs import Job, make_job
from batch_store import Store
from comfy_server import Server
from fleet_engines import Threads
from fleet_worker import Setup
from workflow_inputs import Workflow

ROOT = Path(__file__).resolve().parents[2]
UP = re.compile(r"worker \d+ is up: (\S+) on \S+, process (\d+)")


def workflow(steps: int = 0) -> dict:
    """The shipped demo, five frames long, saved as pictures."""
    prompt = json.loads((ROOT / "workflows" / "api" / "demo.json").read_text(encoding="utf-8"))
    by_class = {node["class_type"]: id for id, node in prompt.items()}
    prompt[by_class["FewStepDemo"]]["inputs"]["frames"] = 5
    prompt[by_class["FewStepSampler"]]["inputs"]["steps"] = steps
    for unwanted in ("ImageScaleBy", "CreateVideo", "SaveVideo"):
        del prompt[by_class[unwanted]]
    saved = {"images": [by_class["VAEDecode"], 0], "filename_prefix": "fleet"}
    return {**prompt, "saved": {"class_type": "SaveImage", "inputs": saved}}


def jobs(seeds: range) -> list[Job]:
    return [make_job(Workflow("demo", workflow()), "a red circle", seed) for seed in seeds]


def request(folder: Path, out: str, seeds: int, *more: str) -> list[str]:
    """The command line for the workflow at 4 steps and at 2."""
    arguments = ["--out", str(folder / out), "--seeds", str(seeds)]
    for name, steps in (("four", 4), ("two", 2)):
        path = folder / f"{name}.json"
        path.write_text(json.dumps(workflow(steps)))
        arguments += ["--workflow", str(path)]
    (folder / "prompts.txt").write_text("a red circle\n")
    return [*arguments, "--prompts", str(folder / "prompts.txt"), *more]


def pictures(out: Path) -> dict[str, bytes]:
    """Their pixels: what a server writes beside them may name files of its own."""
    paths = (out / "results").glob("*.png")
    return {path.name: Image.open(path).tobytes() for path in paths}


@thorough
def test_a_killed_comfyui_is_started_again_and_nothing_is_lost_or_done_twice(
    tmp_path: Path, server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COMFYUI_FEWSTEP_CACHE", str(tmp_path / "cache"))
    setup = Setup(folder="one", models=tmp_path / "models", arguments=["--cpu"])
    (tmp_path / "models").mkdir()
    engine, store, said = Threads(), Store(tmp_path / "out"), []

    def say(line: str) -> None:
        said.append(line)
        if line.startswith("1: "):
            process = engine._workers["worker 1"]._server.process
            os.killpg(process.pid, signal.SIGKILL)

    outcome = fleet_run.run(jobs(range(1, 4)), {"worker 1": setup}, engine, store, say)
    assert (outcome.done, outcome.failed, outcome.left, outcome.gone) == (3, 0, 0, ()), said
    assert sum(line.startswith("worker 1 is up") for line in said) == 2
    assert sum(": demo, seed" in line for line in said) == 3
    assert not engine._workers["worker 1"]._server.is_alive
    # The bits of another server, which nobody killed.
    there = {"worker 1": Setup(url=server.client.url)}
    again = Store(tmp_path / "again")
    fleet_run.run(jobs(range(1, 4)), there, Threads(), again, said.append)
    assert len(pictures(store.folder)) == 15 and pictures(store.folder) == pictures(again.folder)


@pytest.mark.parametrize("program", [fleet, compare], ids=["fleet", "compare"])
def test_one_command_without_ray_runs_resumes_and_ends_in_a_table_and_a_report(
    server: Server, tmp_path: Path, capsys, program: ModuleType
) -> None:
    more = ["--ray", "off", "--server", server.client.url, "--price-per-hour", "3600"]
    assert program.main(request(tmp_path, "out", 1, *more)) == 0
    assert "2 jobs, 0 done before, 2 to do" in capsys.readouterr().out
    assert program.main(request(tmp_path, "out", 2, *more)) == 0
    said = capsys.readouterr().out
    assert "4 jobs, 2 done before, 2 to do" in said
    table = (tmp_path / "out" / "results.csv").read_text(encoding="utf-8")
    rows = list(csv.DictReader(table.splitlines()))
    assert [float(row["evaluations"]) for row in rows] == [4, 4, 2, 2]
    page = (tmp_path / "out" / "report.html").read_text(encoding="utf-8")
    assert "4 of 4 jobs done" in page
    if program is fleet:
        head, *_, total = said[said.index("worker  ") :].splitlines()[:3]
        assert head.split()[-2:] == ["evaluations", "price"]
        assert total.split()[:3] == ["all", "4", "0"] and total.split()[5] == "12"


@pytest.mark.skipif(sys.platform == "win32", reason="signals")
def test_on_ray_a_killed_worker_is_started_again_and_the_bits_are_a_single_servers(
    server: Server, tmp_path: Path
) -> None:
    pytest.importorskip("ray")
    alone = ["--ray", "off", "--server", server.client.url]
    assert fleet.main(request(tmp_path, "alone", 3, *alone)) == 0
    (tmp_path / "models").mkdir()
    command = [sys.executable, fleet.__file__, *request(tmp_path, "ray", 3, "--workers", "1")]
    environment = {**os.environ, "COMFYUI_FEWSTEP_CACHE": str(tmp_path / "cache")}
    environment.pop("RAY_ADDRESS", None)
    log = tmp_path / "log"
    with log.open("w") as file:
        driver = subprocess.Popen(
            [*command, "--models", str(tmp_path / "models")],
            stdout=file,
            stderr=file,
            env={**environment, "PYTHONUNBUFFERED": "1"},
        )
        try:
            wait_for(lambda: list((tmp_path / "ray" / "results").glob("*.json")), driver, log)
            os.kill(int(UP.search(log.read_text())[2]), signal.SIGKILL)
            assert driver.wait(timeout=600) == 0, log.read_text()
        finally:
            driver.kill()
    assert len(UP.findall(log.read_text())) == 2
    assert "6 jobs, 0 done before, 6 to do" in log.read_text()
    made = pictures(tmp_path / "ray")
    assert len(made) == 2 * 3 * 5 and made == pictures(tmp_path / "alone")


def wait_for(is_so, driver: subprocess.Popen, log: Path, timeout: float = 600) -> None:
    deadline = time.monotonic() + timeout
    while not is_so():
        assert driver.poll() is None and time.monotonic() < deadline, log.read_text()
        time.sleep(0.02)
