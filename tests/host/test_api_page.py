"""The clients of docs/api.md do on a real server what the page says."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest

from comfy_client import JobFailed, outputs
from comfy_server import Server
from host import DEFAULT_VERSION, Host
from small_models import HAS_CAUSAL_WAN

ROOT = Path(__file__).resolve().parents[2]
PAGE = (ROOT / "docs" / "api.md").read_text(encoding="utf-8")
ADDRESS = "http://127.0.0.1:8188"


def blocks(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```$", PAGE, re.DOTALL | re.MULTILINE)


PYTHON, WITH_CLIENT = blocks("python")
CURL, LIVE, CONVERSION = blocks("sh")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder that looks like this repository, to make files in."""
    (tmp_path / "workflows").symlink_to(ROOT / "workflows", target_is_directory=True)
    return tmp_path


def run(command: list[str], server: Server, folder: Path, **more: str) -> str:
    """What a client prints when it is run against this server."""
    assert ADDRESS in command[-1]
    command = [*command[:-1], command[-1].replace(ADDRESS, server.client.url)]
    done = subprocess.run(
        command, cwd=folder, env={**os.environ, **more}, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def assert_clip(path: Path) -> None:
    assert path.read_bytes()[4:8] == b"ftyp", "an MP4 begins with its type"


def test_the_python_client_prints_the_reports_and_saves_the_clip(
    server: Server, folder: Path
) -> None:
    said = run([sys.executable, "-c", PYTHON], server, folder).splitlines()
    assert any(line.startswith("Few-Step Sampler: 4 steps") for line in said), said
    assert_clip(folder / said[-1])


def test_the_curl_client_prints_the_reports_and_saves_the_clip(
    server: Server, folder: Path
) -> None:
    if not (shutil.which("curl") and shutil.which("jq")):
        pytest.skip("this machine has no curl or no jq")
    said = run(["sh", "-ec", CURL], server, folder)
    assert "Few-Step Sampler: 4 steps" in said
    assert_clip(folder / "clip.mp4")


@pytest.mark.skipif(not HAS_CAUSAL_WAN, reason="this ComfyUI has no causal Wan")
def test_the_curl_line_gives_a_running_stream_a_text(server: Server, folder: Path) -> None:
    if not shutil.which("curl"):
        pytest.skip("this machine has no curl")
    prompt = json.loads((ROOT / "workflows" / "api" / "demo_stream.json").read_text("utf-8"))
    prompt["4"]["inputs"]["seed"] = 51
    job = server.client.queue(prompt)
    while not (streams := server.client.get("/fewstep/stream")["streams"]):
        time.sleep(0.02)
    answer = json.loads(run(["sh", "-ec", LIVE], server, folder))
    entry = server.client.wait(job)
    assert streams[0]["node_id"] == "4" and streams[0]["takes_text"]
    (report,) = [
        each for each in outputs(entry, "fewstep_report") if each["node"] == "Streaming Sampler"
    ]
    sent = [change for change in report["prompt_changes"] if change["text"]]
    assert [change["frame"] for change in sent] == [answer["frame"]]
    assert sent[0]["text"] == "a blue square moving left" and set(answer) == {
        "frame",
        "second",
        "replaces",
    }


def test_the_client_of_the_scripts_brings_events(server: Server, folder: Path) -> None:
    said = run(
        [sys.executable, "-c", WITH_CLIENT], server, folder, PYTHONPATH=str(ROOT / "scripts")
    )
    assert "'type': 'progress'" in said and "'max': 4" in said


def test_the_converter_in_one_line_makes_the_shipped_api_workflow(
    host: Host, server: Server, folder: Path
) -> None:
    pytest.importorskip("comfy_cli.workflow_to_api")
    if host.version != DEFAULT_VERSION:
        pytest.skip("core's nodes have other inputs in another ComfyUI")
    tools = folder / "bin"
    tools.mkdir()
    (tools / "python").symlink_to(sys.executable)
    path = os.pathsep.join([str(tools), os.environ["PATH"]])
    packages = os.pathsep.join(entry for entry in sys.path if entry.endswith("site-packages"))
    run(["sh", "-ec", CONVERSION], server, folder, PATH=path, PYTHONPATH=packages)
    made = json.loads((folder / "demo_api.json").read_text(encoding="utf-8"))
    assert made == json.loads((ROOT / "workflows" / "api" / "demo.json").read_text("utf-8"))


def test_what_the_page_says_of_errors(server: Server) -> None:
    prompt = json.loads((ROOT / "workflows" / "api" / "demo.json").read_text(encoding="utf-8"))
    status, answer = server.client.post("/prompt", {"prompt": {**prompt, "2": prompt["4"]}})
    assert status == 400 and answer["error"]["message"]
    errors = [error for node in answer["node_errors"].values() for error in node["errors"]]
    assert errors and all(error["message"] and "details" in error for error in errors)
    prompt["3"]["inputs"]["cfg"] = 7.0
    job = server.client.post("/prompt", {"prompt": prompt})[1]["prompt_id"]
    with pytest.raises(JobFailed) as failure:
        server.client.wait(job)
    entry = failure.value.entry
    kind, told = entry["status"]["messages"][-1]
    assert (entry["status"]["status_str"], kind) == ("error", "execution_error")
    assert (told["node_id"], told["node_type"]) == ("3", "FewStepSampler")
    assert "cfg is locked" in told["exception_message"]
