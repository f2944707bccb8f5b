"""Figures, contact sheets, and the batch client's jobs, results and report page: everything that
needs no server.
"""

from __future__ import annotations

import csv
import io
import json
import math
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import urlsplit

import pytest
import torch

pytest.importorskip("torchmetrics", reason="requirements.txt is not installed")
pytest.importorskip("matplotlib", reason="requirements.txt is not installed")

from comfyui_fewstep.quality import metrics, sheet, strip
from comfyui_fewstep.quality.metrics import Quality, compare, temporal_difference
from PIL import Image

import batch
import batch_run
import compare as program
import judging
import report_page
from batch_jobs import Job, checked_url, filled, make_job, make_jobs, read_prompts, read_workflow
from batch_store import Result, Store
from comfy_client import Client
from workflow_inputs import BatchError, Workflow, text_inputs

ROOT = Path(__file__).resolve().parent.parent

IMAGE = torch.rand(1, 48, 64, 3, generator=torch.Generator().manual_seed(0))
CLIP = torch.rand(5, 48, 64, 3, generator=torch.Generator().manual_seed(1))


def png(image: torch.Tensor) -> bytes:
    """(H, W, 3) in 0..1 as a file."""
    file = io.BytesIO()
    Image.fromarray((image * 255).byte().numpy()).save(file, "png")
    return file.getvalue()


PICTURE = png(IMAGE[0])


# ---------------------------------------------------------------- figures


def test_equal_pictures_are_equal() -> None:
    quality = compare(IMAGE, IMAGE.clone())
    assert (
        quality.psnr == math.inf and quality.ssim == pytest.approx(1.0) and quality.temporal is None
    )
    assert ("PSNR", "equal") in quality.rows


def test_psnr_is_that_of_the_mean_square() -> None:
    # Everywhere 0.1 off: a mean square of 0.01 is 20 dB.
    quality = compare(IMAGE * 0.8, IMAGE * 0.8 + 0.1)
    assert quality.psnr == pytest.approx(20.0, abs=1e-3)
    assert 0 < quality.ssim < 1


def test_psnr_of_pictures_in_half_precision_is_theirs() -> None:
    image = torch.rand(1, 256, 256, 3, generator=torch.Generator().manual_seed(2)) * 0.8
    quality = compare(image.half(), (image + 0.1).half())
    assert quality.psnr == pytest.approx(20.0, abs=0.05)


def test_temporal_difference_sees_motion_and_not_brightness() -> None:
    still = IMAGE.repeat(4, 1, 1, 1) * 0.5
    assert temporal_difference(still, still + 0.2) == pytest.approx(0.0, abs=1e-6)
    flicker = still + torch.tensor([0.0, 0.3, 0.0, 0.3]).view(4, 1, 1, 1)
    assert temporal_difference(still, flicker) == pytest.approx(0.3, abs=1e-6)
    assert compare(CLIP, CLIP.flip(0)).temporal > 0


def test_transparency_is_left_out_of_every_figure() -> None:
    with_alpha = torch.cat([CLIP.flip(0), torch.rand(5, 48, 64, 1)], dim=-1)
    for pair in ((CLIP, with_alpha), (with_alpha, CLIP)):
        assert compare(*pair) == compare(pair[0][..., :3], pair[1][..., :3])


@pytest.mark.parametrize(
    ("candidate", "words"),
    [
        (IMAGE[:, :40], "64 x 48 and candidate 64 x 40"),
        (CLIP, "reference and candidate have 1 and 5 frames"),
    ],
)
def test_unlike_pictures_are_refused(candidate, words) -> None:
    with pytest.raises(ValueError, match=words):
        compare(IMAGE, candidate)


def test_tiny_pictures_are_refused() -> None:
    with pytest.raises(ValueError, match="32 pixels"):
        compare(IMAGE[:, :8, :8], IMAGE[:, :8, :8])


def test_the_inputs_are_not_changed() -> None:
    before, after = CLIP.clone(), CLIP.flip(0).clone()
    compare(before, after)
    assert torch.equal(before, CLIP) and torch.equal(after, CLIP.flip(0))


def test_lpips_is_never_downloaded_and_its_absence_is_told(monkeypatch, tmp_path) -> None:
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    monkeypatch.setattr("torch.hub.download_url_to_file", lambda *a, **k: pytest.fail("a download"))
    quality = compare(IMAGE, IMAGE * 0.9)
    assert quality.lpips is None
    assert "nothing is downloaded" in dict(quality.rows)["LPIPS"]


def test_lpips_is_measured_with_weights_on_disk(monkeypatch, tmp_path) -> None:
    import torchvision

    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    path = metrics.lpips_weights()
    path.parent.mkdir(parents=True)
    # Random: what it says does not matter here.
    torch.save(torchvision.models.alexnet(weights=None).state_dict(), path)
    monkeypatch.setattr("torch.hub.download_url_to_file", lambda *a, **k: pytest.fail("a download"))
    picture = torch.rand(1, 64, 64, 3)
    assert compare(picture, picture.clone()).lpips == pytest.approx(0.0, abs=1e-6)
    assert compare(picture, 1 - picture).lpips > 0


