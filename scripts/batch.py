"""Many runs over the HTTP API of one or several ComfyUI servers: queued, resumed, nothing lost.

A job is one workflow with one prompt and one seed. Its result is a small JSON file in the output
folder, written when the job is done and never before, so whatever is killed (this program, a
server), running the same command again does what is left.
"""

from __future__ import annotations

import collections
import hashlib
import http.client
import json
import threading
import time
import urllib.error
import urllib.parse
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from comfy_client import Client, JobFailed, Prompt, PromptRefused, outputs
from workflow_inputs import (
    SEED_INPUTS,
    BatchError,
    Workflow,
    is_link,
    seed_inputs,
    text_inputs,
)

# Endings that a result may have here. The server's own file names are never used as paths.
SUFFIXES = frozenset({".png", ".jpg", ".jpeg", ".webp", ".gif", ".mp4", ".webm"})
RETURN_SECONDS = 120.0
POLL_SECONDS = 1.0
# A job is first looked at sooner, then half as often each time: some take no time.
FIRST_POLL_SECONDS = 0.05
# A job during which the server stopped answering once more than this is taken for the cause: it
# kills the server, or keeps it too busy.
MOST_RESTARTS = 2
# A server that is not there, or went while it answered: the last three are answers that were cut
# short.
AWAY = (OSError, http.client.HTTPException, json.JSONDecodeError, UnicodeDecodeError)


class StoreError(RuntimeError):
    """The output folder cannot be written to: no job can be kept, whatever the servers do."""


# ---------------------------------------------------------------- jobs


@dataclass(frozen=True)
class Job:
    """id: a name that the same workflow, prompt and seed always have."""

    id: str
    workflow: str
    text: str
    seed: int
    prompt: Prompt


@dataclass(frozen=True)
class Result:
    """What became of a job.

    seconds: the server's own, from start to end; None where it answered from its cache.

    is_first: the first run of its workflow on its server, which loads the model. restarts: how
    often the server was away during the job and came back. error: empty for success. files: in the
    output folder.
    """

    id: str
    workflow: str
    text: str
    seed: int
    server: str
    seconds: float | None = None
    is_first: bool = False
    evaluations: float | None = None
    sampling_seconds: float | None = None
    files: tuple[str, ...] = ()
    error: str = ""
    restarts: int = 0


def read_workflow(path: Path) -> Workflow:
    """Raises BatchError for anything but a workflow in API format."""
    try:
        prompt = json.loads(path.read_text(encoding="utf-8"))
        json.dumps(prompt, allow_nan=False)  # as it will be sent
    except (OSError, ValueError, RecursionError) as error:
        raise BatchError(f"{path} cannot be read as JSON: {error}") from None
    if isinstance(prompt, dict) and "nodes" in prompt:
        raise BatchError(
            f"{path} is the editor's format. In ComfyUI: Workflow, Export (API), and give that"
            " file."
        )
    if (
        not isinstance(prompt, dict)
        or not prompt
        or not all(is_node(node) for node in prompt.values())
    ):
        raise BatchError(
            f"{path} is not a workflow in API format: expected an object of nodes with a class_type"
            " and inputs each."
        )
    return Workflow(path.stem, prompt)


def is_node(value: Any) -> bool:
    return (
        isinstance(value, dict)
        and isinstance(value.get("class_type"), str)
        and isinstance(value.get("inputs"), dict)
    )


def read_prompts(path: Path) -> list[str]:
    """The prompts of a text file, one a line; empty lines do not count."""
    prompts = [line.strip() for line in path.read_text(encoding="utf-8").splitlines()]
    if not any(prompts):
        raise BatchError(f"{path} has no prompt in it: expected one on each line.")
    return [prompt for prompt in prompts if prompt]


def checked_url(url: str) -> str:
    """A server's URL without its final slash. Raises BatchError unless it is http or https."""
    parts = urllib.parse.urlsplit(url)
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise BatchError(
            f"--server {url}: expected the address of a ComfyUI server, such as"
            " http://127.0.0.1:8188."
        )
    return url.rstrip("/")


