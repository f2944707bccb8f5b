"""The pages on accelerators are what the catalogue says, now; those for contributors name what is
there.
"""

from __future__ import annotations

import ast
import re

import pytest
from comfyui_fewstep.loras.bases import Base
from comfyui_fewstep.loras.catalog import CATALOG
from comfyui_fewstep.loras.declaration import ENTRIES, SCHEDULES, SOLVERS, parse_declaration

import build_docs


def test_every_page_of_accelerators_is_current_and_there_is_no_other():
    assert build_docs.stale(build_docs.pages()) == [], "run python scripts/build/build_docs.py"


def test_every_family_has_a_page_of_its_own_that_the_index_leads_to():
    index = build_docs.INDEX.read_text(encoding="utf-8")
    paths = {family: build_docs.page_of(family) for family in build_docs.families()}
    assert len(set(paths.values())) == len(paths) and build_docs.INDEX not in paths.values()
    assert [
        family for family, path in paths.items() if f"[{family}]({path.name})" not in index
    ] == []


def test_the_table_of_the_readme_is_current_and_has_every_family():
    page = build_docs.README.read_text(encoding="utf-8")
    assert page == build_docs.readme(), "run python scripts/build/build_docs.py"
    assert [
        family
        for family in {record.family for record in CATALOG.values()}
        if f"[{family}](docs/accelerators/" not in page
    ] == []


def test_every_record_and_every_file_is_on_the_page_of_its_family():
    pages = build_docs.pages()
    for record in CATALOG.values():
        page = pages[build_docs.page_of(record.family)]
        assert f"`{record.id}`" in page and f"\n## {record.id}\n" in page
        assert all((file.url or file.path) in page for file in record.files)
        assert str(record.licence) in " ".join(page.split())


def test_a_page_has_one_file_on_each_line_and_wraps_its_text():
    for path, page in build_docs.pages().items():
        is_table_alone = path in (build_docs.README, build_docs.DECLARING)
        lines = [] if is_table_alone else page.splitlines()
        assert [line for line in lines if line.count("https://") > 1] == []
        long = [line for line in lines if len(line) > build_docs.COLUMNS]
        assert [line for line in long if not line.startswith(("|", "- ["))] == []


def test_the_packs_own_files_are_said_to_come_with_it():
    # Those of an unknown repository have as little an address.
    told = {
        file.name: build_docs.origin_of(file)
        for record in CATALOG.values()
        for file in record.files
        if not file.repo
    }
    own = {name for name, words in told.items() if "comes with this pack" in words}
    assert own == {
        file.name for record in CATALOG.values() if record.family == "Demo" for file in record.files
    }
    assert all("repository not known" in words for name, words in told.items() if name not in own)


def test_the_page_on_declarations_knows_every_entry_and_its_examples_work():
    page = (build_docs.ROOT / "docs" / "declaring-accelerators.md").read_text(encoding="utf-8")
    assert [
        name
        for name in (*ENTRIES, *SCHEDULES, *(base.name for base in Base), *SOLVERS)
        if f"`{name}`" not in page
    ] == []
    examples = re.findall(r"```json\n(.*?)```", page, re.DOTALL)
    assert [parse_declaration(example, "my_lora.fewstep.json").id for example in examples] == [
        "my-lora",
        "my-lora",
        "my-lora",
    ]


FOR_CONTRIBUTORS = ("docs/architecture.md", "CONTRIBUTING.md")


def page_for_contributors(name: str) -> str:
    return " ".join((build_docs.ROOT / name).read_text(encoding="utf-8").split())


@pytest.mark.parametrize("name", FOR_CONTRIBUTORS)
def test_every_file_that_a_page_for_contributors_names_is_there(name):
    page = page_for_contributors(name)
    paths = re.findall(r"[`(]((?:[\w.-]+/)+[\w.-]*)[`)]", page)
    paths += re.findall(r"python ([\w./-]+\.py)", page)
    assert len(paths) > 20
    # A link is relative to its page; your_method.py is still to be written.
    folders = (build_docs.ROOT, (build_docs.ROOT / name).parent)
    assert [
        path
        for path in paths
        if "your_" not in path and not any((folder / path).exists() for folder in folders)
    ] == []


@pytest.mark.parametrize("name", FOR_CONTRIBUTORS)
def test_everything_that_is_named_beside_its_file_is_defined_there(name):
    page = page_for_contributors(name)
    places = re.findall(r"`([\w/]+\.py)`, `(\w+)`", page)
    named_first = re.findall(r"`(\w+)`,? (?:in |\()`([\w/]+\.py)`", page)
    places += [(path, defined) for defined, path in named_first]
    assert places
    for path, defined in places:
        tree = ast.parse((build_docs.ROOT / path).read_text(encoding="utf-8"))
        assert defined in top_level_names(tree), f"{name}: {path} has no {defined}"


def top_level_names(tree: ast.Module) -> set[str]:
    names = {getattr(node, "name", "") for node in tree.body}
    for node in tree.body:
        targets = (
            node.targets
            if isinstance(node, ast.Assign)
            else [node.target]
            if isinstance(node, ast.AnnAssign)
            else []
        )
        names |= {target.id for target in targets if isinstance(target, ast.Name)}
    return names


def test_every_recipe_that_was_promised_is_there():
    page = (build_docs.ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
    recipes = re.findall(r"^## Recipe: an? (.*)$", page, re.MULTILINE)
    assert recipes == ["accelerator", "base", "schedule", "skip method", "node"]