def test_without_torchmetrics_it_says_what_to_install(monkeypatch) -> None:
    monkeypatch.setitem(sys.modules, "torchmetrics", None)
    with pytest.raises(ValueError, match="pip install torchmetrics"):
        compare(IMAGE, IMAGE)


# ---------------------------------------------------------------- the sheet


@pytest.mark.parametrize(
    "images",
    [IMAGE, CLIP, CLIP[:2], torch.rand(1, 1200, 300, 3)],
    ids=["one", "five", "two", "tall"],
)
def test_a_sheet_is_a_picture_of_both(images) -> None:
    drawn = sheet.contact_sheet(
        images, images * 0.9, Quality(20.0, 0.9, None, None), ("a $ b", "<c>")
    )
    assert drawn.ndim == 4 and drawn.shape[0] == 1 and drawn.shape[3] == 3
    assert drawn.min() >= 0 and drawn.max() <= 1
    assert drawn.shape[2] >= sheet.LEAST_WIDTH


def test_a_large_picture_is_shown_small_and_a_small_one_large() -> None:
    assert sheet.shown_size(torch.zeros(1, 2048, 1024, 3)) == (512, 256)
    assert sheet.shown_size(torch.zeros(1, 32, 64, 3)) == (120, 240)
    assert sheet.small(torch.zeros(2048, 1024, 4), (512, 256)).shape == (512, 256, 3)
    assert sheet.small(torch.zeros(32, 64, 3), (120, 240)).shape == (32, 64, 3)


def test_a_strip_shows_the_mean_of_what_is_finer_than_its_pixels() -> None:
    stripes = torch.zeros(1, 512, 512, 3)
    stripes[:, :, ::2] = 1.0
    drawn = strip.labelled_strip([strip.Row("a", (), stripes)])
    picture = drawn[0, strip.GAP : -strip.GAP, strip.LABEL + strip.GAP : -2 * strip.GAP]
    assert picture.min() > 0.3 and picture.max() < 0.7


# ---------------------------------------------------------------- jobs


WORKFLOW = Workflow(
    "fast",
    {
        "1": {"class_type": "CheckpointLoaderSimple", "inputs": {"ckpt_name": "a"}},
        "2": {"class_type": "CLIPTextEncode", "inputs": {"text": "old", "clip": ["1", 1]}},
        "3": {"class_type": "FluxGuidance", "inputs": {"conditioning": ["2", 0], "guidance": 3.5}},
        "4": {"class_type": "CLIPTextEncode", "inputs": {"text": "ugly", "clip": ["1", 1]}},
        "5": {
            "class_type": "KSampler",
            "inputs": {"seed": 7, "positive": ["3", 0], "negative": ["4", 0], "model": ["1", 0]},
        },
        "6": {"class_type": "SaveImage", "inputs": {"images": ["5", 0]}},
    },
)


def test_prompt_and_seed_are_set_where_they_belong() -> None:
    prompt = filled(WORKFLOW, "new", 99)
    assert prompt["2"]["inputs"]["text"] == "new" and prompt["5"]["inputs"]["seed"] == 99
    assert prompt["4"]["inputs"]["text"] == "ugly"  # the negative prompt stays
    assert WORKFLOW.prompt["2"]["inputs"]["text"] == "old"


def test_a_prompt_and_a_seed_that_come_from_other_nodes_are_set_there() -> None:
    # tests/host/test_compare.py asks the host whether its nodes have these inputs.
    nodes = {
        **WORKFLOW.prompt,
        "2": {"class_type": "CLIPTextEncode", "inputs": {"text": ["9", 0], "clip": ["1", 1]}},
        "5": {"class_type": "KSampler", "inputs": {"seed": ["10", 0], "positive": ["3", 0]}},
        "9": {"class_type": "PrimitiveString", "inputs": {"value": "old"}},
        "10": {"class_type": "PrimitiveInt", "inputs": {"value": 7}},
        "11": {"class_type": "PrimitiveString", "inputs": {"value": "a folder"}},
        "12": {"class_type": "PrimitiveInt", "inputs": {"value": 8}},
    }
    prompt = filled(Workflow("x", nodes), "new", 99)
    assert [prompt[node]["inputs"]["value"] for node in ("9", "10", "11", "12")] == [
        "new",
        99,
        "a folder",
        8,
    ]