def make_jobs(
    workflows: Sequence[Workflow], prompts: Sequence[str], seeds: Sequence[int]
) -> list[Job]:
    """Every prompt and seed, one workflow after the other: a server loads each model once."""
    return [
        make_job(workflow, text, seed)
        for workflow in workflows
        for text in prompts
        for seed in seeds
    ]


def make_job(workflow: Workflow, text: str, seed: int) -> Job:
    prompt = filled(workflow, text, seed)
    words = json.dumps([workflow.name, prompt], sort_keys=True).encode()
    return Job(hashlib.sha256(words).hexdigest()[:16], workflow.name, text, seed, prompt)


def filled(workflow: Workflow, text: str, seed: int) -> Prompt:
    """A copy of the workflow with this prompt and seed in it."""
    prompt = {id: {**node, "inputs": dict(node["inputs"])} for id, node in workflow.prompt.items()}
    for node, name in text_inputs(workflow):
        prompt[node]["inputs"][name] = text
    for node, name in seed_inputs(workflow):
        prompt[node]["inputs"][name] = seed
    return prompt


# ---------------------------------------------------------------- results on disk


@dataclass(frozen=True)
class Store:
    """The output folder: results/<job>.json and what the jobs made, under names of our own."""

    folder: Path

    @property
    def results(self) -> Path:
        return self.folder / "results"

    def read(self, job: Job) -> Result | None:
        """What is known of a job. A file that was cut short counts as nothing."""
        path = self.results / f"{job.id}.json"
        try:
            data = json.loads(path.read_text(encoding="utf-8"))
            return Result(**{**data, "files": tuple(data["files"])})
        except (OSError, ValueError, TypeError, KeyError):
            return None

    def write(self, result: Result) -> None:
        self.write_bytes(f"{result.id}.json", json.dumps(asdict(result), indent=1).encode())

    def write_bytes(self, name: str, data: bytes) -> None:
        """In one step: a broken-off run leaves no half of it under this name. Raises StoreError."""
        partial = self.results / f"{name}.partial"
        try:
            self.results.mkdir(parents=True, exist_ok=True)
            partial.write_bytes(data)
            partial.replace(self.results / name)
        except OSError as error:
            raise StoreError(
                f"{self.results} cannot be written to: {error.strerror or error}"
            ) from error

    def is_done(self, job: Job) -> bool:
        """Whether the job succeeded and what it made is still there."""
        result = self.read(job)
        return (
            result is not None
            and not result.error
            and all((self.results / Path(name).name).is_file() for name in result.files)
        )


# ---------------------------------------------------------------- running


class ServerGone(RuntimeError):
    """A server stopped answering and did not come back in time."""


class FileGone(RuntimeError):
    """A server names a file that it lacks (HTTP 404). is_cached: it named it from its memory."""

    def __init__(self, filename: str, is_cached: bool):
        self.is_cached = is_cached
        how = "remembers" if is_cached else "says that it made"
        super().__init__(f"the server {how} {filename} and does not have it any more (HTTP 404)")


@dataclass(frozen=True)
class Outcome:
    """What one call did.

    done, failed: its jobs. left: jobs that no server was left to run. gone: servers that stopped
    answering.

    stopped: why the call ended before its jobs did, empty where it did not.
    """

    done: int
    failed: int
    left: int
    gone: tuple[str, ...]
    stopped: str = ""


class Pool:
    """Jobs that wait and jobs that run. An idle server waits while another's job may come back."""

    def __init__(self, jobs: Sequence[Job]):
        self._waiting, self._running, self._changed = (
            collections.deque(jobs),
            0,
            threading.Condition(),
        )

    def take(self) -> Job | None:
        """The next job, None once nothing waits and nothing runs."""
        with self._changed:
            self._changed.wait_for(lambda: self._waiting or not self._running)
            if not self._waiting:
                return None
            self._running += 1
            return self._waiting.popleft()

    def finish(self, back: Job | None) -> None:
        """A job that was taken has ended. back: the same job if somebody else has to run it."""
        with self._changed:
            self._running -= 1
            self._waiting.extend([back] if back else [])
            self._changed.notify_all()


