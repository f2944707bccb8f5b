"""One command measures and writes the page."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

from thinning import thorough

ROOT = Path(__file__).resolve().parents[2]


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
