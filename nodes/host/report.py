"""How nodes say what they did: a text output, data in /history, a log line, text on the node."""

from __future__ import annotations

import logging
import math
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, fields
from typing import Any

from comfy_api.v0_0_2 import io

from .model import LoaderNews
from .server import show_on_node

log = logging.getLogger(__name__)
# As Python writes NaN and infinity, where they stand alone and not in a name.
NO_NUMBER = r"(?<![\w./\\-])-?(?:nan|inf)x?(?![\w./\\-])"
# For a node's schema: the report of a node whose result comes out of the host's cache is sent
# again, so that it is there after the page was loaded anew. ComfyUI 0.16 does not know it.
CACHED_UI = "has_intermediate_output"
SENT_AGAIN = {CACHED_UI: True} if CACHED_UI in {each.name for each in fields(io.Schema)} else {}


@dataclass(frozen=True)
class Report:
    """What a node did, for people and programs.

    NaN or infinity leaves a node in words here, and as null in data:
    json.dumps would write it as it is, and strict readers then refuse the whole history.
    """

    node: str
    summary: str  # the one line for the log and the node
    rows: tuple[tuple[str, str], ...]  # (what, value) in reading order
    notes: tuple[str, ...] = ()
    data: dict[str, Any] = field(default_factory=dict)  # the same for programs
    details: tuple[tuple[str, str], ...] = ()  # rows for those who want to know more
    sections: tuple[str, ...] = ()  # Markdown that stands below all that

    @property
    def markdown(self) -> str:
        """Markdown that reads well as it is written: Preview as Text shows it so at first."""
        heading = f"{self.node}: {without_nan(self.summary)}" if self.summary else self.node
        return "\n\n".join(
            [
                "\n".join([heading, "", *listed(self.rows)]),
                *(paragraph("Notes", [f"- {note}" for note in self.notes])),
                *(paragraph("Details", listed(self.details))),
                *self.sections,
            ]
        )

    @property
    def on_node(self) -> str:
        """What stands under the node: web/report.js says the same of the data."""
        return "\n\n".join([without_nan(self.summary), *self.notes])

    def publish(self, hidden: Any) -> dict[str, list[dict[str, Any]]]:
        """Log it, show it on the node, and return the `ui` value that carries it into /history.

        hidden: the node class's hidden inputs; None when a node is called from Python instead of by
        a graph.
        """
        summary = without_nan(self.summary)
        data = {"node": self.node, "summary": summary, "notes": list(self.notes), **self.data}
        published = {"fewstep_report": [numbers_only(data)]}
        log.info("%s: %s", self.node, summary)
        show_on_node(self.on_node, getattr(hidden, "unique_id", None))
        return published


def listed(rows: Iterable[tuple[str, str]]) -> list[str]:
    """Two columns as a list."""
    return [f"- {name}: {without_nan(' '.join(value.split()))}" for name, value in rows]


def paragraph(title: str, lines: Sequence[str]) -> tuple[str, ...]:
    """The lines under a title; nothing where there are none."""
    return ("\n".join([f"{title}:", "", *lines]),) if lines else ()


def rows_on_loaders(news: Iterable[LoaderNews]) -> tuple[tuple[str, str], ...]:
    """What the loaders in front of a sampler put on its models, and under which licences."""
    news = list(news)
    licences = sorted({each.licence for each in news if each.licence})
    return (
        *((each.node, each.summary) for each in news),
        *(("licence", licence) for licence in licences),
    )


def notes_of_loaders(news: Iterable[LoaderNews]) -> list[str]:
    """Their notes; what the loaders of a pair both say, once."""
    notes: list[str] = []
    for note in (note for each in news for note in each.notes):
        if note not in notes:
            notes.append(note)
    return notes


def without_nan(text: str) -> str:
    """The text, with "not a number" where one should stand and does not."""
    # A look for the words first: nearly all texts are without them.
    if "nan" not in text and "inf" not in text:
        return text
    return re.sub(NO_NUMBER, "not a number", text)


def numbers_only(value: Any) -> Any:
    """The same data with None for NaN and infinity."""
    # What there is most of first: each of these questions takes a while.
    if value is None or isinstance(value, str | int):
        return value
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, list | tuple):
        return [numbers_only(each) for each in value]
    if isinstance(value, Mapping):
        return {key: numbers_only(each) for key, each in value.items()}
    return value
