"""One job on one server, to its end: over a restart if need be, and what it made fetched."""

from __future__ import annotations

import http.client
import json
import time
import urllib.error
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from batch_jobs import Job
from batch_store import Keeper, Result
from comfy_client import Client, JobFailed, Prompt, PromptRefused, outputs
from workflow_inputs import SEED_INPUTS, is_link

# Endings that a result may have here. The server's own file names are never used as paths.
SUFFIXES = frozenset({".png", ".jpg", ".jpeg", ".webp", ".gif", ".mp4", ".webm"})
POLL_SECONDS = 1.0
# A job is first looked at sooner, as some take no time, and then when a quarter more has passed.
FIRST_POLL_SECONDS, POLL_GROWTH = 0.05, 1.25
# A job during which the server stopped answering once more than this is taken for the cause: it
# kills the server, or keeps it too busy.
MOST_RESTARTS = 2
# A server that is not there, or went while it answered: the last three are answers that were cut
# short.
AWAY = (OSError, http.client.HTTPException, json.JSONDecodeError, UnicodeDecodeError)


class ServerGone(RuntimeError):
    """A server stopped answering and did not come back in time."""


class FileGone(RuntimeError):
    """A server names a file that it lacks (HTTP 404). is_cached: it named it from its memory."""

    def __init__(self, filename: str, is_cached: bool):
        self.is_cached = is_cached
        how = "remembers" if is_cached else "says that it made"
        super().__init__(f"the server {how} {filename} and does not have it any more (HTTP 404)")


# What ends a job, before it is asked whether the server is away: HTTPError is one of AWAY's too.
FAILURES = (PromptRefused, JobFailed, FileGone, urllib.error.HTTPError)


def run_job(
    client: Client,
    job: Job,
    keeper: Keeper,
    is_first: bool,
    return_seconds: float,
    say: Callable[[str], None],
) -> Result:
    """Run one job to its end, over a server's restart if need be.

    Raises ServerGone if the server stays away, StoreError if the result cannot be kept.
    """
    blank = Result(job.id, job.workflow, job.text, job.seed, client.url)
    restarts = 0
    while True:
        try:
            entry, made = made_by(client, job, say)
            break
        except FAILURES as error:
            return replace(blank, restarts=restarts, error=failure_in_words(error))
        except AWAY as error:
            say(f"{client.url} does not answer ({error}); waiting {return_seconds:g} s for it")
            await_server(client, return_seconds, error)
            restarts += 1
            if restarts > MOST_RESTARTS:
                words = f"the server stopped answering {restarts} times during this job: {error}"
                return replace(blank, restarts=restarts, error=words)
    # Outside the try: a full disk is not a server that went away.
    blank = replace(blank, is_first=is_first or restarts > 0, restarts=restarts)
    return finished_result(job, keeper, entry, made, blank)


def made_by(
    client: Client, job: Job, say: Callable[[str], None]
) -> tuple[dict[str, Any], list[tuple[str, bytes]]]:
    """(history, [(the server's file name, bytes)]) of a job. Raises FileGone.

    What the server answered from its cache, when its file is gone, is made once more.
    """
    entry = followed(client, job)
    try:
        return entry, fetched(client, entry)
    except FileGone as gone:
        if not gone.is_cached:
            raise
        say(f"{client.url}: {gone}; it forgets what it remembers and makes it again")
    client.forget()
    entry = followed(client, job)
    return entry, fetched(client, entry)


def fetched(client: Client, entry: dict[str, Any]) -> list[tuple[str, bytes]]:
    """(the server's file name, bytes) of what a job made. Raises FileGone."""
    made = []
    for item in pictures(entry):
        try:
            made.append((item["filename"], client.file(item)))
        except urllib.error.HTTPError as error:
            if error.code != 404:
                raise
            is_cached = item not in pictures(without_cached(entry))
            raise FileGone(item["filename"], is_cached) from error
    return made


def without_cached(entry: dict[str, Any]) -> dict[str, Any]:
    """The history of a job with the outputs of those nodes alone that ran in it."""
    cached = from_cache(entry)
    made = {id: output for id, output in entry["outputs"].items() if id not in cached}
    return {**entry, "outputs": made}


def from_cache(entry: dict[str, Any]) -> set[str]:
    """The nodes of a finished job whose results the server had already."""
    return set(dict(entry["status"]["messages"]).get("execution_cached", {}).get("nodes", []))


