"""What the pack adds to ComfyUI's start, in fresh processes that have ComfyUI's imports, and to
what the server tells every editor of its nodes.

python benchmarks/start.py [--rounds 5]
"""

from __future__ import annotations

import json
import subprocess
import sys
import time
from pathlib import Path
from statistics import median

import in_host

in_host.enter()

from tables import Table, Target, at_most, main_of  # noqa: E402

from comfy_client import Client  # noqa: E402
from comfy_server import running_server  # noqa: E402
from host import ensure_host  # noqa: E402

ONCE = Path(__file__).with_name("start_once.py")
SHOWN = 5


def tables(rounds: int, folder: Path) -> list[Table]:
    table = Table(
        "Start",
        note=(
            "Each in a process of its own. The first start after an install also compiles the"
            " sources."
        ),
    )
    first, *starts = [once(folder) for _ in range(rounds + 1)]
    seconds = [start["seconds"] for start in starts]
    table.row(
        f"the pack's part of ComfyUI's start, {first['own']} modules",
        f"{1000 * median(seconds):.0f} ms",
        f"{1000 * min(seconds):.0f} to {1000 * max(seconds):.0f} ms; first start"
        f" {1000 * first['seconds']:.0f} ms",
        at_most(1000 * median(seconds), 50, "{:g} ms"),
    )
    others = first["others"]
    table.row(
        "packages imported that ComfyUI had not",
        len(others),
        ", ".join(others) or "none",
        Target("none", not others),
    )
    slowest = own_milliseconds(folder)[:SHOWN]
    table.row(
        "slowest modules",
        "",
        ", ".join(f"{name} {milliseconds:.1f} ms" for name, milliseconds in slowest),
        "",
    )
    add_memory(table, starts)
    add_object_info(table, starts, rounds, folder)
    return [table]


def add_memory(table: Table, starts: list[dict]) -> None:
    added = [start["added"] for start in starts]
    table.row(
        "resident memory of the process: ComfyUI's, and what the pack adds",
        f"{in_mib(median(start['resident'] for start in starts))} + {in_mib(median(added))}",
        f"{in_mib(min(added))} to {in_mib(max(added))}",
        "",
    )


def in_mib(count: float) -> str:
    return f"{count / 2**20:.1f} MiB"


def add_object_info(table: Table, starts: list[dict], rounds: int, folder: Path) -> None:
    """What a server with the pack answers to the editor, and the pack's part in it."""
    with running_server(ensure_host(), folder / "server") as server:
        asked = [ask(server.client) for _ in range(rounds + 1)][1:]  # the first warms up
    everything = json.loads(asked[-1][1])
    ours = {name: info for name, info in everything.items() if name.startswith("FewStep")}
    size, whole = len(json.dumps(ours)), len(json.dumps(everything))
    table.row(
        f"/object_info: the pack's {len(ours)} of {len(everything)} nodes",
        f"{size / 1000:.0f} of {whole / 1000:.0f} kB",
        f"{size / whole:.1%}",
        "",
    )
    seconds = median(seconds for seconds, _ in asked)
    own = median(start["described"] for start in starts)
    table.row(
        "the time to answer it, over HTTP, and to make the pack's part",
        f"{1000 * own:.0f} of {1000 * seconds:.0f} ms",
        f"{own / seconds:.1%}",
        "",
    )


def ask(client: Client) -> tuple[float, bytes]:
    started = time.perf_counter()
    answer = client.fetch("/object_info")
    return time.perf_counter() - started, answer


def once(folder: Path) -> dict:
    return json.loads(started(folder).stdout.splitlines()[-1])


def own_milliseconds(folder: Path) -> list[tuple[str, float]]:
    """Each module's own part, slowest first, by -X importtime, which slows them all."""
    found = []
    for line in started(folder, "-X", "importtime").stderr.splitlines():
        own, _, name = (
            line.removeprefix("import time:").replace("|", " ").partition(" comfyui_fewstep")
        )
        if name:
            found.append((name.strip(". ") or "__init__", float(own.split()[0]) / 1000))
    return sorted(found, key=lambda module: -module[1])


def started(folder: Path, *flags: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, *flags, str(ONCE), str(ensure_host().root), str(folder / "bytecode")]
    return subprocess.run(command, capture_output=True, text=True, check=True)


if __name__ == "__main__":
    main_of(__doc__, tables, rounds=5)
