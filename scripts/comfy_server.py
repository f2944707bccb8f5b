"""Run a real ComfyUI server with the pack, on its own port and in its own folders.

Nothing in the ComfyUI tree is changed. All that a run reads and writes lies under its base
directory: models/, custom_nodes/, input/, output/, temp/, user/ and server.log. Standard library
only.
"""

from __future__ import annotations

import contextlib
import os
import random
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from comfy_client import Client
from guard import guarded
from host import ROOT, Host, pack_requirements_missing, say

PACK_NAME = "ComfyUI-FewStep"
START_SECONDS = 300
# Below those that a system gives to whoever asks for any port or opens a connection: from 32768 on
# Linux, from 49152 elsewhere.
PORTS = range(20000, 32000)


class ServerError(RuntimeError):
    """The server did not start or died; the message ends with the last lines of its log."""


@dataclass(frozen=True)
class Server:
    """A running server."""

    client: Client  # its address is `client.url`
    base: Path  # what it reads and writes lies under this folder
    log: Path  # what it prints
    process: subprocess.Popen

    @property
    def is_alive(self) -> bool:
        return self.process.poll() is None

    def tail(self, lines: int = 40) -> str:
        """The last lines of the log."""
        return log_tail(self.log, lines)


@contextlib.contextmanager
def running_server(
    host: Host,
    base: Path,
    *,
    port: int | None = None,
    packs: Mapping[str, Path] | None = None,
    extra_args: Sequence[str] = (),
    cpu: bool = True,
    is_guarded: bool = False,
) -> Iterator[Server]:
    """A server that answers, with the pack and further custom nodes; killed on the way out.

    is_guarded: also where this process is killed and has no way out.
    What a user's own install lacks of the pack's requirements is said before the server is started.
    """
    if missing := pack_requirements_missing(host):
        say(f"Some nodes need {missing}")
    prepare_base(base, {PACK_NAME: ROOT, **(packs or {})})
    port = port or free_port()
    log = base / "server.log"
    with log.open("ab") as output:
        process = start(host, base, port, [*(["--cpu"] if cpu else []), *extra_args], output)
    server = Server(Client(f"http://127.0.0.1:{port}"), base, log, process)
    try:
        with guarded(process) if is_guarded else contextlib.nullcontext():
            wait_until_up(server)
            yield server
    finally:
        stop(process)


def prepare_base(base: Path, packs: Mapping[str, Path]) -> None:
    """Make the folders a server needs and link the custom node packs."""
    for folder in ("models", "custom_nodes", "input", "output", "temp", "user"):
        (base / folder).mkdir(parents=True, exist_ok=True)
    for name, source in packs.items():
        link_folder(source, base / "custom_nodes" / name)


def link_folder(source: Path, link: Path) -> None:
    """Make `link` lead to the folder `source`: a symlink, or a junction (no rights needed)."""
    if link.exists() and link.resolve() == source.resolve():
        return
    unlink_folder(link)
    if sys.platform == "win32":
        subprocess.run(
            ["cmd", "/c", "mklink", "/J", str(link), str(source)], check=True, capture_output=True
        )
    else:
        link.symlink_to(source, target_is_directory=True)


def unlink_folder(link: Path) -> None:
    """Remove a link made by link_folder, never what it leads to; or a folder in its place that
    nothing is in. Raises ServerError where something is.
    """
    if link.is_symlink():
        link.unlink()
    elif link.is_dir():
        try:
            link.rmdir()  # a junction, too
        except OSError as error:
            raise ServerError(
                f"{link} should be a link and is a folder with files in it: move them away."
            ) from error


def server_command(host: Host, base: Path, port: int) -> list[str]:
    """What starts a ComfyUI that reads and writes under `base` alone."""
    return [
        str(host.python),
        str(host.root / "main.py"),
        "--base-directory",
        str(base),
        "--port",
        str(port),
        "--listen",
        "127.0.0.1",
        "--database-url",
        f"sqlite:///{base / 'user' / 'comfyui.db'}",
        "--disable-auto-launch",
        "--disable-api-nodes",
    ]


def start(host: Host, base: Path, port: int, extra_args: Sequence[str], output) -> subprocess.Popen:
    """Start main.py in a process group of its own, to be ended with all its children."""
    command = [*server_command(host, base, port), *extra_args]
    # 0x200 is CREATE_NEW_PROCESS_GROUP.
    group = {"creationflags": 0x200} if sys.platform == "win32" else {"start_new_session": True}
    environment = {**os.environ, "PYTHONUNBUFFERED": "1", "PYTHONIOENCODING": "utf-8"}
    if "PYTHONPATH" in environment:
        environment["PYTHONPATH"] = without_own_folders(environment["PYTHONPATH"])
    return subprocess.Popen(
        command,
        cwd=base,
        stdin=subprocess.DEVNULL,
        stdout=output,
        stderr=subprocess.STDOUT,
        env=environment,
        **group,
    )


def without_own_folders(python_path: str) -> str:
    """A PYTHONPATH without this repository, where `nodes` and others have names of ComfyUI's."""
    own = (ROOT, ROOT / "scripts")
    return os.pathsep.join(
        entry for entry in python_path.split(os.pathsep) if Path(entry).resolve() not in own
    )


def wait_until_up(server: Server) -> None:
    """Return once /system_stats answers; raise with the log's end if it dies or is too slow."""
    deadline = time.monotonic() + START_SECONDS
    while time.monotonic() < deadline:
        if not server.is_alive:
            raise ServerError(
                f"the server ended (exit {server.process.returncode}) while"
                f" starting:\n{server.tail()}"
            )
        with contextlib.suppress(OSError):
            server.client.get("/system_stats")
            return
        time.sleep(0.2)
    raise ServerError(f"the server did not answer within {START_SECONDS} s:\n{server.tail()}")


def stop(process: subprocess.Popen) -> None:
    """End the server and all it started: ask first, insist after ten seconds."""
    if process.poll() is not None:
        return
    if sys.platform == "win32":
        subprocess.run(["taskkill", "/F", "/T", "/PID", str(process.pid)], capture_output=True)
        process.wait()
        return
    for sign in (signal.SIGINT, signal.SIGKILL):
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, sign)
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(timeout=10)
            return


def free_port() -> int:
    """A port that nothing listens on, and that no system hands out before the server takes it."""
    for port in random.SystemRandom().sample(PORTS, 100):
        with socket.socket() as probe, contextlib.suppress(OSError):
            probe.bind(("127.0.0.1", port))
            return port
    raise ServerError(f"no free port between {PORTS[0]} and {PORTS[-1]}")


def log_tail(log: Path, lines: int) -> str:
    """The last lines of a log file."""
    return "\n".join(log.read_text(encoding="utf-8", errors="replace").splitlines()[-lines:])