@dataclass(frozen=True)
class Batch:
    """What the servers of one call share."""

    pool: Pool
    store: Store
    say: Callable[[str], None]
    return_seconds: float
    finished: list[Result]
    gone: list[str]
    stopped: list[str]

    def work(self, url: str) -> None:
        """Run jobs on one server, one at a time, until none is left or the server is gone."""
        seen: set[str] = set()
        while (job := self.pool.take()) is not None:
            back: Job | None = job
            try:
                result = run_job(
                    Client(url),
                    job,
                    self.store,
                    job.workflow not in seen,
                    self.return_seconds,
                    self.say,
                )
                self.store.write(result)
                self.finished.append(result)
                self.say(f"{len(self.finished)}: {in_words(result)}")
                seen.add(job.workflow)
                back = None
            except ServerGone as error:
                self.gone.append(url)
                self.say(f"{url} stopped answering ({error}); its job goes back to the queue")
                return
            except StoreError as error:
                self.stopped.append(str(error))
                return
            finally:
                self.pool.finish(back)


def run_all(
    jobs: Sequence[Job],
    servers: Sequence[str],
    store: Store,
    say: Callable[[str], None],
    return_seconds: float = RETURN_SECONDS,
) -> Outcome:
    """Run what is not done yet on all servers at once. A job whose server dies goes to another."""
    todo = [job for job in jobs if not store.is_done(job)]
    batch = Batch(Pool(todo), store, say, return_seconds, [], [], [])
    say(
        f"{len(jobs)} job{'s' * (len(jobs) != 1)}, {len(jobs) - len(todo)} done before,"
        f" {len(todo)} to do on {len(servers)} server{'s' * (len(servers) > 1)}"
    )
    threads = [threading.Thread(target=batch.work, args=(url,), daemon=True) for url in servers]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    failed = sum(bool(result.error) for result in batch.finished)
    left = len(todo) - len(batch.finished)
    return Outcome(
        len(batch.finished) - failed,
        failed,
        left,
        tuple(batch.gone),
        "; ".join(dict.fromkeys(batch.stopped)),
    )


def in_words(result: Result) -> str:
    what = f"{result.workflow}, seed {result.seed}, {result.text[:40]!r}"
    return (
        f"{what}: FAILED, {result.error}"
        if result.error
        else f"{what}: {seconds_in_words(result.seconds)}"
    )


def seconds_in_words(seconds: float | None) -> str:
    return "from the server's cache" if seconds is None else f"{seconds:.2f} s"


def run_job(
    client: Client,
    job: Job,
    store: Store,
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
        except PromptRefused as error:
            return replace(
                blank,
                restarts=restarts,
                error=f"refused by the server: {refusal_in_words(error.body)}",
            )
        except (JobFailed, FileGone) as error:
            return replace(blank, restarts=restarts, error=str(error))
        except urllib.error.HTTPError as error:
            return replace(blank, restarts=restarts, error=f"HTTP {error.code} from the server")
        except AWAY as error:
            say(f"{client.url} does not answer ({error}); waiting {return_seconds:g} s for it")
            await_server(client, return_seconds, error)
            restarts += 1
            if restarts > MOST_RESTARTS:
                return replace(
                    blank,
                    restarts=restarts,
                    error=f"the server stopped answering {restarts} times during this job: {error}",
                )
    # Outside the try: a full disk is not a server that went away.
    return finished_result(
        job,
        store,
        entry,
        made,
        replace(blank, is_first=is_first or restarts > 0, restarts=restarts),
    )


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
            is_cached = not from_cache(entry).isdisjoint(entry["outputs"])
            raise FileGone(item["filename"], is_cached) from error
    return made


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
        pause = min(2 * pause, POLL_SECONDS)
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
    job: Job, store: Store, entry: dict[str, Any], made: Sequence[tuple[str, bytes]], blank: Result
) -> Result:
    """The result of a finished job, what it made kept. made: (the server's file name, bytes)."""
    reports = [
        report
        for report in outputs(entry, "fewstep_report")
        if "evaluations" in report and "seconds" in report
    ]
    files = []
    for number, (filename, data) in enumerate(made):
        name = f"{job.id}.{number}{suffix_of(filename)}"
        store.write_bytes(name, data)
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
