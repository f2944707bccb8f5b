"""benchmarks/soak.py in short: varied runs, cancels and failures in one server, and every job gives
the same bits as the first time.

Whether memory stays flat is for the long run to say: here it would be the noise of the first
minutes.
"""

from __future__ import annotations

import random
from pathlib import Path

from thinning import thorough

from comfy_server import Server

ROOT = Path(__file__).resolve().parents[2]

import soak as program  # noqa: E402

RUNS, JOBS = 30, 12


@thorough
def test_varied_runs_do_not_drift_and_leave_no_tensor_and_no_model(server: Server) -> None:
    program.write_files(server.base / "models")
    choose = random.Random(3)
    jobs = program.make_jobs(JOBS, program.kinds_on(server.client), choose)
    assert len({kind for kind, _ in jobs}) >= 4
    seen = program.soak(server, RUNS, jobs, choose)
    assert seen.drifted == [], program.in_words(seen)
    assert len(seen.first) == JOBS and seen.ends.total() == RUNS
    assert seen.ends["cancelled"] + seen.ends["failed as asked"] >= 2, "faults were among them"
    assert seen.held[0] == seen.held[-1], "tensors and models alive once everything is forgotten"
    assert server.is_alive
