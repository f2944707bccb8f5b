"""`python scripts/demo.py` on the session's server: the four ways side by side, the table, the
picture and the clip.
"""

from __future__ import annotations

import json
import re

from PIL import Image
from thinning import thorough

import demo as script


@thorough
def test_the_demo_shows_what_acceleration_gains_and_costs(server, host, capsys):
    prompt = json.loads(script.DEMO.workflow.read_text(encoding="utf-8"))
    outcome = script.run_ways(server, host, prompt, server.base)
    lines = outcome.words.splitlines()
    rows = {
        cells[0]: cells[1:] for line in lines if (cells := re.split(r"  +", line))[0] in script.WAYS
    }
    assert [rows[way][0] for way in script.WAYS] == ["100", "4", "4", "8"]
    full, fast = (float(rows[way][1]) for way in script.WAYS[:2])
    assert full > fast, "even a busy machine is faster with 4 evaluations than with 100"
    assert float(rows[script.WAYS[0]][2]) == 1.0 and float(rows[script.WAYS[1]][2]) > 1.0
    assert len(rows[script.WAYS[0]]) == 3, "the long run is not compared with itself"
    psnr = {way: float(rows[way][3].split()[0]) for way in script.WAYS[1:]}
    assert max(psnr, key=psnr.get) == "4 steps accelerated"

    printed = capsys.readouterr()
    assert not printed.out, "what came out is printed by main, and nothing else"
    # Where there is no terminal each node is said once, in loading the models and in measuring.
    said = printed.err.splitlines()
    for node in ("4 steps accelerated", "50 steps, CFG 5"):
        assert said.count(f"[demo] {node}") == 2
    assert " of 50" not in printed.err

    assert [way["evaluations"] for way in outcome.data["ways"]] == [100, 4, 4, 8]
    reports = {report["node"]: report for report in outcome.data["reports"]}
    assert reports["Few-Step Sampler"]["summary"].startswith("4 steps, 4 evaluations")
    json.dumps(outcome.data, allow_nan=False)

    folder = server.base / "output" / "few-step"
    assert f"picture: {folder / 'demo_sheet.png'}" in lines
    assert f"clip:    {folder / 'demo_sheet.webp'}" in lines
    with (
        Image.open(folder / "demo_sheet.png") as sheet,
        Image.open(folder / "demo_sheet.webp") as animation,
    ):
        assert sheet.width > 900 and sheet.height > 800
        assert animation.n_frames == 17
