"""The host's server: its version, its queue, the graph it runs, and text under a node."""

from __future__ import annotations

import sys
from collections.abc import Awaitable, Callable
from typing import Any

from comfy_execution.graph_utils import ExecutionBlocker


def version() -> str:
    """ComfyUI's own version."""
    import comfyui_version

    return comfyui_version.__version__


def running_server():
    """The host's server in this process; None in tests and in other people's programs."""
    # Where a server runs its module is loaded; importing it here would fail in programs that use
    # 0.16 without one.
    return getattr(getattr(sys.modules.get("server"), "PromptServer", None), "instance", None)


def add_route(method: str, path: str, answer: Callable[[Any], Awaitable[tuple[int, Any]]]) -> None:
    """Have the server answer at a path, as long as it has not begun to listen. Nothing where no
    server runs. answer: of the request, the HTTP status and what is sent as JSON.
    """
    server = running_server()
    if server is None:
        return
    # The library that the host's server is made with, as the host has it.
    web = sys.modules["server"].web

    async def handle(request):
        status, data = await answer(request)
        return web.json_response(data, status=status)

    server.routes.route(method, path)(handle)


def drop_cached_results() -> None:
    """Have the server forget node results once this run ends, as POST /free does.

    Models stay loaded.
    """
    queue = getattr(running_server(), "prompt_queue", None)
    if queue is not None:
        queue.set_flag("unload_models", False)
        queue.set_flag("free_memory", True)


def node_id_of(hidden: Any) -> str:
    """The node's id in the graph; empty where it is called from Python."""
    return str(getattr(hidden, "unique_id", None) or "")


def is_connected(hidden: Any, output: int) -> bool:
    """Whether something in the graph is connected to this output of the node, counted from 0.

    hidden: with unique_id and prompt. False where there is no graph to look at, and for a node that
    other nodes make while the graph runs: the prompt shows what was queued.
    """
    link = [node_id_of(hidden), output]
    nodes = (getattr(hidden, "prompt", None) or {}).values()
    return any(value == link for node in nodes for value in node.get("inputs", {}).values())


def missing_output(reason: str) -> ExecutionBlocker:
    """The value of an output that was not made. Where nothing is connected it does no harm. A node
    that gets it all the same does not run, and the editor is told why: by a connection that the
    prompt does not show, or by one that was made when the result was in the host's cache already.

    One value among a node's outputs, never instead of them: a V3 node blocked as a whole ends the
    job with "list index out of range" on ComfyUI 0.30, and hands on None on 0.16.
    """
    return ExecutionBlocker(reason)


def show_on_node(text: str, node_id: str | None) -> None:
    """Text under the node in the editor that queued this run; nothing where there is none.

    web/report.js puts it there, and there it stays.
    """
    server = running_server()
    client = getattr(server, "client_id", None)
    # Without a client the host would show it to every editor that is open, under a node of theirs.
    if client is not None and node_id is not None:
        # Not the host's progress text, which frontends from 1.55 on clear when the job ends. The
        # class goes with it: in another tab's graph another node may have this id.
        told = {"node": node_id, "type": _class_at(server, node_id), "text": text}
        server.send_sync("fewstep.told", told, client)


def _class_at(server, node_id: str) -> str | None:
    """The class of a node of the prompt that runs; None where the host does not say."""
    queue = getattr(server, "prompt_queue", None)
    running = getattr(queue, "currently_running", {})
    nodes = (item[2].get(node_id) for item in list(running.values()))
    return next((node["class_type"] for node in nodes if node), None)
