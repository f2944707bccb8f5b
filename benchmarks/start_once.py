"""One start of ComfyUI with the pack in it, for start.py: prints what the pack added, as JSON.

    python start_once.py COMFYUI CACHE

COMFYUI: the tree. CACHE: where the pack's bytecode is kept, as in an install that was started
before.
"""

from __future__ import annotations

import asyncio
import json
import sys
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent


async def start(comfyui: Path, cache: str) -> dict:
    """Everything of ComfyUI's first, then the pack as nodes.py loads it."""
    sys.path += [str(ROOT / "tests" / "host"), str(ROOT / "scripts")]
    from enter_host import enter_host
    from pack_loader import PACK, load_pack

    enter_host(comfyui)
    import server  # noqa: F401

    import nodes

    await nodes.init_builtin_extra_nodes()
    before, resident = set(sys.modules), resident_bytes()
    sys.dont_write_bytecode, sys.pycache_prefix = False, cache
    started = time.perf_counter()
    extension = await load_pack().comfy_entrypoint()
    await extension.on_load()
    listed = await extension.get_node_list()
    for node in listed:
        node.GET_SCHEMA()
    seconds = time.perf_counter() - started
    added = resident_bytes() - resident
    new = set(sys.modules) - before
    return {
        "seconds": seconds,
        "own": sum(name.partition(".")[0] == PACK for name in new),
        "others": sorted({name.partition(".")[0] for name in new} - {PACK}),
        "resident": resident,
        "added": added,
        "described": described_in(listed),
    }


def resident_bytes() -> int:
    """Of this process, once what it no longer needs is gone."""
    import gc

    import psutil

    gc.collect()
    return psutil.Process().memory_info().rss


def described_in(listed: list) -> float:
    """Seconds in which the server makes the pack's part of its answer to /object_info."""
    started = time.perf_counter()
    json.dumps([node.GET_NODE_INFO_V1() for node in listed])
    return time.perf_counter() - started


def main() -> None:
    comfyui, cache = sys.argv[1:]
    sys.argv = sys.argv[:1]  # ComfyUI reads the command line itself
    print(json.dumps(asyncio.run(start(Path(comfyui), cache))))


if __name__ == "__main__":
    main()
