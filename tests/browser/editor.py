"""Drive ComfyUI's own editor in a headless Chromium, as a person would: drop files, select nodes,
open help, press Run.
"""

from __future__ import annotations

import contextlib
import itertools
import json
import re
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from playwright.sync_api import ConsoleMessage, Page, sync_playwright

READY = "window.app && window.app.graph && window.app.extensionManager"
# Milliseconds, for everything that is waited for: a busy machine may take long, and who waits in
# vain fails all the same.
PATIENCE = 120_000
ARGUMENTS = ("--no-sandbox", "--disable-gpu", "--disable-background-networking")
WINDOW = (1600, 900)
# What the editor says of a file whose form it does not like.
FAULTY_FILE = re.compile(r"invalid workflow|duplicate subgraph|missing node", re.IGNORECASE)

DROP_FILE = """([text, name]) => {
    const files = new DataTransfer();
    files.items.add(new File([text], name, {type: "application/json"}));
    const canvas = document.querySelector("#graph-canvas");
    for (const kind of ["dragover", "drop"])
        canvas.dispatchEvent(new DragEvent(kind, {
            bubbles: true, cancelable: true, dataTransfer: files, clientX: 700, clientY: 500}));
}"""
SELECT = """type => {
    const node = app.graph.nodes.find(node => node.type === type);
    app.canvas.selectItems([node]);
    app.canvas.setDirty(true, true);
}"""
ADD_ALONE = """type => {
    app.graph.clear();
    const node = LiteGraph.createNode(type);
    app.graph.add(node);
    node.pos = [300, 250];
    app.canvas.ds.reset();
}"""
# What is in view of the template browser; scrolls on by one row.
TEMPLATE_CARDS = """() => {
    const cards = [...document.querySelectorAll("[data-testid^=template-workflow-]")]
        .filter(card => card.querySelector("img"));
    const is_low = card => card.getBoundingClientRect().top > window.innerHeight * 0.7;
    const below = cards.find(is_low) ?? cards.at(-1);
    below?.scrollIntoView({block: "start"});
    return cards.map(card => ({
        name: card.dataset.testid.replace("template-workflow-", ""),
        source: card.querySelector("img").src, width: card.querySelector("img").naturalWidth}));
}"""
TWO_FRAMES = """() => new Promise(
    done => requestAnimationFrame(() => requestAnimationFrame(done)))"""
IS_SHOWN = """wanted => [...document.querySelectorAll("span, div, li")].some(
    element => element.offsetParent && element.textContent.trim() === wanted)"""
UNKNOWN_TYPES = (
    "app.graph.nodes.map(node => node.type).filter(type => !(type in"
    " LiteGraph.registered_node_types))"
)
TEXT_ON_NODES = """type => app.graph.nodes.filter(node => node.type === type).map(
    node => (node.widgets ?? []).filter(widget => widget.name === "what was done")
        .map(widget => widget.value).join())"""
# The text of every field in view, as a person reads it, in whichever renderer.
TEXT_IN_VIEW = """() => [...document.querySelectorAll("textarea")].filter(
    element => element.offsetParent).map(element => element.value)"""

SET_WIDGET = """([type, name, value]) => {
    const node = app.graph.nodes.find(node => node.type === type);
    node.widgets.find(widget => widget.name === name).value = value;
}"""
# [title, left, top, right, bottom] of every node as it is now, its title included.
BOXES = """() => app.graph.nodes.map(node => {
    const [left, top] = node.pos, title = LiteGraph.NODE_TITLE_HEIGHT;
    const [width, height] = node.flags?.collapsed
        ? [Math.min(node.size[0], 160), 0] : node.size;
    return [node.title, left, top - title, left + width, top + height];
})"""
# The same as Nodes 2.0 draws them, in pixels of the window, with all bars below.
BOXES_IN_VUE = """() => [...document.querySelectorAll("[data-node-id]")].map(element => {
    const boxes = [element, ...element.children].map(part => part.getBoundingClientRect());
    const node = app.graph.getNodeById(element.dataset.nodeId)
        ?? app.graph.getNodeById(Number(element.dataset.nodeId));
    return [node?.title, Math.min(...boxes.map(box => box.left)) + 8,
        Math.min(...boxes.map(box => box.top)), Math.max(...boxes.map(box => box.right)) - 8,
        Math.max(...boxes.map(box => box.bottom))];
})"""
ZOOM = "app.canvas.ds.scale"