def test_every_text_of_an_encoder_is_set_also_one_that_comes_from_elsewhere() -> None:
    nodes = {
        **WORKFLOW.prompt,
        "2": {"class_type": "CLIPTextEncodeSDXL", "inputs": {"text_g": "old", "text_l": ["9", 0]}},
        "9": {"class_type": "PrimitiveStringMultiline", "inputs": {"value": "old"}},
    }
    assert text_inputs(Workflow("x", nodes)) == [
        ("2", "text_g"),
        ("9", "value"),
    ]


def with_text(*nodes: dict, encoder: str = "CLIPTextEncode") -> Workflow:
    """WORKFLOW, its prompt from the first of these nodes, which are numbered from 20 on."""
    placed = {str(20 + number): node for number, node in enumerate(nodes)}
    link = {"2": {"class_type": encoder, "inputs": {"text": ["20", 0], "clip": ["1", 1]}}}
    return Workflow("x", {**WORKFLOW.prompt, **link, **placed})


TEXT = {"class_type": "PrimitiveStringMultiline", "inputs": {"value": "old"}}


@pytest.mark.parametrize(
    ("nodes", "place"),
    [
        (  # a style is written behind every prompt
            [{"string_a": ["21", 0], "string_b": "best quality", "delimiter": ", "}, TEXT],
            ("21", "value"),
        ),
        ([{"string_a": "photo of ", "string_b": ["21", 0]}, TEXT], ("21", "value")),
        ([{"string_a": "old", "string_b": " ", "delimiter": ""}], ("20", "string_a")),
        ([{"string": "old", "mode": "UPPERCASE"}], ("20", "string")),
        ([{"string": ["21", 0], "find": "x", "replace": "y"}, TEXT], ("21", "value")),
        ([{"f_string": "{a}, sharp", "values.a": ["21", 0]}, TEXT], ("21", "value")),
        (
            [{"f_string": "{a}, {b}", "values.a": ["21", 0], "values.b": "sharp"}, TEXT],
            ("21", "value"),
        ),
        ([{"source": ["21", 0]}, TEXT], ("21", "value")),
        ([{"prompt": "old", "clip": ["1", 1]}], ("20", "prompt")),
    ],
)
def test_a_prompt_is_found_through_the_nodes_that_make_texts_of_texts(nodes, place) -> None:
    first = {"class_type": "Any", "inputs": nodes[0]}
    workflow = with_text(first, *nodes[1:])
    assert text_inputs(workflow) == [place]
    assert filled(workflow, "new", 1)[place[0]]["inputs"][place[1]] == "new"


@pytest.mark.parametrize(
    ("inputs", "words"),
    [
        (
            {"string_a": "a cat", "string_b": "best quality", "delimiter": ", "},
            r"node 20 \(Mixer\) puts string_a, string_b together, and it is not clear which of them"
            " is the prompt: link it alone, from a Text node",
        ),
        (
            {"words": "old", "weight": 1.0},
            r"The search ended at node 20 \(Mixer\), whose inputs are words, weight; known are"
            " text, prompt, .*string",
        ),
        ({}, r"ended at node 20 \(Mixer\), whose inputs are none"),
    ],
)
def test_where_a_prompt_is_lost_the_node_is_named(inputs, words) -> None:
    workflow = with_text({"class_type": "Mixer", "inputs": inputs})
    with pytest.raises(BatchError, match=f"no prompt to set: .*{words}"):
        filled(workflow, "new", 1)
    # Nor is one of two texts set and the other left as it was.
    both = {"text_g": "old", "text_l": ["20", 0]}
    workflow.prompt["2"] = {"class_type": "CLIPTextEncodeSDXL", "inputs": both}
    with pytest.raises(BatchError, match=f"of which a part cannot be set.*{words}"):
        filled(workflow, "new", 1)


def test_where_a_conditioning_is_lost_the_node_is_named() -> None:
    nodes = {**WORKFLOW.prompt, "3": {"class_type": "Odd", "inputs": {"idea": ["2", 0]}}}
    with pytest.raises(
        BatchError,
        match=r"ended at node 3 \(Odd\), whose inputs are idea; a text is known",
    ):
        filled(Workflow("x", nodes), "new", 1)


def test_where_a_seed_is_lost_the_node_is_named() -> None:
    sampler = {"class_type": "KSampler", "inputs": {"seed": ["9", 0], "positive": ["3", 0]}}
    odd = {"class_type": "Dice", "inputs": {"sides": 6}}
    nodes = {**WORKFLOW.prompt, "5": sampler, "9": odd}
    with pytest.raises(BatchError, match=r"ended at node 9 \(Dice\), whose inputs are sides"):
        filled(Workflow("x", nodes), "new", 1)


