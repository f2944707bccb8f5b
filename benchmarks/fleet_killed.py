"""A fleet of two ComfyUIs on this machine, killed twice: is every result there, once, and the same?

    python benchmarks/fleet_killed.py [--prompts 25] [--folder DIR]

Four jobs a prompt: two workflows of the demo model, two seeds. First one worker does them all,
undisturbed. Then two do: one worker is killed after a quarter, the driver after a half, and the
same command is given again. Needs Ray. Each ComfyUI computes with one thread.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import signal
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path.append(str(ROOT / "scripts"))

from console import print_everywhere  # noqa: E402

UP = re.compile(r"(worker \d+) is up: (\S+) on \S+, process (\d+)")
# What the demo model knows.
COLOURS = ("red", "green", "blue", "yellow", "purple", "white")
SHAPES = ("circle", "square", "triangle")
WAYS = ("left", "right", "up", "down")


@dataclass(frozen=True)
class Driver:
    """A running fleet.py."""

    process: subprocess.Popen
    out: Path
    log: Path
    began: float

    def results(self) -> dict[Path, int]:
        """Each result and when it was written."""
        return {path: path.stat().st_mtime_ns for path in (self.out / "results").glob("*.json")}

    def until(self, is_so: Callable[[], bool]) -> float:
        """Seconds from its start until that is so."""
        while not is_so():
            if self.process.poll() is not None:
                raise SystemExit(f"it ended too soon:\n{self.log.read_text()[-3000:]}")
            time.sleep(0.05)
        return time.monotonic() - self.began

    def workers(self) -> list[tuple[str, str, int]]:
        """(name, address of its ComfyUI, process) of each that came up, in that order."""
        found = UP.findall(self.log.read_text(encoding="utf-8"))
        return [(name, url, int(process)) for name, url, process in found]


def workflow(steps: int) -> dict[str, Any]:
    """The shipped demo workflow at so many steps, five frames long, saved as pictures."""
    prompt = json.loads((ROOT / "workflows" / "api" / "demo.json").read_text(encoding="utf-8"))
    by_class = {node["class_type"]: id for id, node in prompt.items()}
    prompt[by_class["FewStepDemo"]]["inputs"]["frames"] = 5
    prompt[by_class["FewStepSampler"]]["inputs"]["steps"] = steps
    for unwanted in ("ImageScaleBy", "CreateVideo", "SaveVideo"):
        del prompt[by_class[unwanted]]
    frames = [by_class["VAEDecode"], 0]
    saved = {"images": frames, "filename_prefix": "fleet"}
    return {**prompt, "saved": {"class_type": "SaveImage", "inputs": saved}}


def started(folder: Path, out: str, workers: int, log: str) -> Driver:
    command = [sys.executable, str(ROOT / "scripts" / "fleet.py")]
    for name in ("four", "two"):
        command += ["--workflow", str(folder / f"{name}.json")]
    command += ["--prompts", str(folder / "prompts.txt"), "--seeds", "2"]
    command += ["--workers", str(workers), "--out", str(folder / out), "--price-per-hour", "1"]
    # No page, and none of what ComfyUI writes into its pictures beside their pixels.
    command += ["--no-report", "--comfyui-argument=--disable-metadata"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONUNBUFFERED": "1"}
    with (folder / log).open("w") as file:
        process = subprocess.Popen(command, stdout=file, stderr=file, env=environment)
    return Driver(process, folder / out, folder / log, time.monotonic())


def answers(url: str) -> bool:
    try:
        urllib.request.urlopen(f"{url}/system_stats", timeout=5).close()
        return True
    except OSError:
        return False


def undisturbed(folder: Path, jobs: int) -> float:
    """Seconds that one worker takes from being up to the last result."""
    driver = started(folder, "one", 1, "one.log")
    up = driver.until(lambda: len(driver.workers()) == 1)
    done = driver.until(lambda: len(driver.results()) == jobs)
    driver.process.wait()
    print(f"one worker: up after {up:.0f} s, {jobs} jobs in {done - up:.0f} s", flush=True)
    return done - up


def killed(folder: Path, jobs: int) -> None:
    """The run of two workers that are disturbed, and what is there after it."""
    driver = started(folder, "two", 2, "two-1.log")
    up = driver.until(lambda: len(driver.workers()) == 2)
    driver.until(lambda: len(driver.results()) >= jobs // 4)
    name, url, process = driver.workers()[0]
    before, moment = len(driver.results()), time.monotonic() - driver.began
    os.kill(process, signal.SIGKILL)
    print(f"two workers: up after {up:.0f} s; {name} killed after {before} jobs, {moment:.0f} s")
    again = driver.until(lambda: len(driver.workers()) == 3)
    print(f"{name} up again {again - moment:.0f} s later; old ComfyUI answers: {answers(url)}")
    halfway = driver.until(lambda: len(driver.results()) >= jobs // 2)
    driver.process.kill()
    driver.process.wait()
    kept = driver.results()
    print(f"driver killed after {len(kept)} jobs, {halfway:.0f} s", flush=True)
    time.sleep(20)
    urls = [url for _, url, _ in driver.workers()]
    print(f"ComfyUIs that answer 20 s later: {sum(map(answers, urls))} of {len(urls)}")
    second = started(folder, "two", 2, "two-2.log")
    up = second.until(lambda: len(second.workers()) >= 1)
    done = second.until(lambda: len(second.results()) == jobs)
    second.process.wait()
    print(f"started again: up after {up:.0f} s, the other {jobs - len(kept)} in {done - up:.0f} s")
    untouched = sum(second.results()[path] == moment for path, moment in kept.items())
    print(f"of the {len(kept)} results of before, {untouched} were not written again")
    print(second.log.read_text(encoding="utf-8"))


def compare(folder: Path) -> None:
    """What both runs made, by its bytes."""
    one, two = (
        {path.name: path.read_bytes() for path in (folder / out / "results").glob("*.png")}
        for out in ("one", "two")
    )
    same = sum(one[name] == two.get(name) for name in one)
    print(f"pictures of one worker: {len(one)}, of two: {len(two)}, with equal bytes: {same}")
    errors = sum(
        bool(json.loads(path.read_text())["error"])
        for path in (folder / "two" / "results").glob("*.json")
    )
    print(f"jobs that failed: {errors}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--prompts", type=int, default=25)
    parser.add_argument("--folder", type=Path, help="kept; must be empty")
    options = parser.parse_args()
    folder = options.folder or Path(tempfile.mkdtemp())
    folder.mkdir(parents=True, exist_ok=True)
    for name, steps in (("four", 0), ("two", 2)):
        (folder / f"{name}.json").write_text(json.dumps(workflow(steps)))
    prompts = [
        f"a {colour} {shape} moving {way}" for colour in COLOURS for shape in SHAPES for way in WAYS
    ]
    (folder / "prompts.txt").write_text("\n".join(prompts[: options.prompts]))
    jobs = 4 * min(options.prompts, len(prompts))
    undisturbed(folder, jobs)
    killed(folder, jobs)
    compare(folder)
    print(f"load of the machine: {os.getloadavg()[0]:.1f}; everything is in {folder}")


if __name__ == "__main__":
    print_everywhere()
    main()