@dataclass
class Editor:
    """The editor in one browser page. errors: uncaught exceptions, and console errors that name
    this pack.
    """

    page: Page
    url: str
    errors: list[str] = field(default_factory=list)
    failed_before: int = 0  # tests of the session that had failed when the page was last loaded

    def watch(self, ours: Callable[[str], bool]) -> None:
        """Collect what goes wrong in the page; of the console only what `ours` accepts."""

        def from_console(message: ConsoleMessage) -> None:
            text = f"{message.text} {message.location.get('url', '')}"
            if (message.type == "error" and ours(text)) or FAULTY_FILE.search(message.text):
                self.errors.append(text)

        self.page.on("console", from_console)
        self.page.on("pageerror", lambda error: self.errors.append(f"uncaught: {error}"))

    def open(self) -> None:
        self.page.goto(self.url)
        self.page.wait_for_function(READY)
        # The start workflow is still loading when the graph is first there.
        self.page.wait_for_function("app.graph.nodes.length > 0")
        self.page.wait_for_timeout(500)

    def set(self, setting: str, value: Any) -> None:
        self.page.evaluate(
            "([id, value]) => app.extensionManager.setting.set(id, value)", [setting, value]
        )
        self.settle(300)

    def settle(self, milliseconds: float = 100) -> None:
        """Wait until two more pictures of the page were drawn, and so long."""
        self.page.evaluate(TWO_FRAMES)
        self.page.wait_for_timeout(milliseconds)

    def command(self, id: str) -> None:
        self.page.evaluate("id => app.extensionManager.command.execute(id)", id)

    # ----------------------------------------------------------------------------------------------

    def drop(self, path: Path) -> dict[str, Any]:
        """Drop a workflow file on the canvas, wait until it is the open one, and return what it
        says.
        """
        text = path.read_text(encoding="utf-8")
        workflow = json.loads(text)
        self.page.evaluate(DROP_FILE, [text, path.name])
        self.page.wait_for_function(
            "([id, count]) => app.graph.id === id && app.graph.nodes.length === count",
            arg=[workflow["id"], len(workflow["nodes"])],
        )
        self.settle()
        return workflow

    def api(self) -> dict[str, Any]:
        """The open graph in API format, as the editor itself would queue it.

        Of what is said about a node only its title, which every frontend writes.
        """
        nodes = self.page.evaluate("async () => (await app.graphToPrompt()).output")
        for node in nodes.values():
            node["_meta"] = {"title": node["_meta"]["title"]}
        return nodes

    def unknown_node_types(self) -> list[str]:
        return self.page.evaluate(UNKNOWN_TYPES)

    def show_only(self, type: str) -> None:
        """An empty canvas with one node on it."""
        self.page.evaluate(ADD_ALONE, type)
        self.settle()

    def set_widget(self, type: str, name: str, value: Any) -> None:
        """Enter a value on the first node of this type."""
        self.page.evaluate(SET_WIDGET, [type, name, value])

    def text_on(self, type: str) -> list[str]:
        """The text that a run left under the nodes of this type."""
        return self.page.evaluate(TEXT_ON_NODES, type)

    def text_in_view(self) -> list[str]:
        """What stands in the text fields that are shown."""
        return self.page.evaluate(TEXT_IN_VIEW)

    def overlaps(self) -> list[tuple[str, str]]:
        """The titles of every two nodes that cover each other, as the file has them and as they
        are drawn.
        """
        boxes, drawn = self.page.evaluate(BOXES), self.page.evaluate(BOXES_IN_VUE)
        pairs = [*itertools.combinations(boxes, 2), *itertools.combinations(drawn, 2)]
        return [
            (one[0], two[0])
            for one, two in pairs
            if all(max(one[k], two[k]) < min(one[k + 2], two[k + 2]) for k in (1, 2))
        ]

    def run(self, seconds: float = 900) -> None:
        """Press Run and wait until the queue is empty again."""
        before = len(self.history())
        self.page.get_by_test_id("queue-button").click()
        deadline = time.monotonic() + seconds
        while len(self.history()) == before:
            if time.monotonic() > deadline:
                raise TimeoutError(f"the graph had not run to its end after {seconds:g} s")
            self.page.wait_for_timeout(200)
        # What an editor clears when a job ends is gone then.
        self.settle(1000)

    def history(self) -> dict[str, Any]:
        return self.page.evaluate("async () => (await fetch('/history')).json()")

    # ----------------------------------------------------------------------------------------------

    def help_text(self, type: str, title: str) -> str:
        """Select the node, press its info button, and return the text of the help panel once it
        shows the page of this title.
        """
        self.page.evaluate(SELECT, type)
        # Not the mouse: on a slow machine the toolbox still follows the node, or a message lies
        # over it for a while.
        self.page.get_by_test_id("info-button").dispatch_event("click")
        panel = self.page.get_by_test_id("properties-panel")
        panel.locator("h1").get_by_text(title, exact=True).first.wait_for()
        self.page.wait_for_function("[...document.images].every(image => image.complete)")
        return panel.inner_text()

    def templates(self, pack: str, count: int) -> dict[str, dict[str, Any]]:
        """Open the template browser on this pack: source and width of the picture of each template,
        by name.

        Pictures are loaded when they come into view, so it scrolls until `count` templates have
        been seen with theirs.
        """
        self.command("Comfy.BrowseTemplates")
        entry = self.page.get_by_text(pack, exact=True)
        entry.wait_for()
        entry.click()
        seen: dict[str, dict[str, Any]] = {}
        for _ in range(PATIENCE // 300):
            self.page.wait_for_timeout(300)
            cards = self.page.evaluate(TEMPLATE_CARDS)
            seen |= {
                card.pop("name"): card
                for card in cards
                if card["width"] or card["name"] not in seen
            }
            if len(seen) >= count and all(card["width"] for card in seen.values()):
                break
        return seen

    def search(self, words: str, wanted: str) -> None:
        """Open the search for nodes, type, and wait until a node of this name is offered.

        By its command: of a double click a busy machine makes two single ones.
        """
        self.close_dialogs()
        self.command("Workspace.SearchBox.Toggle")
        self.page.wait_for_function("document.activeElement.tagName === 'INPUT'")
        self.page.keyboard.type(words)
        self.page.wait_for_function(IS_SHOWN, arg=wanted)

    def close_dialogs(self) -> None:
        self.page.keyboard.press("Escape")
        self.settle()

    def picture(self, path: Path, clip: dict[str, float] | None = None) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        self.page.screenshot(path=str(path), clip=clip)  # type: ignore[arg-type]


@contextlib.contextmanager
def open_editor(url: str, chromium: str, pack: str) -> Iterator[Editor]:
    """An editor that is ready. Of the console's errors those are kept that name the pack.

    Left out are help pages that have no translation, which the editor asks for first, and its own
    calls to other sites.
    """
    not_ours = re.compile(
        rf"404.*{re.escape(pack)}/docs/\w+/\w+\.md|https://(api\.comfy\.org|huggingface\.co)"
    )

    def ours(text: str) -> bool:
        return "few" in text.lower() and "step" in text.lower() and not not_ours.search(text)

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium, args=list(ARGUMENTS))
        page = browser.new_page(viewport={"width": WINDOW[0], "height": WINDOW[1]})
        page.set_default_timeout(PATIENCE)
        editor = Editor(page, url)
        editor.watch(ours)
        editor.open()
        yield editor
        browser.close()
