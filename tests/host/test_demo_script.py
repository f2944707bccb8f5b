"""`python scripts/demo.py` on the session's server: the four ways side by side, the table, the
sheet and the animation.
"""

from __future__ import annotations

import json

from PIL import Image

import demo as script


def test_the_demo_shows_what_acceleration_gains_and_costs(server, host, capsys):
    prompt = json.loads(script.DEMO.workflow.read_text(encoding="utf-8"))
    script.run_ways(server, host, prompt, server.base)
    printed = capsys.readouterr().out
    rows = {
        cells[0]: cells[1:]
        for cells in (
            [cell.strip() for cell in line.strip("|").split("|")]
            for line in printed.splitlines()
            if line.startswith("| ")
        )
        if cells[0] in script.WAYS
    }
    assert [rows[way][0] for way in script.WAYS] == ["100", "4", "4", "8"]
    full, fast = (float(rows[way][1]) for way in script.WAYS[:2])
    assert full > fast, "even a busy machine is faster with 4 evaluations than with 100"
    psnr = {way: float(rows[way][3].split()[0]) for way in script.WAYS[1:]}
    assert max(psnr, key=psnr.get) == "4 steps accelerated"
    # Loading the models and measuring both show their steps, and the sampler's report is the last
    # word.
    assert (
        printed.count("4 steps accelerated: step 4 of 4") == 2
        and printed.count("50 steps, CFG 5: step 50 of 50") == 2
    )
    assert "Few-Step Sampler: 4 steps, 4 evaluations" in printed[printed.rindex("result: ") :]

    folder = server.base / "output" / "few-step"
    with (
        Image.open(folder / "demo_sheet.png") as sheet,
        Image.open(folder / "demo_sheet.webp") as animation,
    ):
        assert sheet.width > 900 and sheet.height > 800
        assert animation.n_frames == 17