@pytest.mark.parametrize(
    "path", sorted((ROOT / "workflows" / "api").glob("*.json")), ids=lambda path: path.stem
)
def test_every_shipped_workflow_that_takes_a_prompt_can_be_run_in_a_batch(path) -> None:
    workflow = read_workflow(path)
    words = json.dumps(filled(workflow, "a test", 123))
    assert "a test" in words and "123" in words


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (
            {"5": {"class_type": "KSampler", "inputs": {"seed": ["1", 0], "positive": ["3", 0]}}},
            "no seed to set",
        ),
        ({"5": {"class_type": "KSampler", "inputs": {"seed": 7}}}, "no prompt to set"),
    ],
)
def test_a_workflow_without_a_place_for_them_is_refused(change, words) -> None:
    with pytest.raises(BatchError, match=words):
        filled(Workflow("x", {**WORKFLOW.prompt, **change}), "new", 1)


def test_a_job_has_the_same_name_every_time_and_another_for_anything_else() -> None:
    first = make_job(WORKFLOW, "a", 1)
    assert first.id == make_job(WORKFLOW, "a", 1).id
    others = [
        make_job(WORKFLOW, "b", 1),
        make_job(WORKFLOW, "a", 2),
        make_job(Workflow("slow", WORKFLOW.prompt), "a", 1),
    ]
    assert len({first.id, *(job.id for job in others)}) == 4


def test_prompts_and_workflows_of_windows_editors_are_read_or_refused_in_words(tmp_path) -> None:
    prompts, workflow = tmp_path / "prompts.txt", tmp_path / "workflow.json"
    prompts.write_text("a red fox\n\na blue bird\n", encoding="utf-8-sig")
    assert read_prompts(prompts) == ["a red fox", "a blue bird"]
    workflow.write_text(json.dumps(WORKFLOW.prompt), encoding="utf-8-sig")
    assert read_workflow(workflow).prompt == WORKFLOW.prompt
    prompts.write_text("a red fox\n", encoding="utf-16")
    with pytest.raises(BatchError, match="is not UTF-8 text"):
        read_prompts(prompts)


@pytest.mark.parametrize(
    "url",
    ["file:///etc/passwd", "ftp://host", "javascript:alert(1)", "127.0.0.1:8188", "http://", ""],
)
def test_only_web_addresses_are_servers(url) -> None:
    with pytest.raises(BatchError, match=r"http://127\.0\.0\.1:8188"):
        checked_url(url)


def test_web_addresses_are_servers() -> None:
    assert checked_url("https://gpu.example:8188/") == "https://gpu.example:8188"


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("{", "cannot be read as JSON"),
        ('{"nodes": []}', "Export"),
        ("[]", "API format"),
        ('{"1": {}}', "API format"),
    ],
)
def test_a_file_that_is_no_workflow_is_refused(tmp_path, text, words) -> None:
    path = tmp_path / "w.json"
    path.write_text(text)
    with pytest.raises(BatchError, match=words):
        read_workflow(path)


@pytest.mark.parametrize(
    ("name", "suffix"),
    [
        ("a.png", ".png"),
        ("../../etc/passwd", ""),
        ("..\\..\\x.PNG", ".png"),
        ("a.png/../../b.sh", ""),
        ("x.html", ""),
        ("", ""),
    ],
)
def test_a_servers_file_names_are_read_for_their_ending_alone(name, suffix) -> None:
    assert batch_run.suffix_of(name) == suffix


def test_what_a_server_sends_is_kept_under_our_own_name(servers, tmp_path) -> None:
    server = servers(filename="../../../evil.png")
    job = make_job(WORKFLOW, "a", 1)
    result = run(server, job, Store(tmp_path / "out"))
    assert result.files == (f"{job.id}.0.png",) and result.seconds == 2.5
    assert [
        path.relative_to(tmp_path).as_posix() for path in tmp_path.rglob("*") if path.is_file()
    ] == [f"out/results/{job.id}.0.png"]


def test_a_run_answered_from_the_cache_has_no_seconds() -> None:
    entry = {
        "status": {
            "messages": [
                ["execution_start", {"timestamp": 0}],
                ["execution_cached", {"nodes": ["5"]}],
                ["execution_success", {"timestamp": 5}],
            ]
        }
    }
    assert batch_run.seconds_of(entry, make_job(WORKFLOW, "a", 1)) is None


def test_a_cached_noise_node_is_no_cached_run() -> None:
    # SamplerCustomAdvanced: with another prompt and the same seed, RandomNoise stays cached and the
    # sampler runs.
    inputs = {"noise": ["8", 0], "guider": ["9", 0], "latent_image": ["7", 0]}
    job = replace(
        make_job(WORKFLOW, "a", 1),
        prompt={
            "8": {"class_type": "RandomNoise", "inputs": {"noise_seed": 1}},
            "5": {"class_type": "SamplerCustomAdvanced", "inputs": inputs},
        },
    )
    messages = [["execution_start", {"timestamp": 0}], ["execution_success", {"timestamp": 5000}]]
    for cached, seconds in ((["8"], 5.0), (["8", "5"], None)):
        entry = {"status": {"messages": [*messages, ["execution_cached", {"nodes": cached}]]}}
        assert batch_run.seconds_of(entry, job) == seconds


