"""Reports and refusals count in plain English: 1 step, 2 steps."""

from __future__ import annotations

import re

import pytest
import torch
from comfyui_fewstep.loras.catalog import CATALOG
from comfyui_fewstep.loras.words import counted
from comfyui_fewstep.nodes import sampler, stream
from comfyui_fewstep.nodes.host.run import Run, RunLog
from comfyui_fewstep.nodes.host.stream import StreamRun
from comfyui_fewstep.samplers.causal import make_stream_plan
from comfyui_fewstep.samplers.plan import PlanError, make_plan

ONE_OF_SEVERAL = re.compile(r"(?<![\d.])1 (?!is\b|has\b)[a-z]+s\b(?<!ss)")


@pytest.mark.parametrize(
    ("count", "words"),
    [(1, "1 pass"), (4, "4 passes"), (1.0, "1 pass"), (1.5, "1.5 passes"), (0, "0 passes")],
)
def test_nouns_are_counted(count, words) -> None:
    assert counted(count, "pass") == words
    assert counted(1_234_567, "frame") == "1234567 frames"


def sigma_of(timestep: float) -> float:
    return timestep / 1000


def test_a_run_of_one_step_is_told_in_the_singular() -> None:
    plan = make_plan(CATALOG["hyper-sd15-1step-lora"], 0, 1.0, sigma_of)
    run = Run(torch.zeros(1, 4, 8, 8), RunLog(calls=1, rows=1), 0.2, evaluations=1.0)
    report = sampler.report_on_run(plan, run)
    assert report.summary.startswith("1 step, 1 evaluation, ")
    assert "- forward passes: 1 of 1 row in all" in report.markdown
    assert ONE_OF_SEVERAL.findall(report.markdown) == []


def test_a_stream_of_one_picture_is_told_in_the_singular() -> None:
    plan = make_stream_plan(CATALOG["causal-forcing-plus-framewise-1step"], 1, sigma_of)
    run = StreamRun(
        torch.zeros(1, 16, 1, 8, 8), seconds=2.0, first_seconds=2.0, first_frames=1, blocks=1
    )
    report = stream.report_on_stream(plan, run)
    assert report.summary.startswith("1 frame in 2 s")
    assert ONE_OF_SEVERAL.findall(report.markdown) == []


def test_a_refused_step_count_is_told_in_the_singular() -> None:
    record = next(
        record
        for record in CATALOG.values()
        if record.steps == (1,) and record.expert is None and not record.schedule.is_formula
    )
    with pytest.raises(PlanError, match="which has 1 step and not 4"):
        make_plan(record, 4, 1.0, sigma_of)
