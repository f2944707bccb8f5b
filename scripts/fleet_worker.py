"""A fleet's worker: one ComfyUI, and the jobs it is given. It runs wherever Ray puts it."""

from __future__ import annotations

import contextlib
import os
import shutil
import socket
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from batch import RETURN_SECONDS
from batch_jobs import Job
from batch_run import AWAY, run_job
from batch_store import Result
from comfy_client import Client
from comfy_server import PACK_NAME, Server, link_folder, running_server, unlink_folder
from host import Host, default_cache, ensure_host

# How long a server of a worker's own may be away before it is started again.
OWN_RETURN_SECONDS = 10.0
# Folders in an install's custom_nodes that are this pack: a clone's name and the registry's.
OWN_NAMES = {PACK_NAME.lower(), "fewstep", "__pycache__"}


@dataclass(frozen=True)
class Setup:
    """Which ComfyUI a worker runs its jobs on."""

    url: str = ""  # one that runs already; empty: one that the worker starts
    version: str = ""  # of the ComfyUI to get, where the machine's COMFYUI_PATH names none
    folder: str = ""  # names the folder of its server, in the cache of the machine it is on
    models: Path | None = None  # a models folder; None: that of the ComfyUI that is run
    arguments: Sequence[str] = ()  # of its main.py, such as --cpu


@dataclass(frozen=True)
class Parcel:
    """What a job made, on its way to the one who keeps it."""

    files: dict[str, bytes] = field(default_factory=dict)

    def write_bytes(self, name: str, data: bytes) -> None:
        self.files[name] = data


@dataclass(frozen=True)
class Done:
    """A job's result and its files, by their names in the store."""

    result: Result
    files: dict[str, bytes]


class Worker:
    """One ComfyUI. start comes before run, and again after anything went wrong."""

    def __init__(self, name: str, setup: Setup):
        self._name, self._setup = name, setup
        self._client: Client | None = Client(setup.url) if setup.url else None
        self._server: Server | None = None
        self._running = contextlib.ExitStack()
        self._seen: set[str] = set()  # workflows whose models it has loaded

    def start(self) -> str:
        """Where its ComfyUI is, in words, once that answers.

        Raises HostError, ServerError or OSError where there is none to be had.
        """
        if not self._answers():
            if self._setup.url:
                raise ConnectionError(f"{self._setup.url} does not answer")
            self.stop()
            self._server = self._running.enter_context(started(self._setup))
            self._client = self._server.client
        assert self._client is not None
        return f"{self._client.url} on {socket.gethostname()}, process {os.getpid()}"

    def run(self, job: Job) -> Done:
        """Raises ServerGone where its ComfyUI stays away."""
        assert self._client is not None, "start comes first"
        patience = RETURN_SECONDS if self._setup.url else OWN_RETURN_SECONDS
        parcel, is_first = Parcel(), job.workflow not in self._seen
        result = run_job(self._client, job, parcel, is_first, patience, print)
        self._seen.add(job.workflow)
        return Done(replace(result, server=f"{self._name} on {socket.gethostname()}"), parcel.files)

    def stop(self) -> None:
        """End a server of its own."""
        self._running.close()
        self._seen.clear()

    def _answers(self) -> bool:
        """Whether there is a ComfyUI and it answers."""
        if self._client is None or (self._server and not self._server.is_alive):
            return False
        with contextlib.suppress(*AWAY):
            self._client.get("/system_stats")
            return True
        return False


def started(setup: Setup) -> contextlib.AbstractContextManager[Server]:
    """A server with the pack, the machine's own packs and its models; it ends with this process."""
    host = ensure_host(setup.version)
    base = default_cache() / "fleet" / setup.folder
    base.mkdir(parents=True, exist_ok=True)
    shutil.rmtree(base / "output", ignore_errors=True)  # an earlier run's, long since fetched
    models = setup.models or (None if host.owned else host.root / "models")
    if models is not None:
        link_folder(models, base / "models")
    elif (base / "models").is_symlink():
        unlink_folder(base / "models")  # an earlier run's
    return running_server(
        host, base, packs=other_packs(host), extra_args=setup.arguments, cpu=False, is_guarded=True
    )


def other_packs(host: Host) -> dict[str, Path]:
    """What else is installed in this ComfyUI's custom_nodes."""
    folders = [path for path in (host.root / "custom_nodes").glob("*") if path.is_dir()]
    return {path.name: path for path in folders if path.name.lower() not in OWN_NAMES}


def graphics_cards(host: Host) -> int:
    """How many of them this ComfyUI's torch can use; 1 for Apple's."""
    code = (
        "import torch; print(torch.cuda.device_count() or int(torch.backends.mps.is_available()))"
    )
    answer = subprocess.run([host.python, "-c", code], capture_output=True, check=True)
    return int(answer.stdout)
