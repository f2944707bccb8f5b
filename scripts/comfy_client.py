"""A small client for ComfyUI's HTTP API, standard library only: queue, follow, fetch."""

from __future__ import annotations

import contextlib
import json
import time
import urllib.error
import urllib.parse
import urllib.request
import uuid
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from websocket_reader import WebSocket

Prompt = dict[str, dict[str, Any]]
Event = dict[str, Any]


# What a gateway answers for a server that is not there.
GATEWAY_ERRORS = frozenset({502, 503, 504})


class PromptRefused(RuntimeError):
    """The server did not take the workflow (HTTP 400); `body` is its answer."""

    def __init__(self, body: Any):
        self.body = body
        super().__init__(json.dumps(body, indent=1))


class JobFailed(RuntimeError):
    """The workflow ran and ended in an error or an interruption; `entry` is its history."""

    def __init__(self, entry: dict[str, Any]):
        self.entry = entry
        ends = ("execution_error", "execution_interrupted")
        found = [data for kind, data in entry["status"]["messages"] if kind in ends]
        self.details: dict[str, Any] = found[-1] if found else {}
        self.is_interruption = bool(found) and "exception_message" not in self.details
        where = self.details.get("node_type", "a node")
        super().__init__(f"{where}: {self.details.get('exception_message', 'interrupted')}")


class _StayHere(urllib.request.HTTPRedirectHandler):
    """A server is asked, and nobody it points to: an answer that leads elsewhere is an error."""

    def redirect_request(self, *args: Any) -> None:
        return None


OPENER = urllib.request.build_opener(_StayHere)


@dataclass(frozen=True)
class Client:
    """One ComfyUI server, by its address."""

    url: str
    timeout: float = 60

    def get(self, path: str) -> Any:
        """The JSON at a path."""
        return json.loads(self.fetch(path))

    def fetch(self, path: str) -> bytes:
        """The bytes at a path. Raises ConnectionError if a gateway answers for an absent server."""
        try:
            with OPENER.open(self.url + path, timeout=self.timeout) as answer:
                return answer.read()
        except urllib.error.HTTPError as error:
            refuse_gateway(error.code)
            raise

    def post(self, path: str, data: Any) -> tuple[int, Any]:
        """(HTTP status, answer) of posting JSON; an error status is an answer too."""
        body = json.dumps(data).encode()
        request = urllib.request.Request(
            self.url + path, body, {"Content-Type": "application/json"}
        )
        try:
            with OPENER.open(request, timeout=self.timeout) as answer:
                return answer.status, decoded(answer.read())
        except urllib.error.HTTPError as error:
            with error:
                return error.code, decoded(error.read())

    def queue(self, prompt: Prompt, client_id: str = "") -> str:
        """Queue a workflow in API format; its id. Raises PromptRefused, and what fetch raises."""
        status, body = self.post("/prompt", {"prompt": prompt, "client_id": client_id})
        refuse_gateway(status)
        if status != 200:
            raise PromptRefused(f"HTTP {status}" if body is None else body)
        return str(body["prompt_id"])

    def history(self, prompt_id: str) -> dict[str, Any] | None:
        """What the server keeps of a finished job, or None while it is not finished."""
        return self.get(f"/history/{prompt_id}").get(prompt_id)

    def wait(self, prompt_id: str, timeout: float = 900) -> dict[str, Any]:
        """The history of a job once it is finished. Raises JobFailed if it did not succeed."""
        deadline = time.monotonic() + timeout
        while (entry := self.history(prompt_id)) is None:
            if time.monotonic() > deadline:
                raise TimeoutError(f"job {prompt_id} was not finished after {timeout:g} s")
            time.sleep(0.1)
        return succeeded(entry)

    def run(
        self, prompt: Prompt, on_event: Callable[[Event], None] | None = None, timeout: float = 900
    ) -> dict[str, Any]:
        """Queue a workflow and wait for it; `on_event` gets every progress event of the server."""
        if on_event is None:
            return self.wait(self.queue(prompt), timeout)
        client_id = uuid.uuid4().hex
        with contextlib.closing(WebSocket(self.url, f"/ws?clientId={client_id}")) as events:
            prompt_id = self.queue(prompt, client_id)
            deadline = time.monotonic() + timeout
            # A job that never gets to run a node may end without an event, so the history is asked
            # as well.
            while (entry := self.history(prompt_id)) is None:
                if time.monotonic() > deadline:
                    raise TimeoutError(f"job {prompt_id} was not finished after {timeout:g} s")
                for event in events.read(seconds=0.2):
                    on_event(event)
            # The server tells of a job's last steps before it has the history; they may have come
            # since the last reading.
            for event in events.read(seconds=0):
                on_event(event)
        return succeeded(entry)

    def interrupt(self) -> None:
        """Stop the job that is running now."""
        self.post("/interrupt", {})

    def cancel(self, prompt_id: str) -> None:
        """Stop this job, running or not, and no other."""
        self.post("/queue", {"delete": [prompt_id]})
        self.post("/interrupt", {"prompt_id": prompt_id})

    def is_queued(self, prompt_id: str) -> bool:
        """Whether a job runs or waits to run."""
        queue = self.get("/queue")
        jobs = [*queue["queue_running"], *queue["queue_pending"]]
        return any(job[1] == prompt_id for job in jobs)

    def forget(self) -> None:
        """Drop what the server remembers, so that the next run computes every node again."""
        self.post("/free", {"unload_models": False, "free_memory": True})
        # It gets to that once it has nothing to do or has done a job. Here is one to do, or the
        # next might still be answered from memory.
        self.run({"1": {"class_type": "PreviewAny", "inputs": {"source": "nothing"}}})

    def file(self, item: dict[str, str]) -> bytes:
        """The bytes of a file that a job's outputs name ({"filename", "subfolder", "type"})."""
        return self.fetch("/view?" + urllib.parse.urlencode(item))


def refuse_gateway(status: int) -> None:
    if status in GATEWAY_ERRORS:
        raise ConnectionError(f"HTTP {status} from a gateway")


def outputs(entry: dict[str, Any], kind: str) -> list[Any]:
    """All outputs of one kind ("images", "fewstep_report", ...) of a finished job."""
    return [item for output in entry["outputs"].values() for item in output.get(kind, [])]


def succeeded(entry: dict[str, Any]) -> dict[str, Any]:
    """The same entry, if its job succeeded."""
    if entry["status"]["status_str"] != "success":
        raise JobFailed(entry)
    return entry


def decoded(body: bytes) -> Any:
    """A JSON answer as data, any other as text."""
    try:
        return json.loads(body) if body else None
    except ValueError:
        return body.decode(errors="replace")