def test_a_result_that_was_cut_short_counts_as_nothing(tmp_path) -> None:
    store, job = Store(tmp_path), make_job(WORKFLOW, "a", 1)
    assert not store.is_done(job)
    store.write(Result(job.id, job.workflow, "a", 1, "http://a", seconds=1.0))
    assert store.is_done(job) and store.read(job).seconds == 1.0
    (store.results / f"{job.id}.json").write_text('{"id": "x"')
    assert not store.is_done(job)
    store.write(Result(job.id, job.workflow, "a", 1, "http://a", error="out of memory"))
    assert not store.is_done(job) and store.read(job).error == "out of memory"


def test_a_job_of_a_server_that_is_gone_is_run_by_another(monkeypatch, tmp_path) -> None:
    taken: list[tuple[str, str]] = []
    first, last = threading.Event(), threading.Event()

    def run_job(client, job, store, is_first, return_seconds, say):
        taken.append((client.url, job.id))
        if client.url == "http://dies":
            first.set()
            last.wait(60)  # until the other server has nothing left to do
            raise batch_run.ServerGone("no answer")
        first.wait(60)
        if len(taken) == len(jobs):
            last.set()
        return Result(job.id, job.workflow, job.text, job.seed, client.url, seconds=1.0)

    jobs = make_jobs([WORKFLOW], ["a", "b"], [1, 2])
    monkeypatch.setattr(batch, "run_job", run_job)
    outcome = batch.run_all(
        jobs, ["http://dies", "http://lives"], Store(tmp_path), lambda line: None
    )
    assert (outcome.done, outcome.failed, outcome.left, outcome.gone) == (4, 0, 0, ("http://dies",))
    assert sorted(id for url, id in taken if url == "http://lives") == sorted(
        job.id for job in jobs
    )


def test_jobs_are_left_when_every_server_is_gone(monkeypatch, tmp_path) -> None:
    def run_job(client, *rest):
        raise batch_run.ServerGone("no answer")

    monkeypatch.setattr(batch, "run_job", run_job)
    jobs = make_jobs([WORKFLOW], ["a"], [1, 2, 3])
    outcome = batch.run_all(jobs, ["http://a", "http://b"], Store(tmp_path), lambda line: None)
    assert (outcome.done, outcome.left, sorted(outcome.gone)) == (0, 3, ["http://a", "http://b"])


# ---------------------------------------------------------------- servers that fail


class Answers(BaseHTTPRequestHandler):
    """The part of ComfyUI's HTTP API that the batch client uses. `trouble` of the server may answer
    in its place.
    """

    server: StandIn

    def do_GET(self) -> None:
        if self.server.trouble(self):
            return
        kind = urlsplit(self.path).path.split("/")[1]
        if kind == "view":
            self.answer(PICTURE)
        else:
            self.answer(
                json.dumps(
                    {
                        "history": self.server.history,
                        "queue": {"queue_running": [], "queue_pending": []},
                    }.get(kind, {})
                )
            )

    def do_POST(self) -> None:
        self.rfile.read(int(self.headers["Content-Length"]))
        if self.server.trouble(self):
            return
        self.server.queued += 1
        self.server.history["job"] = self.server.entry
        self.answer(json.dumps({"prompt_id": "job"}))

    def answer(self, body: str | bytes, status: int = 200, cut: int = 0) -> None:
        """cut: how many of the promised bytes are never sent."""
        data = body if isinstance(body, bytes) else body.encode()
        self.send_response(status)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data[: len(data) - cut])

    def log_message(self, *args) -> None:
        pass


class StandIn(ThreadingHTTPServer):
    """Finishes every job at once, having saved one picture. trouble: answers a request itself and
    says so, or leaves it to the rest.
    """

    def __init__(self, trouble: Callable[[Answers], bool], filename: str):
        super().__init__(("127.0.0.1", 0), Answers)
        self.trouble, self.queued, self.history = trouble, 0, {}
        messages = [
            ["execution_start", {"timestamp": 1000}],
            ["execution_success", {"timestamp": 3500}],
        ]
        self.entry = {
            "outputs": {
                "6": {"images": [{"filename": filename, "subfolder": "/etc", "type": "output"}]}
            },
            "status": {"status_str": "success", "messages": messages},
        }

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"


@pytest.fixture
def servers(monkeypatch) -> Iterator[Callable[..., StandIn]]:
    """Starts stand-in servers: servers(trouble, filename)."""
    monkeypatch.setattr(batch_run, "POLL_SECONDS", 0.01)
    started: list[StandIn] = []

    def start(
        trouble: Callable[[Answers], bool] = lambda request: False, filename: str = "a.png"
    ) -> StandIn:
        started.append(server := StandIn(trouble, filename))
        threading.Thread(target=server.serve_forever, daemon=True).start()
        return server

    yield start
    for server in started:
        server.shutdown()
        server.server_close()


