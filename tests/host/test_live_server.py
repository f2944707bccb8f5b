"""Texts that are sent to a stream over a real server, by programs and by scripts/live.py."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from thinning import some_of

import host as hosts
from comfy_client import outputs
from prompts import node
from small_models import HAS_CAUSAL_WAN

FIRST, SECOND = "a red circle moving right", "a blue square moving left"
SCRIPT = hosts.ROOT / "scripts" / "live.py"
FRAMES = 65
causal = pytest.mark.skipif(not HAS_CAUSAL_WAN, reason="this ComfyUI has no causal Wan")


def demo_stream(seed, with_clip=True, frames=FRAMES):
    """The demo model's stream, node "clip"."""
    prompt = {
        "demo": node("FewStepDemo", prompt=FIRST, frames=frames, variant="causal"),
        "clip": node(
            "FewStepStream",
            model=["demo", 0],
            positive=["demo", 1],
            latent_image=["demo", 4],
            seed=seed,
            frames_per_block=0,
            window_frames=7,
            sink_frames=1,
            vae=["demo", 3],
            clip=["demo", 5],
        ),
        "out": node("TestLatentReport", samples=["clip", 0]),
    }
    if not with_clip:
        del prompt["clip"]["inputs"]["clip"]
    return prompt


def post(server, text, node_id="clip"):
    return server.client.post(f"/fewstep/stream/{node_id}", {"text": text})


def streams(server):
    return server.client.get("/fewstep/stream")["streams"]


def until(true, seconds=120):
    deadline = time.monotonic() + seconds
    while not (found := true()):
        assert time.monotonic() < deadline, "it did not come about"
        time.sleep(0.02)
    return found


def changes(entry):
    (report,) = [
        report
        for report in outputs(entry, "fewstep_report")
        if report["node"] == "Streaming Sampler"
    ]
    return report["prompt_changes"]


def test_where_no_stream_runs_a_text_is_refused_in_words(server):
    status, answer = post(server, SECOND)
    assert status == 404 and "No stream runs at node clip. None runs now" in answer["error"]
    assert streams(server) == []


@causal
def test_a_running_stream_follows_a_text_from_the_frame_that_was_answered(server):
    job = server.client.queue(demo_stream(seed=31))
    until(lambda: streams(server))
    status, answer = post(server, SECOND)
    (listed,) = streams(server)
    entry = server.client.wait(job)
    assert status == 200, answer
    (change,) = changes(entry)
    assert (change["frame"], change["text"]) == (answer["frame"], SECOND)
    assert change["second"] == answer["second"] == answer["frame"] / 8
    assert listed["node_id"] == "clip" and listed["takes_text"]
    assert streams(server) == [] and post(server, SECOND)[0] == 404


@causal
def test_the_same_graph_again_streams_again_where_it_takes_texts(server):
    def evaluated(**more):
        entries = [server.client.run(demo_stream(seed=30, frames=5, **more)) for _ in range(2)]
        messages = [dict(entry["status"]["messages"]) for entry in entries]
        return ["clip" not in each["execution_cached"]["nodes"] for each in messages]

    assert evaluated() == [True, True]
    assert evaluated(with_clip=False) == [True, False]


@causal
def test_what_is_no_text_is_refused_and_the_stream_goes_on(server):
    job = server.client.queue(demo_stream(seed=32))
    until(lambda: streams(server))
    told = [
        server.client.post("/fewstep/stream/clip", body)
        for body in ({"text": 3}, {"text": "a" * 4001}, {"text": "a" * 100_000}, [], {})
    ]
    unknown, elsewhere = post(server, "a red elephant"), post(server, SECOND, "7")
    entry = server.client.wait(job)
    assert [status for status, _ in told] == [400] * 5
    assert all("Send JSON" in told[place][1]["error"] for place in (0, 3, 4))
    assert all("at most 4000 characters" in told[place][1]["error"] for place in (1, 2))
    assert unknown[0] == 400 and "does not know elephant" in unknown[1]["error"]
    assert elsewhere[0] == 404 and "One runs at node clip" in elsewhere[1]["error"]
    assert changes(entry) == []


@causal
def test_a_stream_without_a_clip_says_what_to_connect(server):
    job = server.client.queue(demo_stream(seed=33, with_clip=False))
    until(lambda: streams(server))
    status, answer = post(server, SECOND)
    server.client.wait(job)
    assert status == 409 and "connect a CLIP to the clip input" in answer["error"]


# ---------------------------------------------------------------- scripts/live.py


