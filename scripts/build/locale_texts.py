"""locales/<language>/nodeDefs.json: every text of our nodes that a person reads.

The English ones come from the running server's /object_info. translations/<language>.json says each
of them in another language, English text -> translation, so that a changed text asks for a new
translation: tests/test_locales.py fails until it is there.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from node_schema import Node, node_of
from workflow_graph import OUR_PREFIX

ROOT = Path(__file__).resolve().parents[2]
LOCALES = ROOT / "locales"
TRANSLATIONS = ROOT / "scripts" / "build" / "translations"
CATEGORY = "few-step"

# An accelerator's id is its name in every language; only the words beside them are translated.
TRANSLATED_OPTIONS = {"lora_name": ("none",), "accelerator": ("auto",)}


# Of sockets: older frontends show a display name of theirs in every language, so these stand here
# alone.
LABELS = {"model_low_noise": "model_low_noise (Wan 2.2)"}


def english(info: dict[str, Any]) -> dict[str, Any]:
    """The English texts by node id, in the form of ComfyUI's locale files."""
    return {
        id: texts_of(node_of(id, entry), entry)
        for id, entry in sorted(info.items())
        if id.startswith(OUR_PREFIX)
    }


def texts_of(node: Node, entry: dict[str, Any]) -> dict[str, Any]:
    specs = {**entry["input"].get("required", {}), **entry["input"].get("optional", {})}
    tooltips = entry.get("output_tooltips") or [None] * len(node.outputs)
    return {
        "display_name": node.display_name,
        "description": entry["description"],
        "inputs": {
            name: {
                "name": LABELS.get(name) or spec[1].get("display_name") or name,
                "tooltip": spec[1]["tooltip"],
                **options_of(name, node),
            }
            for name, spec in specs.items()
        },
        "outputs": {
            str(slot): {"name": name, "tooltip": tooltip}
            for slot, ((name, _), tooltip) in enumerate(zip(node.outputs, tooltips))
        },
    }


def options_of(name: str, node: Node) -> dict[str, Any]:
    options = node.input(name).options
    # Files come and go; these lists are no texts.
    wanted = TRANSLATED_OPTIONS.get(name, () if name.endswith("_name") else options)
    return {"options": {option: option for option in wanted}} if wanted else {}


def locale_files(english_texts: dict[str, Any]) -> dict[Path, str]:
    """Path -> text of every locale file. Texts without a translation stay English."""
    files = {LOCALES / "en" / "nodeDefs.json": as_text(english_texts)}
    for path in sorted(TRANSLATIONS.glob("*.json")):
        memory = json.loads(path.read_text(encoding="utf-8"))
        files[LOCALES / path.stem / "nodeDefs.json"] = as_text(translated(english_texts, memory))
        files[LOCALES / path.stem / "main.json"] = as_text(
            {"nodeCategories": {CATEGORY: memory[CATEGORY]}}
        )
    return files


def translated(texts: Any, memory: Mapping[str, str]) -> Any:
    if isinstance(texts, dict):
        return {key: translated(value, memory) for key, value in texts.items()}
    return memory.get(texts, texts)


def every_text(texts: Any) -> Iterator[str]:
    if isinstance(texts, dict):
        for value in texts.values():
            yield from every_text(value)
    else:
        yield texts


def as_text(data: Any) -> str:
    return json.dumps(data, indent=2, ensure_ascii=False) + "\n"