def run(server: StandIn, job: Job, store: Store) -> Result:
    return batch_run.run_job(Client(server.url), job, store, False, 60.0, lambda line: None)


def times(number: int, path: str, answer: Callable[[Answers], None]) -> Callable[[Answers], bool]:
    """Trouble with the first so many requests of a path."""
    left = [number]

    def trouble(request: Answers) -> bool:
        if not request.path.startswith(path) or left[0] == 0:
            return False
        left[0] -= 1
        answer(request)
        return True

    return trouble


def cut_short(request: Answers) -> None:
    request.answer(PICTURE, cut=10)
    request.close_connection = True


def killed(request: Answers) -> None:
    """The job kills its server, and whoever watches over the server starts it again: it answers and
    has forgotten the job.
    """
    request.server.history.clear()
    request.answer("{}")


@pytest.mark.parametrize(
    ("path", "answer"),
    [
        ("/view", cut_short),
        ("/history", killed),
        *(
            (path, lambda request, code=code: request.answer("away", code))
            for path in ("/view", "/history", "/prompt")
            for code in (502, 503, 504)
        ),
    ],
)
def test_a_server_that_was_away_for_a_moment_is_waited_for_and_the_job_done(
    servers, tmp_path, path, answer
) -> None:
    job, store = make_job(WORKFLOW, "a", 1), Store(tmp_path)
    result = run(servers(times(1, path, answer)), job, store)
    assert (result.error, result.restarts, result.is_first) == ("", 1, True)
    assert (store.results / result.files[0]).read_bytes() == PICTURE


def test_a_job_that_kills_its_server_every_time_fails_and_the_next_one_runs(
    servers, tmp_path
) -> None:
    # Killed at each of the first three runs, seen by two requests for the history each.
    server = servers(times(6, "/history", killed))
    jobs, store = (
        make_jobs([WORKFLOW], ["deadly", "harmless"], [1]),
        Store(tmp_path),
    )
    outcome = batch.run_all(jobs, [server.url], store, lambda line: None, 60.0)
    assert (outcome.done, outcome.failed, outcome.left) == (1, 1, 0) and server.queued == 4
    assert (
        store.read(jobs[0]).error.startswith(
            "the server stopped answering 3 times during this job: "
        )
        and not store.read(jobs[1]).error
    )


def test_another_http_error_is_the_jobs_failure(servers, tmp_path) -> None:
    server = servers(times(1, "/view", lambda request: request.answer("", 403)))
    result = run(server, make_job(WORKFLOW, "a", 1), Store(tmp_path))
    assert result.error == "HTTP 403 from the server"


def missing(request: Answers) -> None:
    request.answer("", 404)


@pytest.mark.parametrize("losses", [1, 2])
def test_a_file_that_a_server_only_remembers_is_made_once_more(servers, tmp_path, losses) -> None:
    server = servers(times(losses, "/view", missing))
    server.entry["status"]["messages"].append(["execution_cached", {"nodes": ["2", "6"]}])
    job, store = make_job(WORKFLOW, "a", 1), Store(tmp_path)
    result = run(server, job, store)
    # What was posted: the job, that all is to be forgotten, a job for it to do so, the job again.
    assert server.queued == 4
    if losses == 1:
        assert result.error == "" and (store.results / result.files[0]).read_bytes() == PICTURE
    else:
        assert result.error == (
            "the server remembers a.png and does not have it any more (HTTP 404)"
        )


def test_a_file_that_a_server_made_and_lost_is_told(servers, tmp_path) -> None:
    server = servers(times(1, "/view", missing))
    result = run(server, make_job(WORKFLOW, "a", 1), Store(tmp_path))
    assert (
        result.error
        == "the server says that it made a.png and does not have it any more (HTTP 404)"
    )
    assert server.queued == 1


@pytest.mark.skipif(
    not Path("/dev/full").exists(), reason="a device that is always full is Linux's own"
)
def test_a_full_disk_ends_the_run_and_says_so(servers, tmp_path, capsys) -> None:
    server, arguments = servers(), command_line(tmp_path, ["a", "b"])
    store = Store(tmp_path / "out")
    store.results.mkdir(parents=True)
    for job in make_jobs([Workflow("w", WORKFLOW.prompt)], ["b"], [1]):
        (store.results / f"{job.id}.0.png.partial").symlink_to("/dev/full")
    assert program.main(["--server", server.url, *arguments]) == 1
    said = capsys.readouterr().err
    assert "cannot be written to: No space left on device" in said and "1 not run" in said
    assert server.queued == 2  # the second is not tried again and again
    assert "1 of 2 jobs done" in (tmp_path / "out" / "report.html").read_text(encoding="utf-8")


# ---------------------------------------------------------------- the program


