"""The Streaming Sampler in a real server: previews arrive while the clip is made, and an
interruption leaves what is finished.
"""

from __future__ import annotations

import contextlib
import json
import struct
import time

import pytest

from comfy_client import JobFailed, outputs
from prompts import accelerator, node, wan_inputs, wan_model
from small_models import HAS_CAUSAL_WAN
from websocket_reader import TEXT, WebSocket

pytestmark = pytest.mark.skipif(not HAS_CAUSAL_WAN, reason="this ComfyUI has no causal Wan")

BINARY = 0x2
PREVIEWS = (1, 4)  # the server's numbers for a preview, without and with metadata


def clip_prompt(length=21, with_vae=True, **more):
    """A small frame-wise clip, its latent and its pictures into the history."""
    prompt = {
        **wan_inputs(length),
        "file": wan_model("wan21_causal.safetensors"),
        "model": accelerator("file", id="causal-forcing-framewise"),
        "vae": node("VAELoader", vae_name="wan_vae.safetensors"),
        "clip": node(
            "FewStepStream",
            **{
                "model": ["model", 0],
                "positive": ["text", 0],
                "latent_image": ["size", 0],
                "seed": 1,
                "frames_per_block": 0,
                "window_frames": 4,
                "sink_frames": 1,
                "vae": ["vae", 0],
                **more,
            },
        ),
        "latent": node("TestLatentReport", samples=["clip", 0]),
        "pictures": node("PreviewImage", images=["clip", 1]),
    }
    if not with_vae:
        del prompt["clip"]["inputs"]["vae"]
    return prompt


class Listener(WebSocket):
    """Hears previews too: ("preview", bytes of the picture) beside (type, data) of the server's
    messages.
    """

    def hear(self, seconds):
        deadline = time.monotonic() + seconds
        while (left := deadline - time.monotonic()) > 0:
            while (frame := self._next_frame()) is not None:
                kind, payload = frame
                if kind == TEXT:
                    message = json.loads(payload)
                    yield message["type"], message["data"]
                elif kind == BINARY and struct.unpack(">I", payload[:4])[0] in PREVIEWS:
                    yield "preview", payload
            self.socket.settimeout(left)
            with contextlib.suppress(TimeoutError):
                self._receive()


def follow(server, prompt, on_preview=lambda count: None, timeout=300):
    """(history, everything heard until the run was over)."""
    heard, previews = [], 0
    with contextlib.closing(Listener(server.client.url, "/ws?clientId=stream-test")) as events:
        id = server.client.queue(prompt, "stream-test")
        deadline = time.monotonic() + timeout
        while not any(
            kind in ("execution_success", "execution_error", "execution_interrupted")
            for kind, _ in heard
        ):
            assert time.monotonic() < deadline, "the run did not end"
            for kind, data in events.hear(0.2):
                heard.append((kind, data))
                if kind == "preview":
                    previews += 1
                    on_preview(previews)
    return server.client.wait(id), heard


def report_of(entry):
    return next(
        report
        for report in outputs(entry, "fewstep_report")
        if report["node"] == "Streaming Sampler"
    )


def test_previews_arrive_block_by_block_before_the_clip_is_finished(server):
    entry, heard = follow(server, clip_prompt())
    kinds = [kind for kind, _ in heard]
    finished = next(
        i for i, (kind, data) in enumerate(heard) if kind == "executed" and data["node"] == "clip"
    )
    previews = [i for i, kind in enumerate(kinds) if kind == "preview"]
    # Six latent frames, a block each: one picture, then four for each block while the next one is
    # made, the first and the last of the last one. Between any two of them something is evaluated
    # or decoded.
    assert len(previews) == 1 + 4 * 4 + 2 and previews[-1] < finished
    assert all(
        "progress" in kinds[a:b] or "progress_state" in kinds[a:b]
        for a, b in zip(previews, previews[1:])
    )
    pictures = {heard[i][1] for i in previews}
    assert len(pictures) == len(previews) and all(b"JFIF" in picture for picture in pictures)
    report = report_of(entry)
    assert report["frames"] == 21 and report["evaluations"] == 6 * 5 - 1
    assert (
        outputs(entry, "test_latent")[0]["shape"] == [1, 16, 6, 8, 8]
        and len(outputs(entry, "images")) == 21
    )


def test_interrupting_half_way_keeps_the_finished_blocks_and_the_next_run_is_whole(server):
    prompt = clip_prompt(length=81, seed=2, model=["fault", 0])
    # Five evaluations a block: the run waits for the interrupt in the twelfth.
    prompt["fault"] = node("TestFault", model=["model", 0], kind="wait", evaluation=58, run=0)
    entry, _ = follow(
        server, prompt, lambda count: server.client.interrupt() if count == 1 + 4 * 8 else None
    )
    report = report_of(entry)
    blocks = report["blocks"]
    assert report["interrupted"] and 9 <= blocks <= 11
    assert (
        outputs(entry, "test_latent")[0]["shape"][2] == blocks
        and len(outputs(entry, "images")) == 4 * blocks - 3
    )
    assert any("Interrupted" in note for note in report["notes"])
    # The same graph again: nothing of it has changed, and the clip is whole all the same.
    (go := server.base / "input" / "go.txt").touch()
    try:
        whole = report_of(server.client.run(prompt))
    finally:
        go.unlink()
    assert not whole["interrupted"] and whole["blocks"] == 21


def test_without_a_vae_only_a_graph_that_asks_for_images_fails(server):
    prompt = clip_prompt(length=9, with_vae=False, seed=3)
    with pytest.raises(JobFailed, match="FewStepStream: .*no VAE"):
        server.client.run(prompt)
    del prompt["pictures"]
    assert outputs(server.client.run(prompt), "test_latent")[0]["shape"][2] == 3


@pytest.mark.parametrize(
    ("more", "message"),
    [
        ({"frames_per_block": 3}, "distilled to make 1 latent frame at a time, not 3"),
        ({"window_frames": 1}, "the 1 of sink_frames"),
    ],
)
def test_bad_input_fails_with_words_and_the_server_goes_on(server, more, message):
    with pytest.raises(JobFailed, match=message):
        server.client.run(clip_prompt(**more))
    assert report_of(server.client.run(clip_prompt(length=5, seed=9)))["frames"] == 5