def followed(client: Client, job: Job) -> dict[str, Any]:
    """The finished job's history. ConnectionResetError: a restarted server forgot the job."""
    prompt_id, pause = client.queue(job.prompt), min(FIRST_POLL_SECONDS, POLL_SECONDS)
    while (entry := client.history(prompt_id)) is None:
        if not is_queued(client, prompt_id) and client.history(prompt_id) is None:
            raise ConnectionResetError("it was restarted and has forgotten the job")
        time.sleep(pause)
        pause = min(POLL_GROWTH * pause, POLL_SECONDS)
    if entry["status"]["status_str"] != "success":
        raise JobFailed(entry)
    return entry


def is_queued(client: Client, prompt_id: str) -> bool:
    waiting = client.get("/queue")
    return any(
        item[1] == prompt_id
        for name in ("queue_running", "queue_pending")
        for item in waiting[name]
    )


def await_server(client: Client, seconds: float, cause: Exception) -> None:
    """Return once the server answers again."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        time.sleep(POLL_SECONDS)
        try:
            client.get("/system_stats")
            return
        except AWAY:
            continue
    raise ServerGone(str(cause)) from cause


def finished_result(
    job: Job,
    keeper: Keeper,
    entry: dict[str, Any],
    made: Sequence[tuple[str, bytes]],
    blank: Result,
) -> Result:
    """The result of a finished job, what it made kept. made: (the server's file name, bytes)."""
    reports = [
        report
        for report in outputs(without_cached(entry), "fewstep_report")
        if "evaluations" in report and "seconds" in report
    ]
    files = []
    for number, (filename, data) in enumerate(made):
        name = f"{job.id}.{number}{suffix_of(filename)}"
        keeper.write_bytes(name, data)
        files.append(name)
    return replace(
        blank,
        seconds=seconds_of(entry, job),
        files=tuple(files),
        evaluations=sum(report["evaluations"] for report in reports) if reports else None,
        sampling_seconds=sum(report["seconds"] for report in reports) if reports else None,
    )


def pictures(entry: dict[str, Any]) -> list[dict[str, str]]:
    """The files a job saved, in the order of their nodes; previews only where nothing was saved."""
    items = [
        item
        for _, output in sorted(entry["outputs"].items())
        for kind in ("images", "gifs", "video")
        for item in output.get(kind, [])
        if isinstance(item, dict) and suffix_of(item.get("filename", ""))
    ]
    return [item for item in items if item.get("type") == "output"] or items


def suffix_of(filename: str) -> str:
    """The ending of a server's file name if it is one of ours, else empty."""
    suffix = Path(filename.replace("\\", "/").rpartition("/")[2]).suffix.lower()
    return suffix if suffix in SUFFIXES else ""


def seconds_of(entry: dict[str, Any], job: Job) -> float | None:
    """The server's seconds from start to end; None where it had the sampled latent in its cache."""
    messages = dict(entry["status"]["messages"])
    if samplers(job.prompt) & from_cache(entry):
        return None
    return (
        messages["execution_success"]["timestamp"] - messages["execution_start"]["timestamp"]
    ) / 1000


def samplers(prompt: Prompt) -> set[str]:
    """The nodes that sample, by a seed of their own or the noise of a node that has one.

    Such a noise node stays cached between prompts.
    """
    given = {
        id: node["inputs"]["noise"][0]
        for id, node in prompt.items()
        if is_link(node["inputs"].get("noise"))
    }
    seeded = {
        id for id, node in prompt.items() if any(name in node["inputs"] for name in SEED_INPUTS)
    }
    return (seeded - set(given.values())) | set(given)


def failure_in_words(error: Exception) -> str:
    if isinstance(error, PromptRefused):
        return f"refused by the server: {refusal_in_words(error.body)}"
    if isinstance(error, urllib.error.HTTPError):
        return f"HTTP {error.code} from the server"
    return str(error)


def refusal_in_words(body: Any) -> str:
    """What a server has against a workflow, in one line."""
    if not isinstance(body, dict):
        return str(body)[:300]
    nodes = [
        f"{node.get('class_type', id)}: {message_of(error)}".strip()
        for id, node in (body.get("node_errors") or {}).items()
        for error in node.get("errors", [])
    ]
    return "; ".join(nodes) or str((body.get("error") or {}).get("message", body))[:300]


def message_of(error: dict[str, Any]) -> str:
    return f"{error.get('message', '')} {error.get('details', '')}"