def start(server, folder: Path, prompt, *options: str, encoding="utf-8"):
    workflow = folder / "workflow.json"
    workflow.write_text(json.dumps(prompt), encoding="utf-8")
    command = [sys.executable, SCRIPT, workflow, "--server", server.client.url]
    return subprocess.Popen(
        [*map(str, command), "--picture", str(folder / "now.jpg"), *options],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        encoding=encoding,
        env={**os.environ, "PYTHONIOENCODING": encoding},
        # A test run in the background ignores Ctrl+C, and what it starts would, too.
        preexec_fn=None if sys.platform == "win32" else hear_ctrl_c,
    )


def hear_ctrl_c() -> None:
    signal.signal(signal.SIGINT, signal.SIG_DFL)


@causal
@pytest.mark.parametrize("encoding", some_of(["utf-8", "ascii", "cp1252"], "cp1252"))
def test_lines_that_are_typed_reach_the_stream(server, tmp_path, encoding):
    seed = 34 + ["utf-8", "ascii", "cp1252"].index(encoding)
    script = start(server, tmp_path, demo_stream(seed=seed), encoding=encoding)
    until(lambda: streams(server))
    script.stdin.write("a red elephant\n\n" + SECOND + "\n")
    script.stdin.flush()
    said, complained = script.communicate(timeout=300)
    assert script.returncode == 0, complained
    assert f'"{SECOND}" from frame ' in said
    assert "Not taken: The demo model does not know elephant." in said
    assert "Streaming Sampler: 65 frames in " in said
    assert "of 65 frames after" in said
    assert (tmp_path / "now.jpg").read_bytes().startswith(b"\xff\xd8")
    assert not (tmp_path / "now.jpg.partial").exists()


@causal
@pytest.mark.skipif(sys.platform == "win32", reason="no signal that stands for Ctrl+C")
def test_ctrl_c_ends_the_stream_and_keeps_what_is_finished(server, tmp_path):
    script = start(server, tmp_path, demo_stream(seed=40, frames=1025))
    until(lambda: any((each["next_frame"] or 0) > 1 for each in streams(server)))
    script.send_signal(signal.SIGINT)
    said, complained = script.communicate(timeout=300)
    assert script.returncode == 0, complained
    assert "Ending the stream; what is finished is kept." in said
    assert "Streaming Sampler: Interrupted after " in said
    assert streams(server) == []


@causal
@pytest.mark.skipif(sys.platform == "win32", reason="no signal that stands for Ctrl+C")
def test_ctrl_c_takes_a_stream_that_waits_out_of_the_queue_and_leaves_the_other_job_alone(
    server, tmp_path
):
    running = server.client.queue(demo_stream(seed=41, frames=129))
    until(lambda: streams(server))
    script = start(server, tmp_path, demo_stream(seed=42, frames=5))
    until(lambda: server.client.get("/queue")["queue_pending"])
    time.sleep(1)  # for the script to hear that it is queued
    script.send_signal(signal.SIGINT)
    said, complained = script.communicate(timeout=60)
    assert script.returncode == 0, complained
    assert "The stream had not begun; it was taken out of the queue." in said
    (report,) = outputs(server.client.wait(running), "fewstep_report")[-1:]
    assert not report["interrupted"] and report["frames"] == 129


def test_a_workflow_that_cannot_be_spoken_to_is_refused_before_it_is_queued(server, tmp_path):
    for prompt, options, message in (
        (demo_stream(1, with_clip=False), (), "node clip) takes no text: nothing is connected to"),
        ({"a": node("FewStepDemo")}, (), "has no Streaming Sampler"),
        ({"nodes": []}, (), "is not a workflow in API format"),
        ({**demo_stream(1), "other": demo_stream(1)["clip"]}, (), "Name one with --node"),
        (demo_stream(1), ("--node", "5"), "are the nodes clip. Name one with --node"),
    ):
        script = start(server, tmp_path, prompt, *options)
        _, complained = script.communicate(timeout=60)
        assert script.returncode == 2 and message in complained
    assert server.client.get("/queue")["queue_pending"] == []


def test_an_absent_server_is_told(tmp_path):
    (tmp_path / "workflow.json").write_text(json.dumps(demo_stream(1)), encoding="utf-8")
    command = [sys.executable, SCRIPT, tmp_path / "workflow.json"]
    script = subprocess.run(
        [*map(str, command), "--server", "http://127.0.0.1:9"], capture_output=True, text=True
    )
    assert script.returncode == 2 and script.stderr.startswith("live.py: ")


def test_an_address_of_https_is_refused_in_words(tmp_path):
    (tmp_path / "workflow.json").write_text(json.dumps(demo_stream(1)), encoding="utf-8")
    command = [sys.executable, SCRIPT, tmp_path / "workflow.json"]
    script = subprocess.run(
        [*map(str, command), "--server", "https://127.0.0.1:9"], capture_output=True, text=True
    )
    assert script.returncode == 2 and "plain http alone" in script.stderr
