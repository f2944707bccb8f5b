"""How nodes say what they did: Markdown on an output, data in /history, one log line, a line under
the node.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass, field
from typing import Any

from .server import show_on_node

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Report:
    """summary: the one line for the log and the node. rows: (what, value) in reading order. data:
    the same for programs.
    """

    node: str
    summary: str
    rows: tuple[tuple[str, str], ...]
    notes: tuple[str, ...] = ()
    data: dict[str, Any] = field(default_factory=dict)

    @property
    def markdown(self) -> str:
        # Two columns as a list: the editor's Preview as Text shows it as it is written.
        rows = (f"- {name}: {' '.join(value.split())}" for name, value in self.rows)
        notes = ("", "Notes:", "", *(f"- {note}" for note in self.notes)) if self.notes else ()
        return "\n".join([f"**{self.node}**", "", *rows, *notes])

    def publish(self, hidden: Any) -> dict[str, list[dict[str, Any]]]:
        """Log it, show it on the node, and return the `ui` value that carries it into /history.

        hidden: the node class's hidden inputs; None when a node is called from Python instead of by
        a graph.
        """
        log.info("%s: %s", self.node, self.summary)
        show_on_node(self.summary, getattr(hidden, "unique_id", None))
        return {
            "fewstep_report": [
                {"node": self.node, "summary": self.summary, "notes": list(self.notes), **self.data}
            ]
        }


def in_figures(seconds: float) -> str:
    """Three figures or more, large numbers never as a power of ten: 0.0431, 4.26, 1200.
    Speed-Quality Compare divides by them.
    """
    return f"{seconds:.3g}" if seconds < 100 else f"{seconds:.0f}"
