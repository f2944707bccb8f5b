"""The batch client on bad files and servers: no workflow in a file, answers that lead elsewhere."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import ClassVar

import pytest
from hypothesis import given
from hypothesis import strategies as st
from thinning import examples

import batch_run
from batch_jobs import make_job, make_jobs, read_workflow
from batch_store import Store
from comfy_client import Client
from workflow_inputs import BatchError, Workflow

ROOT = Path(__file__).resolve().parents[1]

SHIPPED = json.loads((ROOT / "workflows" / "api" / "sd15_lcm.json").read_text(encoding="utf-8"))
FUZZ = examples(1500)


def runs_or_refuses(path: Path, content: bytes) -> None:
    """Everything the client does with a workflow file before it asks a server; what is wrong is
    said in a BatchError.
    """
    path.write_bytes(content)
    try:
        workflow = read_workflow(path)
        (job,) = make_jobs([workflow], ["a <b> prompt"], [7])
    except BatchError as error:
        assert path.name in str(error) or path.stem in str(error)
        return
    assert json.dumps("a <b> prompt") in json.dumps(job.prompt)
    assert job.id == make_job(workflow, "a <b> prompt", 7).id


@pytest.fixture(scope="module")
def path(tmp_path_factory):
    return tmp_path_factory.mktemp("workflows") / "workflow.json"


@FUZZ
@given(st.data())
def test_a_shipped_workflow_with_changed_bytes(path, data):
    content = bytearray(json.dumps(SHIPPED).encode())
    for _ in range(data.draw(st.integers(1, 6))):
        content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    runs_or_refuses(
        path,
        bytes(
            content[: data.draw(st.integers(0, len(content)))]
            if data.draw(st.booleans())
            else content
        ),
    )


LINKS = st.tuples(st.sampled_from([*SHIPPED, "none", ""]), st.integers(-1, 3)).map(list)
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=9) | LINKS,
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3)
    ),
    max_leaves=6,
)
INPUTS = st.sampled_from(
    ["positive", "conditioning", "text", "prompt", "seed", "noise_seed", "value", "guider", "model"]
)
NODES = (
    st.fixed_dictionaries(
        {},
        optional={
            "class_type": (
                st.sampled_from(["KSampler", "CLIPTextEncode", "BasicGuider", "FewStepSampler"])
                | VALUES
            ),
            "inputs": st.dictionaries(INPUTS, VALUES, max_size=5) | VALUES,
        },
    )
    | VALUES
)


@FUZZ
@given(st.dictionaries(st.sampled_from([*SHIPPED, "1", ""]), NODES, max_size=5) | VALUES)
def test_any_json_as_a_workflow(path, prompt):
    runs_or_refuses(path, json.dumps(prompt).encode("utf-8", "surrogatepass"))


@FUZZ
@given(
    st.dictionaries(
        st.sampled_from("1234"),
        st.fixed_dictionaries(
            {
                "class_type": st.sampled_from(["KSampler", "CLIPTextEncode", "BasicGuider"]),
                "inputs": st.dictionaries(
                    INPUTS,
                    st.tuples(st.sampled_from("1234"), st.just(0)).map(list)
                    | st.text(max_size=3)
                    | st.integers(),
                    max_size=4,
                ),
            }
        ),
        min_size=1,
        max_size=4,
    )
)
def test_any_graph_also_one_that_runs_in_a_circle(path, prompt):
    runs_or_refuses(path, json.dumps(prompt).encode())


@pytest.mark.parametrize(
    "content",
    [
        b"[" * 100_000,
        b'{"1":' * 5000 + b"1" + b"}" * 5000,
        b"\xff\xfe",
        b"9" * 10_000,
        b"NaN",
        b'{"1": {"class_type": "K", "inputs": {"seed": NaN}}}',
    ],
)
def test_what_json_parsers_fall_over_is_refused(path, content):
    path.write_bytes(content)
    with pytest.raises(BatchError, match=r"workflow\.json"):
        read_workflow(path)


# ---------------------------------------------------------------- a server that leads elsewhere


class Misleading(BaseHTTPRequestHandler):
    """Sends every request on to where the path after /to/ says, or notes that somebody came."""

    visited: ClassVar[list[str]] = []

    def do_GET(self) -> None:
        if self.path.startswith("/secret"):
            self.visited.append(self.path)
            self.send_response(200)
        else:
            self.send_response(302)
            self.send_header("Location", self.server.target)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def do_POST(self) -> None:
        # Closed with something unread, a connection is reset, and the client may see that in place
        # of the answer.
        self.rfile.read(int(self.headers["Content-Length"]))
        self.do_GET()

    def log_message(self, *args) -> None:
        pass


@pytest.fixture
def misleading() -> Iterator[ThreadingHTTPServer]:
    with ThreadingHTTPServer(("127.0.0.1", 0), Misleading) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield server
        server.shutdown()


@pytest.mark.parametrize(
    "target",
    ["http://127.0.0.1:{port}/secret", "ftp://127.0.0.1:{port}/secret", "file:///etc/passwd"],
)
def test_a_server_cannot_send_the_client_elsewhere(misleading, tmp_path, target):
    Misleading.visited.clear()
    misleading.target = target.format(port=misleading.server_port)
    job = make_job(Workflow("sd15_lcm", SHIPPED), "a prompt", 7)
    result = batch_run.run_job(
        Client(f"http://127.0.0.1:{misleading.server_port}"),
        job,
        Store(tmp_path),
        True,
        0.0,
        lambda line: None,
    )
    assert Misleading.visited == []
    assert result.error == "refused by the server: HTTP 302"
    assert not list(tmp_path.rglob("*"))
