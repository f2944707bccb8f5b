"""Every node has a help page that names all of it and shows a picture."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

import node_schema

DOCS = Path(__file__).resolve().parent.parent / "web" / "docs"
OURS = {id: node for id, node in node_schema.load().items() if id.startswith("FewStep")}
HEADINGS = ("## Inputs", "## Outputs", "## What to connect", "## Common mistakes")

each_node = pytest.mark.parametrize("id", OURS)


def page_of(id: str) -> str:
    return (DOCS / f"{id}.md").read_text(encoding="utf-8")


@each_node
def test_page_says_everything(id: str) -> None:
    page = page_of(id)
    assert page.startswith(f"# {OURS[id].display_name}\n")
    assert [heading for heading in HEADINGS if heading not in page] == []


@each_node
def test_every_input_and_output_is_explained(id: str) -> None:
    page = page_of(id)
    inputs, outputs = page.split("## Inputs")[1].split("## Outputs")
    outputs = outputs.split("## What to connect")[0]
    assert [entry.name for entry in OURS[id].inputs if f"**{entry.name}**" not in inputs] == []
    assert [name for name, _ in OURS[id].outputs if f"**{name}**" not in outputs] == []


@each_node
def test_page_explains_nothing_that_is_not_there(id: str) -> None:
    page = page_of(id)
    listed = re.findall(
        r"^- ((?:\*\*\w+\*\*(?:, )?)+)",
        page.split("## Inputs")[1].split("## What to connect")[0],
        re.MULTILINE,
    )
    names = {name for item in listed for name in re.findall(r"\*\*(\w+)\*\*", item)}
    known = {entry.name for entry in OURS[id].inputs} | {name for name, _ in OURS[id].outputs}
    assert names - known == set()


@each_node
def test_picture_is_there(id: str) -> None:
    pictures = re.findall(r"!\[[^\]]+\]\(([^)]+)\)", page_of(id))
    assert pictures
    for picture in pictures:
        assert (DOCS / picture).read_bytes().startswith(b"\x89PNG")
        assert (DOCS / picture).stat().st_size < 120_000


@each_node
def test_no_code_word_is_wider_than_the_panel(id: str) -> None:
    """The panel does not break a word of code. At its first width a list item holds 28 signs of it;
    a table can be scrolled.
    """
    text = "\n".join(line for line in page_of(id).splitlines() if not line.startswith("|"))
    assert [
        word for code in re.findall(r"`([^`]+)`", text) for word in code.split() if len(word) > 28
    ] == []


def test_no_page_is_left_over() -> None:
    assert {path.stem for path in DOCS.glob("*.md")} == set(OURS)


@pytest.mark.parametrize("id", OURS)
def test_newer_frontends_find_the_page_in_english_where_they_look_first(id: str) -> None:
    copy = DOCS / id / "en.md"
    assert copy.read_text(encoding="utf-8") == page_of(id), "run scripts/build/build_workflows.py"
