"""Recordings of a real server: found by its clients, and whole up to the last block where the
server is killed.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path

import av
import pytest
from thinning import thorough

from comfy_client import JobFailed, outputs
from comfy_server import Server, running_server
from prompts import node
from small_models import HAS_CAUSAL_WAN
from test_stream_server import follow, report_of

pytestmark = pytest.mark.skipif(not HAS_CAUSAL_WAN, reason="this ComfyUI has no causal Wan")

HERE = Path(__file__).resolve().parent
PATIENCE_SECONDS = 120


def demo_stream(record: str, frames: int = 17, seed: int = 1, **more) -> dict:
    """The demo model streamed; only its report is connected."""
    return {
        "demo": node(
            "FewStepDemo", prompt="a red circle moving right", frames=frames, variant="causal"
        ),
        "clip": node(
            "FewStepStream",
            **{
                "model": ["demo", 0],
                "positive": ["demo", 1],
                "latent_image": ["demo", 4],
                "seed": seed,
                "frames_per_block": 0,
                "window_frames": 7,
                "sink_frames": 1,
                "vae": ["demo", 3],
                "record": record,
                **more,
            },
        ),
        "report": node("PreviewAny", source=["clip", 2]),
    }


def playable(path: Path) -> int:
    """How many pictures a player gets out of a file."""
    if not path.exists():
        return 0
    with av.open(str(path)) as container:
        return sum(1 for _ in container.decode(video=0))


def wait_for(is_so: Callable[[], bool], what: str) -> None:
    deadline = time.monotonic() + PATIENCE_SECONDS
    while not is_so():
        assert time.monotonic() < deadline, what
        time.sleep(0.02)


def test_a_recording_is_in_the_history_and_the_server_hands_it_out(server):
    entry = server.client.run(demo_stream("http/demo"))
    (saved,) = outputs(entry, "video")
    assert saved == {"filename": "demo_00001_.mp4", "subfolder": "http", "type": "output"}
    path = server.base / "output" / "http" / "demo_00001_.mp4"
    assert server.client.file(saved) == path.read_bytes() and playable(path) == 17
    report = report_of(entry)
    assert report["recorded"]["file"] == "http/demo_00001_.mp4"
    # The demo model's own pace.
    assert report["recorded"]["frame_rate"] == 8.0
    assert report["decoded"] == "block by block, recorded and not kept"
    with av.open(str(path)) as container:
        assert container.streams.video[0].average_rate == 8
        assert json.loads(container.metadata["prompt"])["clip"]["inputs"]["record"] == "http/demo"


def test_core_nodes_take_the_video(server):
    prompt = demo_stream("http/taken", seed=2)
    prompt["parts"] = node("GetVideoComponents", video=["clip", 3])
    prompt["pictures"] = node("PreviewImage", images=["parts", 0])
    prompt["save"] = node(
        "SaveVideo", video=["clip", 3], filename_prefix="http/again", format="auto", codec="auto"
    )
    entry = server.client.run(prompt)
    pictures = [each for each in outputs(entry, "images") if each["filename"].endswith(".png")]
    assert len(pictures) == 17
    assert playable(server.base / "output" / "http" / "again_00001_.mp4") == 17


def test_pictures_connected_later_are_told_where_to_take_them_from(server):
    prompt = demo_stream("http/later", seed=3)
    server.client.run(prompt)
    prompt["pictures"] = node("PreviewImage", images=["clip", 1])
    events: list = []
    server.client.run(prompt, events.append)
    told = [event["data"] for event in events if event["type"] == "execution_error"]
    # A server that has the result in its cache hands on what stands for the images.
    assert [each["node_type"] for each in told] == ["PreviewImage"]
    assert "recorded its pictures and kept none" in told[0]["exception_message"]


def test_a_name_that_leads_out_fails_in_the_hosts_words(server):
    with pytest.raises(
        JobFailed, match="FewStepStream: .*outside the output folder is not allowed"
    ):
        server.client.run(demo_stream("../outside"))
    assert not (server.base / "outside_00001_.mp4").exists()


def test_the_server_answers_while_it_streams_and_shows_a_picture_for_each_step(server):
    """The queue is asked at every preview, and previews come throughout the run."""
    asked: list[float] = []
    running: list[int] = []

    def ask(_count: int) -> None:
        started = time.monotonic()
        running.append(len(server.client.get("/queue")["queue_running"]))
        asked.append(time.monotonic() - started)

    _, heard = follow(server, demo_stream("http/asked", frames=33, seed=4), ask)
    # Nine latent frames: one picture, four for each of the next seven, two of the last.
    assert len(asked) == 1 + 7 * 4 + 2
    assert sorted(asked)[len(asked) // 2] < 1.0, "the queue does not answer"
    # The last previews may be heard after the run's end.
    assert sum(running) > len(running) / 2 and running == sorted(running, reverse=True)
    kinds = [kind for kind, _ in heard]
    first, last = kinds.index("preview"), len(kinds) - 1 - kinds[::-1].index("preview")
    assert "executed" not in kinds[:first] and kinds[first:last].count("preview") == len(asked) - 1


# ---------------------------------------------------------------- killed


@pytest.fixture
def victim(host, tmp_path):
    """A server of this test's own."""
    if sys.platform == "win32":
        pytest.skip("a process group is killed by a Unix system call")
    packs = {"fewstep-test-support": HERE / "support_nodes"}
    with running_server(host, tmp_path, packs=packs, cpu=True) as running:
        yield running


def kill(server: Server) -> None:
    """Without a word before."""
    os.killpg(server.process.pid, signal.SIGKILL)
    server.process.wait()


@thorough
def test_a_killed_server_leaves_every_block_it_had_finished(victim):
    """It waits in the fourth block: the first takes 8 steps, every other 4, with a context pass
    between any two. Three latent frames are nine pictures.
    """
    prompt = demo_stream("killed/clip", frames=33, model=["fault", 0])
    prompt["fault"] = node(
        "TestFault", model=["demo", 0], kind="wait", evaluation=8 + 5 + 5 + 3, run=0
    )
    path = victim.base / "output" / "killed" / "clip_00001_.mp4"
    victim.client.queue(prompt)
    wait_for(lambda: playable(path) >= 9, "the third block is not in the file")
    kill(victim)
    assert playable(path) == 9
    with av.open(str(path)) as container:
        assert json.loads(container.metadata["prompt"])["demo"]["class_type"] == "FewStepDemo"


@thorough
@pytest.mark.parametrize("bytes_there", [3_000, 10_000, 20_000])
def test_a_server_killed_at_any_moment_leaves_a_file_that_plays(victim, bytes_there):
    path = victim.base / "output" / "clip_00001_.mp4"
    victim.client.queue(demo_stream("clip", frames=1025))
    wait_for(lambda: path.exists() and path.stat().st_size > bytes_there, "nothing is written")
    kill(victim)
    # Whole latent frames, four pictures each behind the first one.
    assert playable(path) > 1 and playable(path) % 4 == 1
