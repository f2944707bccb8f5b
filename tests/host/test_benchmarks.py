"""One command measures and writes the page; another has all that a card is wanted for."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
from thinning import thorough

from small_models import HAS_CAUSAL_WAN

ROOT = Path(__file__).resolve().parents[2]
needs_bash = pytest.mark.skipif(shutil.which("bash") is None, reason="a script for bash")
PARTS = 17
WHO = {"ours", "core"}


@thorough
def test_one_command_writes_the_results_with_their_date_machine_and_commands(host, tmp_path):
    environment = {**os.environ, "COMFYUI_PATH": str(host.root), "COMFYUI_FEWSTEP_INSIDE": "1"}
    command = [
        host.python,
        str(ROOT / "benchmarks" / "run.py"),
        "--quick",
        "--parts",
        "recognition",
        "--out",
        str(tmp_path),
    ]
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    page = (tmp_path / "results.md").read_text(encoding="utf-8")
    assert "UTC" in page and f"ComfyUI {host.version}" in page and "load " in page
    assert (
        "## `python benchmarks/recognition.py --rounds 1`" in page
        and "| under their published names |" in page
    )
    assert "## Targets missed" in page


def on_a_card(host, file: Path, **environment: str) -> list[dict[str, Any]]:
    """The lines of a run on small models."""
    done = subprocess.run(
        ["bash", str(ROOT / "benchmarks" / "on_a_card.sh"), "--small", str(file)],
        env={
            **os.environ,
            "COMFYUI_PATH": str(host.root),
            "PYTHON": str(host.python),
            **environment,
        },
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    return [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()]


@thorough
@needs_bash
@pytest.mark.skipif(not HAS_CAUSAL_WAN, reason="this host has no causal Wan, which is streamed")
def test_all_that_a_card_is_wanted_for_is_measured_once_and_each_part_is_a_line(host, tmp_path):
    file = tmp_path / "card.jsonl"
    lines = on_a_card(host, file, CARD_SECONDS="1200")
    parts = [line for line in lines if line.get("state", "begun") != "begun"]
    assert [line for line in parts if line["state"] != "done"] == [] and len(parts) == PARTS
    for line in parts:
        if line["part"] == "graphs":
            assert line["Few-Step Sampler against core's KSampler"]["ours"]["breaks"] == 0
            continue
        # Core's ar_video fails in fp8.
        who = {"ours"} if line["part"].startswith("stream") and "fp8" in line["part"] else WHO
        assert line["seconds"].keys() == line["peak_gib"].keys() == who
        assert ("ratio" in line) == (who == WHO) and line["steps"] >= 4 and "own_share" in line
        how = "first_block_seconds" if "stream" in line["part"] else "ideal_factor"
        assert line[how] > 0
    skipping = next(line for line in parts if line["part"] == "flux-dev bf16")
    assert 12 <= skipping["evaluations"] <= 15  # 20 at a speed-up of 1.5, from the fourth on
    # What the file holds is not made again.
    again = on_a_card(host, file)[len(lines) :]
    assert [line for line in again if "part" in line] == []


@thorough
def test_out_of_time_every_part_still_has_its_line(host, tmp_path):
    file = tmp_path / "card.jsonl"
    command = [host.python, str(ROOT / "benchmarks" / "full_size.py"), "--size", "small"]
    # The first part is begun, and then less is left than any part is begun with.
    done = subprocess.run(
        [*command, "--seconds", "10.5", "--out", str(file)],
        env={**os.environ, "COMFYUI_PATH": str(host.root), "COMFYUI_FEWSTEP_INSIDE": "1"},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    lines = [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()]
    states = [line["state"] for line in lines if line.get("state", "begun") != "begun"]
    assert len(states) == PARTS and states[0] in ("done", "stopped")
    assert states[1:] == ["left out"] * (PARTS - 1)
