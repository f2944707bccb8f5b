"""What leaves a node: Markdown, data for /history, a log line; none of them holds NaN."""

from __future__ import annotations

import json
import logging
import math

import pytest
from comfyui_fewstep.nodes.host.report import Report

NAN, INFINITY = math.nan, math.inf


def test_numbers_that_are_none_are_null_in_the_data_and_words_everywhere_else(caplog) -> None:
    report = Report(
        node="Any Node",
        summary=f"speed {INFINITY:.2f}x, PSNR {NAN:.2f} dB",
        rows=(("seconds", f"{NAN:.3g} (0.5 per pass)"), ("file", "nan.safetensors")),
        data={
            "seconds": NAN,
            "speed": INFINITY,
            "steps": 4,
            "is_equal": True,
            "nothing": None,
            "sigmas": (1.0, -INFINITY, 0.0),
            "entries": [{"node": "Step Skip", "error": NAN, "made": 6}],
        },
    )
    with caplog.at_level(logging.INFO):
        (published,) = report.publish(None)["fewstep_report"]
    assert json.loads(json.dumps(published, allow_nan=False)) == {
        "node": "Any Node",
        "summary": "speed not a number, PSNR not a number dB",
        "notes": [],
        "seconds": None,
        "speed": None,
        "steps": 4,
        "is_equal": True,
        "nothing": None,
        "sigmas": [1.0, None, 0.0],
        "entries": [{"node": "Step Skip", "error": None, "made": 6}],
    }
    assert "- seconds: not a number (0.5 per pass)\n- file: nan.safetensors" in report.markdown
    assert "PSNR not a number dB" in caplog.text


@pytest.mark.parametrize(
    "text",
    ["nan.safetensors", "loras/nan", "nan-banana", "my_nan", "an infinite loop", "C:\\inf\\x"],
)
def test_names_are_left_as_they_are(text: str) -> None:
    report = Report("Any Node", text, (("file", text),))
    assert report.markdown.endswith(f"- file: {text}")
    assert report.publish(None)["fewstep_report"][0]["summary"] == text


def test_a_report_reads_well_as_plain_text() -> None:
    report = Report(
        "Any Node",
        "4 steps",
        rows=(("steps", "4"), ("evaluations", "4")),
        notes=("It is small.",),
        details=(("sigmas", "1, 0"),),
        sections=("| way |\n|---|\n| one |",),
    )
    assert report.markdown == "\n".join(
        [
            "Any Node: 4 steps",
            "",
            "- steps: 4",
            "- evaluations: 4",
            "",
            "Notes:",
            "",
            "- It is small.",
            "",
            "Details:",
            "",
            "- sigmas: 1, 0",
            "",
            "| way |",
            "|---|",
            "| one |",
        ]
    )


def test_the_text_on_a_node_is_the_summary_and_every_note() -> None:
    report = Report("Any Node", "4 steps, 12 LOST", (("steps", "4"),), ("One.", "Two."))
    assert report.on_node == "4 steps, 12 LOST\n\nOne.\n\nTwo."
