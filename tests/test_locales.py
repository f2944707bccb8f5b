"""The translations: every language has every text, and what the code says today is what was
translated.
"""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest

import locale_texts
from node_schema import load

ROOT = Path(__file__).resolve().parent.parent
LANGUAGES = ("zh", "ja", "ko", "ru", "fr", "es", "de")
ENGLISH = json.loads((ROOT / "locales" / "en" / "nodeDefs.json").read_text(encoding="utf-8"))
# Names that are the same word everywhere, or in some languages.
SAME_WORD = {"cfg", "TeaCache", "teacache", "CFG", "sigmas", "auto", "vae", "latent"}

each_language = pytest.mark.parametrize("language", LANGUAGES)


def memory_of(language: str) -> dict[str, str]:
    return json.loads(
        (ROOT / "scripts" / "build" / "translations" / f"{language}.json").read_text(
            encoding="utf-8"
        )
    )


def keys_of(texts: Any) -> Any:
    return (
        {key: keys_of(value) for key, value in texts.items()} if isinstance(texts, dict) else None
    )


def test_english_covers_every_node_input_and_output() -> None:
    ours = {id: node for id, node in load().items() if id.startswith("FewStep")}
    assert set(ENGLISH) == set(ours)
    for id, node in ours.items():
        assert set(ENGLISH[id]["inputs"]) == {entry.name for entry in node.inputs}
        assert list(ENGLISH[id]["outputs"]) == [str(slot) for slot in range(len(node.outputs))]
        # Every input and output says what it is for.
        assert all(locale_texts.every_text(ENGLISH[id]))


@each_language
def test_every_text_is_translated(language: str) -> None:
    memory = memory_of(language)
    missing = sorted(set(locale_texts.every_text(ENGLISH)) - set(memory))
    assert missing == [], f"scripts/build/translations/{language}.json lacks these"
    same = [text for text, words in memory.items() if text == words and text not in SAME_WORD]
    assert [text for text in same if " " in text] == []


def holds(text: str, word: str, after: str = r"(?![\w'])") -> bool:
    """Whether the word stands in the text by itself, beside Chinese signs too. "model's" does not
    name the choice model.
    """
    return re.search(rf"(?<![\w-]){re.escape(word)}{after}", text, re.ASCII) is not None


def menu_choices_named() -> list[tuple[str, str]]:
    """(English tooltip, choice of a menu that it names).

    The menu's own tooltip names it as a word; another input's of the same node only as "choice:
    what this input means then".
    """
    named = set()
    for id, node in load().items():
        menus = {
            entry.name: entry.options
            for entry in node.inputs
            if id.startswith("FewStep") and entry.options
        }
        for menu, choices in menus.items():
            for name, texts in ENGLISH[id]["inputs"].items():
                after = {} if name == menu else {"after": ":"}
                named |= {
                    (texts["tooltip"], choice)
                    for choice in choices
                    if holds(texts["tooltip"], choice, **after)
                }
    return sorted(named)


def test_menu_choices_are_found_where_texts_name_them() -> None:
    choices = {choice for _, choice in menu_choices_named()}
    assert choices == {
        "none",
        "auto",
        "batch",
        "interactive",
        "live",
        "base",
        "causal",
        "forecast",
        "teacache",
    }
    assert len(menu_choices_named()) == 13


@each_language
def test_translated_text_names_menu_choices_as_the_menu_shows_them(language: str) -> None:
    # ComfyUI's frontend does not translate the entries of a menu.
    memory = memory_of(language)
    assert [
        (choice, memory[text])
        for text, choice in menu_choices_named()
        if not holds(memory[text], choice)
    ] == []


@each_language
def test_no_translation_is_left_over(language: str) -> None:
    used = {*locale_texts.every_text(ENGLISH), locale_texts.CATEGORY}
    assert sorted(set(memory_of(language)) - used) == []


@each_language
def test_locale_file_is_built_from_the_translations(language: str) -> None:
    built = locale_texts.locale_files(ENGLISH)
    for name in ("nodeDefs.json", "main.json"):
        path = ROOT / "locales" / language / name
        assert path.read_text(encoding="utf-8") == built[path], (
            "run python scripts/build/build_workflows.py"
        )
    translated = json.loads(
        (ROOT / "locales" / language / "nodeDefs.json").read_text(encoding="utf-8")
    )
    assert keys_of(translated) == keys_of(ENGLISH)


@each_language
def test_no_text_has_signs_that_the_editor_reads_as_code(language: str) -> None:
    # vue-i18n: {placeholder}, @:link, plural | forms.
    assert [words for words in memory_of(language).values() if set("{}@|") & set(words)] == []
    assert [text for text in locale_texts.every_text(ENGLISH) if set("{}@|") & set(text)] == []