def command_line(folder: Path, prompts: list[str]) -> list[str]:
    """Of one workflow, w, and these prompts, without a server."""
    (folder / "w.json").write_text(json.dumps(WORKFLOW.prompt))
    (folder / "p.txt").write_text("\n".join(prompts) + "\n")
    return [
        "--workflow",
        str(folder / "w.json"),
        "--prompts",
        str(folder / "p.txt"),
        "--out",
        str(folder / "out"),
    ]


def test_a_python_without_torch_is_told_before_anything_runs(tmp_path) -> None:
    # -S: without the site-packages, so without everything that is not Python's own.
    command = [
        sys.executable,
        "-S",
        str(ROOT / "scripts" / "compare.py"),
        "--server",
        "http://127.0.0.1:9",
    ]
    ended = subprocess.run(
        [*command, *command_line(tmp_path, ["a"])], capture_output=True, text=True, timeout=600
    )
    assert ended.returncode == 2
    assert ended.stderr.startswith(
        "compare: torch, torchvision, torchmetrics, matplotlib, PIL, jinja2 cannot be imported"
    )
    assert "requirements.txt" in ended.stderr and "Traceback" not in ended.stderr
    assert not (tmp_path / "out").exists()


# ---------------------------------------------------------------- the page


def done(store, job, *images, **more) -> None:
    """A job that saved these pictures, (H, W, 3) or the bytes of a file."""
    names = tuple(f"{job.id}.{number}.png" for number in range(len(images)))
    for name, image in zip(names, images):
        store.write_bytes(name, image if isinstance(image, bytes) else png(image))
    store.write(Result(job.id, job.workflow, job.text, job.seed, "http://a", files=names, **more))


NASTY = "<script>alert('x')</script> & \"quotes\""


def written(tmp_path) -> tuple[str, str]:
    """(page, table) of two workflows, of which one job failed and one was not run."""
    store = Store(tmp_path)
    slow = Workflow("slow<b>", WORKFLOW.prompt)
    jobs = make_jobs([slow, WORKFLOW], [NASTY, "=1+1"], [1, 2])
    for number, job in enumerate(jobs[:6]):
        fast = job.workflow == "fast"
        done(
            store,
            job,
            IMAGE[0] * (0.9 if fast else 1.0),
            seconds=(1.0 if fast else 10.0) + number,
            evaluations=4.0 if fast else 100.0,
            sampling_seconds=1.0,
            is_first=number in (0, 4),
        )
    store.write(
        Result(
            jobs[6].id, "fast", jobs[6].text, 1, "http://a", error="KSampler: <i>out of memory</i>"
        )
    )
    page = report_page.write(
        store, jobs, ["slow<b>", "fast"], 2.0, batch.Outcome(6, 1, 1, ("http://gone<",))
    ).page
    return page.read_text(encoding="utf-8"), (tmp_path / "results.csv").read_text(encoding="utf-8")


def test_the_page_escapes_what_people_and_servers_wrote(tmp_path) -> None:
    page, _ = written(tmp_path)
    for raw in ("<script", "<b>slow", "slow<b>", "<i>out", "gone<."):
        assert raw not in page
    assert "&lt;script&gt;" in page and "&lt;i&gt;out of memory" in page


def test_the_page_is_self_contained_and_tells_what_is_missing(tmp_path) -> None:
    page, _ = written(tmp_path)
    assert 'src="http' not in page and "href" not in page and "default-src 'none'" in page
    assert page.count("data:image/webp;base64,") == 2 + 2  # two plots, two contact sheets
    assert "6 of 8 jobs done" in page and "1 failed" in page and "1 not run" in page


def test_the_figures_on_the_page_leave_out_the_first_run(tmp_path) -> None:
    page, _ = written(tmp_path)
    # slow: 11, 12, 13 s after the first; fast: 6 s after the first, 5 s. Prices of 2 an hour.
    assert "<td>12.00 s</td><td>13.00 s</td>" in page
    assert "<td>2.00x</td>" in page
    assert f"<td>{12 * 2 / 3600:.4g}</td>" in page


def test_the_table_holds_every_job_and_no_formula(tmp_path) -> None:
    rows = list(csv.DictReader(io.StringIO(written(tmp_path)[1])))
    assert len(rows) == 8
    assert rows[2]["prompt"] == "'=1+1"
    assert float(rows[4]["psnr"]) > 15 and rows[0]["psnr"] == ""
    assert rows[6]["error"].startswith("KSampler") and rows[7]["error"] == "not run"


