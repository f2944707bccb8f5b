"""Watch a stream and speak to it: `python scripts/live.py WORKFLOW.json`.

The workflow is in API format (ComfyUI: Workflow, Export (API)) and has a Streaming Sampler with a
CLIP connected to its clip input. The script queues it on a running ComfyUI, keeps the newest
picture in a file (a viewer that reloads shows the video as it is made) and prints how far it is.
Type what the video should show and press Enter: it says from which frame on the video follows.
Ctrl+C ends the stream and keeps the blocks that are finished.
"""

from __future__ import annotations

import argparse
import contextlib
import queue
import sys
import threading
import urllib.parse
import uuid
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from batch_jobs import checked_url, read_workflow
from comfy_client import Client, JobFailed, Prompt, PromptRefused, outputs
from console import print_everywhere
from websocket_reader import WebSocket
from workflow_inputs import BatchError

SAMPLER = "FewStepStream"


def main(arguments: Sequence[str] | None = None) -> int:
    """0: the clip is there, or what Ctrl+C left of it. 1: it failed. 2: the request is wrong."""
    options = parsed(arguments)
    try:
        client = Client(checked_url(options.server))
        prompt = read_workflow(options.workflow).prompt
        node_id = stream_in(prompt, options.node)
        client_id = uuid.uuid4().hex
        with contextlib.closing(WebSocket(client.url, f"/ws?clientId={client_id}")) as events:
            job = client.queue(prompt, client_id)
            print(f"Queued. Pictures go to {options.picture}; type a text and press Enter.")
            entry = Session(client, events, job, node_id, options.picture).follow(typed_lines())
    except (BatchError, PromptRefused, OSError) as error:
        print(f"live.py: {error}", file=sys.stderr)
        return 2
    except JobFailed as failed:
        print(f"live.py: {failed}", file=sys.stderr)
        return 1
    if entry is None:
        print("The stream had not begun; it was taken out of the queue.")
    else:
        tell_end(entry)
    return 0


def parsed(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("workflow", type=Path, metavar="WORKFLOW.json")
    parser.add_argument("--server", default="http://127.0.0.1:8188", metavar="URL")
    parser.add_argument(
        "--node", metavar="ID", help="which Streaming Sampler, where the workflow has several"
    )
    parser.add_argument(
        "--picture",
        type=Path,
        default=Path("live.jpg"),
        metavar="FILE",
        help="where the newest picture goes (default: live.jpg)",
    )
    return parser.parse_args(arguments)


def stream_in(prompt: Prompt, wanted: str | None) -> str:
    """The id of the Streaming Sampler that takes texts. Raises BatchError."""
    samplers = [id for id, node in prompt.items() if node["class_type"] == SAMPLER]
    chosen = [id for id in samplers if wanted in (None, id)]
    if not samplers:
        raise BatchError("The workflow has no Streaming Sampler.")
    if len(chosen) != 1:
        raise BatchError(
            f"The workflow's Streaming Samplers are the nodes {', '.join(samplers[:5])}. Name one"
            " with --node."
        )
    if "clip" not in prompt[chosen[0]]["inputs"]:
        raise BatchError(
            f"The Streaming Sampler (node {chosen[0]}) takes no text: nothing is connected to its"
            " clip input. Connect the CLIP that encodes its prompt."
        )
    return chosen[0]


def typed_lines() -> queue.SimpleQueue[str]:
    """What is typed from now on, line by line: reading a console cannot be broken off, so it has a
    thread of its own, which ends with the script.
    """
    lines: queue.SimpleQueue[str] = queue.SimpleQueue()

    def read() -> None:
        for line in sys.stdin:
            if line.strip():
                lines.put(line.strip())

    threading.Thread(target=read, daemon=True).start()
    return lines


@dataclass
class Session:
    """One job and what is heard of it."""

    client: Client
    events: WebSocket
    job: str
    node_id: str
    picture: Path
    told: str = ""  # the last line on how far it is

    def follow(self, lines: queue.SimpleQueue[str]) -> dict[str, Any] | None:
        """The job's history, once it is over; None where it was cancelled before it began. Raises
        JobFailed.
        """
        while True:
            try:
                while self.client.history(self.job) is None:
                    self.show(seconds=0.2)
                    while not lines.empty():
                        print(self.send(lines.get()), flush=True)
                self.show(seconds=0)
                return self.client.wait(self.job)
            except KeyboardInterrupt:
                print("Ending the stream; what is finished is kept.", flush=True)
                self.client.cancel(self.job)
                if not self.client.is_queued(self.job) and self.client.history(self.job) is None:
                    return None

    def show(self, seconds: float) -> None:
        """Keep the newest picture that comes within so many seconds, and print what is told."""
        newest = None
        for message in self.events.messages(seconds):
            if isinstance(message, bytes):
                newest = message
            elif message["type"] == "fewstep.told" and message["data"]["node"] == self.node_id:
                self.tell(message["data"]["text"].split("\n")[0])
        if newest is not None:
            # A viewer must never find half a picture.
            partial = self.picture.with_name(self.picture.name + ".partial")
            partial.write_bytes(newest)
            # On Windows a picture that a viewer reads cannot be replaced; the next comes soon.
            with contextlib.suppress(PermissionError):
                partial.replace(self.picture)

    def tell(self, line: str) -> None:
        if line != self.told:
            print(line, flush=True)
            self.told = line

    def send(self, text: str) -> str:
        """Give the stream a text; what came of it, in words."""
        path = f"/fewstep/stream/{urllib.parse.quote(self.node_id, safe='')}"
        status, answer = self.client.post(path, {"text": text})
        if status == 200:
            also = ", in place of the text before it" if answer["replaces"] else ""
            return f'"{text}" from frame {answer["frame"]} ({answer["second"]:.2f} s){also}'
        if isinstance(answer, dict) and "error" in answer:
            return f"Not taken: {answer['error']}"
        return f"Not taken: the server answered {status}. Is this pack installed there?"


def tell_end(entry: dict[str, Any]) -> None:
    """What the stream's report says, and where files are."""
    for report in outputs(entry, "fewstep_report"):
        if report["node"] == "Streaming Sampler":
            print(f"{report['node']}: {report['summary']}")
            for note in report["notes"]:
                print(f"- {note}")
    for output in entry["outputs"].values():
        for item in (item for items in output.values() for item in items):
            if isinstance(item, dict) and item.get("type") == "output":
                print(Path("output", item["subfolder"], item["filename"]))


if __name__ == "__main__":
    print_everywhere()
    sys.exit(main())
