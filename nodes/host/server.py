"""The host's server: its version, its queue, and text under a node."""

from __future__ import annotations

import sys

from comfy_execution.graph_utils import ExecutionBlocker


def version() -> str:
    """ComfyUI's own version."""
    import comfyui_version

    return comfyui_version.__version__


def running_server():
    """The host's server in this process, or None where there is none: in tests and in programs of
    other people.
    """
    # Where a server runs its module is loaded; importing it here would fail in programs that use
    # 0.16 without one.
    return getattr(getattr(sys.modules.get("server"), "PromptServer", None), "instance", None)


def drop_cached_results() -> None:
    """Have the server forget the results of nodes once this run has ended, as POST /free does;
    models stay loaded.
    """
    queue = getattr(running_server(), "prompt_queue", None)
    if queue is not None:
        queue.set_flag("unload_models", False)
        queue.set_flag("free_memory", True)


def missing_output(reason: str) -> ExecutionBlocker:
    """What to return for an output that there is nothing for: nodes connected to it fail with the
    reason, the others run.
    """
    return ExecutionBlocker(reason)


def show_on_node(text: str, node_id: str | None) -> None:
    """Text under the node in the editor that queued this run. Does nothing where there is none, as
    in tests and for API callers.
    """
    server = running_server()
    client = getattr(server, "client_id", None)
    # Without a client the host would show it to every editor that is open, under a node of theirs.
    if client is not None and node_id is not None:
        server.send_progress_text(text, node_id, client)
