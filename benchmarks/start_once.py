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
    before = set(sys.modules)
    sys.dont_write_bytecode, sys.pycache_prefix = False, cache
    started = time.perf_counter()
    extension = await load_pack().comfy_entrypoint()
    await extension.on_load()
    for node in await extension.get_node_list():
        node.GET_SCHEMA()
    seconds = time.perf_counter() - started
    new = set(sys.modules) - before
    return {
        "seconds": seconds,
        "own": sum(name.partition(".")[0] == PACK for name in new),
        "others": sorted({name.partition(".")[0] for name in new} - {PACK}),
    }


def main() -> None:
    comfyui, cache = sys.argv[1:]
    sys.argv = sys.argv[:1]  # ComfyUI reads the command line itself
    print(json.dumps(asyncio.run(start(Path(comfyui), cache))))


if __name__ == "__main__":
    main()
