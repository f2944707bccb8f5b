"""Several clients at once on one server: each gets its own results, its own reports, and nothing of
the others'.
"""

from __future__ import annotations

import contextlib
import threading
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any

from comfy_client import Client, outputs
from comfy_server import Server
from prompts import demo_prompt
from websocket_reader import WebSocket

# (seed, steps) of each client's jobs: no two are alike, and every client asks for another count
# first.
JOBS = {
    "a": [(1, 1), (2, 2), (3, 4)],
    "b": [(4, 2), (5, 4), (6, 1)],
    "c": [(7, 4), (8, 1), (9, 2)],
    "d": [(10, 1), (11, 4), (12, 2)],
}


@dataclass
class Editor:
    """What one client saw. reports: the sampler's, by prompt id, as the websocket brought them."""

    ids: list[str] = field(default_factory=list)
    entries: list[dict[str, Any]] = field(default_factory=list)
    events: list[dict[str, Any]] = field(default_factory=list)

    def reports(self) -> dict[str, dict[str, Any]]:
        executed = [
            event["data"]
            for event in self.events
            if event["type"] == "executed" and event["data"]["node"] == "sample"
        ]
        return {data["prompt_id"]: data["output"]["fewstep_report"][0] for data in executed}

    def texts_under(self, node: str) -> list[str]:
        """What web/report.js was told to show there."""
        return [
            event["data"]["text"]
            for event in self.events
            if event["type"] == "fewstep.told" and event["data"]["node"] == node
        ]


def work(client: Client, name: str, start: threading.Barrier, done: threading.Barrier) -> Editor:
    """Queue all jobs as one editor, follow them to their end."""
    seen = Editor()
    with contextlib.closing(WebSocket(client.url, f"/ws?clientId={name}")) as connection:
        start.wait()
        seen.ids = [client.queue(demo_prompt(*job), name) for job in JOBS[name]]
        while any(client.history(id) is None for id in seen.ids):
            seen.events += connection.read(seconds=0.2)
        done.wait()
        # What is on its way to the others would come here, too.
        seen.events += connection.read(seconds=0.5)
        seen.entries = [client.wait(id) for id in seen.ids]
    return seen


def latent_of(entry: dict[str, Any]) -> str:
    return outputs(entry, "test_latent")[0]["sha256"]


def test_every_client_gets_its_own_results_and_reports_and_no_other(server: Server) -> None:
    alone = {
        job: latent_of(server.client.run(demo_prompt(*job)))
        for jobs in JOBS.values()
        for job in jobs
    }
    assert len(set(alone.values())) == len(alone)
    server.client.forget()

    # One that fails breaks the barriers of the others, instead of leaving them there for ever.
    start, done = (threading.Barrier(len(JOBS), timeout=600) for _ in range(2))
    with ThreadPoolExecutor(len(JOBS)) as pool:
        futures = {name: pool.submit(work, server.client, name, start, done) for name in JOBS}
        editors = {name: future.result(timeout=1200) for name, future in futures.items()}
    for name, editor in editors.items():
        steps = [steps for _, steps in JOBS[name]]
        kept = [
            next(
                report
                for report in outputs(entry, "fewstep_report")
                if report["node"] == "Few-Step Sampler"
            )
            for entry in editor.entries
        ]
        assert [latent_of(entry) for entry in editor.entries] == [alone[job] for job in JOBS[name]]
        assert (
            [report["steps"] for report in kept]
            == [report["evaluations"] for report in kept]
            == steps
        )
        assert editor.reports() == dict(zip(editor.ids, kept)), (
            "over the websocket: the same reports, and no other client's"
        )
        told = ["\n\n".join([report["summary"], *report["notes"]]) for report in kept]
        assert sorted(editor.texts_under("sample")) == sorted(told)