BAD_OUTPUTS = {
    "no picture": ((b"<html>502</html>",), "cannot be read (UnidentifiedImageError"),
    "cut short": (
        (PICTURE[: len(PICTURE) // 2],),
        "cannot be read (OSError: image file is truncated",
    ),
    "deleted": ((), "results/gone.png is gone; the same command makes it again"),
    "two sizes": (
        (IMAGE[0], IMAGE[0][:40]),
        "fast saved several sizes, 64 x 40 and 64 x 48: leave it one save node",
    ),
}


@pytest.mark.parametrize(("images", "words"), BAD_OUTPUTS.values(), ids=BAD_OUTPUTS)
def test_a_result_that_cannot_be_read_is_that_jobs_trouble_alone(tmp_path, images, words) -> None:
    store = Store(tmp_path)
    slow = Workflow("slow", WORKFLOW.prompt)
    jobs = make_jobs([slow, WORKFLOW], ["a"], [1, 2])
    for job in jobs[:3]:
        done(store, job, IMAGE[0] * 0.9, seconds=1.0)
    done(store, jobs[3], *images, seconds=1.0)
    if not images:
        store.write(replace(store.read(jobs[3]), files=("gone.png",)))
    written = report_page.write(store, jobs, ["slow", "fast"], 0.0, batch.Outcome(4, 0, 0, ()))
    assert written.not_compared == 1
    rows = list(csv.DictReader(io.StringIO((tmp_path / "results.csv").read_text(encoding="utf-8"))))
    assert [row["psnr"] for row in rows] == ["", "", "inf", ""] and words in rows[3]["error"]
    assert [row["error"] for row in rows[:3]] == [""] * 3
    page = written.page.read_text(encoding="utf-8")
    assert "1 not compared" in page and words in page and page.count("<figure>") == 1


def test_a_job_whose_result_was_deleted_is_run_again(tmp_path) -> None:
    store, job = Store(tmp_path), make_job(WORKFLOW, "a", 1)
    done(store, job, IMAGE[0])
    assert store.is_done(job)
    (store.results / store.read(job).files[0]).unlink()
    assert not store.is_done(job)


def test_the_price_is_of_each_picture_that_was_saved(tmp_path) -> None:
    store, (job,) = Store(tmp_path), make_jobs([WORKFLOW], ["a"], [1])
    done(store, job, *[IMAGE[0]] * 4, seconds=36.0)
    page = report_page.write(
        store, [job], ["fast"], 2.0, batch.Outcome(1, 0, 0, ())
    ).page.read_text(encoding="utf-8")
    # 36 s at 2 an hour are 0.02, for four pictures.
    assert "<td>0.005</td>" in page
    (row,) = csv.DictReader(io.StringIO((tmp_path / "results.csv").read_text(encoding="utf-8")))
    assert float(row["price_each"]) == pytest.approx(0.005)


def test_a_server_that_came_back_is_told_on_the_page_of_every_later_call(tmp_path) -> None:
    store, jobs = Store(tmp_path), make_jobs([WORKFLOW], ["a"], [1, 2, 3])
    for job, restarts in zip(jobs, (0, 1, 2)):
        done(store, job, IMAGE[0], restarts=restarts)
    page = report_page.write(store, jobs, ["fast"], 0.0, batch.Outcome(0, 0, 0, ())).page.read_text(
        encoding="utf-8"
    )
    assert "servers that stopped answering during a job and came back: http://a 3 times." in page
    assert "The same command again" not in page  # nothing is missing


def test_percentiles_are_values_that_occurred() -> None:
    values = [float(number) for number in range(1, 11)]
    assert [judging.percentile(values, share) for share in (0.5, 0.9, 0.99)] == [5.0, 9.0, 10.0]
    assert judging.percentile([3.0], 0.9) == 3.0


@pytest.mark.parametrize(
    "arguments",
    [
        ["--server", "file:///x"],
        ["--server", "http://a", "--workflow", "missing.json"],
    ],
)
def test_a_wrong_request_is_refused_before_anything_runs(tmp_path, capsys, arguments) -> None:
    workflow, prompts = tmp_path / "w.json", tmp_path / "p.txt"
    workflow.write_text(json.dumps(WORKFLOW.prompt))
    prompts.write_text("a\n")
    code = program.main(
        [
            *arguments,
            "--workflow",
            str(workflow),
            "--prompts",
            str(prompts),
            "--out",
            str(tmp_path / "out"),
        ]
    )
    assert code == 2 and "compare:" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_a_server_that_is_not_there_loses_nothing_and_is_reported(tmp_path, capsys) -> None:
    workflow, prompts = tmp_path / "w.json", tmp_path / "p.txt"
    workflow.write_text(json.dumps(WORKFLOW.prompt))
    prompts.write_text("a\n\nb\n")
    with socket.socket() as nobody:
        nobody.bind(("127.0.0.1", 0))  # taken, and never listened on
        code = program.main(
            [
                "--server",
                f"http://127.0.0.1:{nobody.getsockname()[1]}",
                "--workflow",
                str(workflow),
                "--prompts",
                str(prompts),
                "--wait",
                "0",
                "--out",
                str(tmp_path / "out"),
            ]
        )
    assert code == 1
    assert "2 not run" in capsys.readouterr().err
    assert "2 not run" in (tmp_path / "out" / "report.html").read_text()
