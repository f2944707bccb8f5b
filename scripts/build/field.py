"""Hold the catalogue against ComfyUI's official templates, and the bases against a ComfyUI.

    python scripts/build/field.py [--templates PATH] [--host TREE] [--check]

PATH: a wheel of comfyui-workflow-templates-json (pip download --no-deps) or any folder with
templates; without it, those installed beside this Python. TREE: a folder with a ComfyUI, whose
blueprints are read as well. Every few-step file is printed with the record that has it, whether it
is recognised by its name, and how the templates run it where that is not as the record does; then
the host's model classes that no base names. --check ends with 1 where a file is not known or a
difference is not told.
"""

from __future__ import annotations

import argparse
import ast
import importlib.util
import json
import re
import sys
import zipfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

sys.path.append(str(Path(__file__).resolve().parents[1]))
import pack  # noqa: F401  makes comfyui_fewstep importable

# isort: split

from comfyui_fewstep.loras.accelerator import Accelerator, Kind, is_recipe_for
from comfyui_fewstep.loras.bases import Base, needed_host
from comfyui_fewstep.loras.catalog import CATALOG
from comfyui_fewstep.loras.catalog.left_out import LEFT_OUT, LOOK_ALIKES
from comfyui_fewstep.loras.fingerprint import Fingerprint
from comfyui_fewstep.loras.names import read_name
from comfyui_fewstep.loras.recognition import recognise_lora, recognise_model

from console import print_everywhere
from template_comparison import Difference, differences
from template_graph import read_graph
from template_runs import Run, runs_of

PACKAGES = "comfyui_workflow_templates*"
MODEL_FILE = re.compile(r"[\w.-]+\.(?:safetensors|sft|ckpt|pt|pth|gguf)")
FEW_STEP_WORDS = re.compile(
    r"turbo|distill|lightning|lightx2v|schnell|causvid|klein(?!-base|-\db?-base)|_fast_"
    r"|hidream_(i1|o1_image)_dev|\d+[-_]?steps?",
    re.IGNORECASE,
)
# A name that a note tells its reader to give a file.
RENAMED = re.compile(r"rename to `[^`]*`")
# Made for a few-step model, and none themselves.
NO_ACCELERATOR = re.compile(r"controlnet|style|embeddings_connector|_ic-lora|_vae|vae_", re.I)
MOST_STEPS = 16  # of a model that is taken for a few-step one because it is run so at CFG 1


@dataclass
class TemplateFile:
    """One few-step file of the templates, and all that is known of it."""

    name: str
    templates: set[str] = field(default_factory=set)
    runs: dict[Run, set[str]] = field(default_factory=dict)  # -> the templates that run it so

    @property
    def records(self) -> tuple[Accelerator, ...]:
        """Those that have it, without the recipes for it."""
        return tuple(
            record
            for record in CATALOG.values()
            if not record.only_by_choice and self.name.lower() in _names_of(record)
        )

    @property
    def left_out(self) -> str:
        """Why it has no record, empty where that is not said."""
        named = {name.lower(): reason for name, reason in LEFT_OUT.items()}
        if reason := named.get(self.name.lower()):
            return f"left out: {reason}"
        name = read_name(self.name)
        alike = (other for other in LOOK_ALIKES if name.says(other.name_words, other.name_excludes))
        return next((f"look-alike: {other.reason}" for other in alike), "")

    @property
    def known_as(self) -> str:
        return ", ".join(record.id for record in self.records) or self.left_out or "NOT KNOWN"

    @property
    def is_known(self) -> bool:
        return bool(self.records or self.left_out)

    @property
    def is_recognised(self) -> bool:
        """Whether its name alone leads to its record on a model of its base."""
        return any(_recognised(record, self.name) for record in self.records)

    def compared(self) -> dict[tuple[str, Difference], set[str]]:
        """What templates run otherwise than a record and every recipe for its files: the record's
        id and the difference -> the templates.
        """
        compared: dict[tuple[str, Difference], set[str]] = {}
        for run, templates in self.runs.items():
            for record in self.records:
                found = differences(run, self.name, record)
                if found is not None and not self._recipes_of(record, run):
                    compared.setdefault((record.id, found), set()).update(templates)
        return compared

    def recipes_that_agree(self) -> list[Accelerator]:
        """The recipes for it that some template runs."""
        return list(
            {
                recipe.id: recipe
                for run in self.runs
                for record in self.records
                if differences(run, self.name, record) is not None
                for recipe in self._recipes_of(record, run)
            }.values()
        )

    def _recipes_of(self, record: Accelerator, run: Run) -> list[Accelerator]:
        """The recipes for a record's files that are run so."""
        return [
            other
            for other in CATALOG.values()
            if is_recipe_for(other, record) and differences(run, self.name, other) is None
        ]


def _names_of(record: Accelerator) -> set[str]:
    return {file.name.lower() for file in record.files}


def _recognised(record: Accelerator, name: str) -> bool:
    records = CATALOG.values()
    if record.kind is Kind.MODEL:
        found = recognise_model(record.bases[0], record.width, {}, name, records)
    else:
        ranks = tuple(file.rank for file in record.files if file.name == name and file.rank)
        proof = Fingerprint(record.kind, record.bases, (), record.width, ranks)
        found = recognise_lora(proof, {}, name, 0, records, record.bases[0])
    return found.record is record


# ---------------------------------------------------------------- reading


def texts_of(templates: Path | None, host: Path | None) -> dict[str, str]:
    """Template -> its text."""
    folders = [templates] if templates else _installed()
    folders += [host / "blueprints"] if host else []
    texts = {}
    for folder in folders:
        if folder.suffix == ".whl":
            with zipfile.ZipFile(folder) as wheel:
                names = [name for name in wheel.namelist() if name.endswith(".json")]
                texts.update({Path(name).stem: wheel.read(name).decode() for name in names})
        else:
            found = folder.rglob("*.json")
            texts.update({path.stem: path.read_text(encoding="utf-8") for path in found})
    return {name: text for name, text in texts.items() if not name.startswith("index")}


def _installed() -> list[Path]:
    package = importlib.util.find_spec("comfyui_workflow_templates")
    if package is None or package.origin is None:
        raise SystemExit(
            "This Python has no comfyui-workflow-templates. Give a wheel or a folder with"
            " --templates (pip download --no-deps comfyui-workflow-templates-json), or run this"
            " with ComfyUI's Python."
        )
    return [
        folder for folder in Path(package.origin).parent.parent.glob(PACKAGES) if folder.is_dir()
    ]


def files_of(texts: dict[str, str]) -> dict[str, TemplateFile]:
    """Lower-case name -> every few-step file that the templates name or run."""
    files: dict[str, TemplateFile] = {}

    def of(name: str, template: str) -> TemplateFile:
        file = files.setdefault(name.lower(), TemplateFile(name))
        file.templates.add(template)
        return file

    for template, text in sorted(texts.items()):
        for name in set(MODEL_FILE.findall(RENAMED.sub("", text))):
            if _is_few_step(name):
                of(name, template)
        for run, names in _short_runs(_runs_in(text)):
            for name in names:
                of(name, template).runs.setdefault(run, set()).add(template)
    return files


def _runs_in(text: str) -> list[Run]:
    saved: Any = json.loads(text)
    return runs_of(read_graph(saved)) if isinstance(saved, dict) and "nodes" in saved else []


def _is_few_step(name: str) -> bool:
    is_known = TemplateFile(name).records or name.lower() in map(str.lower, LEFT_OUT)
    return bool(is_known or (FEW_STEP_WORDS.search(name) and not NO_ACCELERATOR.search(name)))


def _short_runs(runs: list[Run]) -> list[tuple[Run, list[str]]]:
    """The runs of one template and the files that make them short ones. Where none of them is known
    to be one, a model that is run in few steps at CFG 1 may be.
    """
    known = [(run, [name for name in _files_of(run) if _is_few_step(name)]) for run in runs]
    if any(names for _, names in known):
        return known
    return [(run, _files_of(run)[:1]) for run in runs if run.cfg == 1 and _is_short(run)]


def _files_of(run: Run) -> list[str]:
    """The LoRAs of a run and its model, that nearest to the sampler first."""
    return [name for name in (*(name for name, _ in run.loras), run.model) if name]


def _is_short(run: Run) -> bool:
    return run.steps is not None and run.steps <= MOST_STEPS


# ---------------------------------------------------------------- a ComfyUI's classes


def unnamed_classes(host: Path) -> list[str]:
    """The model classes of a ComfyUI's tree that no base names, as its own list has them."""
    source = (host / "comfy" / "supported_models.py").read_text(encoding="utf-8")
    named = {name for base in Base for name in base.host_classes}
    lists = [
        node.value
        for node in ast.parse(source).body
        if isinstance(node, (ast.Assign, ast.AugAssign)) and isinstance(node.value, ast.List)
    ]
    classes = [item.id for one in lists for item in one.elts if isinstance(item, ast.Name)]
    return [name for name in dict.fromkeys(classes) if name not in named]


def classes_of(host: Path) -> set[str]:
    """Every class that a ComfyUI's tree has for a model."""
    source = (host / "comfy" / "supported_models.py").read_text(encoding="utf-8")
    return {node.name for node in ast.parse(source).body if isinstance(node, ast.ClassDef)}


# ---------------------------------------------------------------- the report


def report(files: dict[str, TemplateFile], host: Path | None) -> tuple[str, bool]:
    """The whole text, and whether all is known, recognised and told."""
    ordered = sorted(files.values(), key=lambda file: file.name.lower())
    known = [file for file in ordered if file.is_known]
    with_record = [file for file in ordered if file.records]
    recognised = [file for file in with_record if file.is_recognised]
    compared = [difference for file in ordered for difference in file.compared()]
    untold = [difference for difference in compared if not _told(*difference)]
    differing = [file for file in ordered if file.compared()]
    rows = [row for file in ordered for row in _rows_of(file, host)]
    rows += [
        "",
        f"{len(known)} of {len(ordered)} few-step files known: {len(with_record)} by a record,"
        f" {len(known) - len(with_record)} left out with the reason.",
        f"{len(recognised)} of {len(with_record)} recognised by name.",
        f"{len(differing)} run otherwise by some template, {len(untold)} of {len(compared)}"
        " differences not told.",
    ]
    if host is not None:
        unnamed = ", ".join(unnamed_classes(host)) or "none"
        rows.append(f"Model classes of {host.name} that no base names: {unnamed}.")
    is_whole = len(known) == len(ordered) and recognised == with_record and not untold
    return "\n".join(rows) + "\n", is_whole


def _rows_of(file: TemplateFile, host: Path | None) -> Iterator[str]:
    """What is said of one file."""
    yield f"{file.name}\n    known as: {file.known_as}"
    if not file.records:
        return
    compared = file.compared()
    yield f"    recognised: {'yes' if file.is_recognised else 'NO'}{_need(file, host)}"
    yield f"    templates: {_verdict(file, compared)}"
    for (id, difference), templates in compared.items():
        mark = "told in the loader's report" if _told(id, difference) else "NOT TOLD"
        source = CATALOG[id].sources[0]
        yield f"    differs ({mark}): {difference}, by {source} ({_few(templates)})"


def _need(file: TemplateFile, host: Path | None) -> str:
    """What the host lacks for it."""
    bases = [base for record in file.records for base in record.bases]
    classes = {name for base in bases for name in base.host_classes}
    if host is None or classes & classes_of(host):
        return ""
    return f" (this ComfyUI lacks the class: {needed_host(bases) or 'it is too old'})"


def _verdict(file: TemplateFile, compared: Mapping[Any, set[str]]) -> str:
    if not file.runs:
        return "only named, in a note or a node that is bypassed"
    runs = {template for templates in file.runs.values() for template in templates}
    differing = {template for templates in compared.values() for template in templates}
    recipes = [record.id for record in file.recipes_that_agree()]
    by = f" (by {', '.join(recipes)})" if recipes else ""
    return f"{len(runs - differing)} agree{by}, {len(differing)} differ"


def _told(id: str, difference: Difference) -> bool:
    return any(way.settings == difference.of_template for way in CATALOG[id].template_ways)


def _few(templates: set[str]) -> str:
    listed = sorted(templates)
    return ", ".join(listed[:3]) + (f" and {len(listed) - 3} more" if len(listed) > 3 else "")


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description="The catalogue against the official templates.")
    parser.add_argument("--templates", type=Path, help="a wheel, or a folder with templates")
    parser.add_argument("--host", type=Path, help="a folder with a ComfyUI")
    parser.add_argument(
        "--check", action="store_true", help="end with 1 where anything is not told"
    )
    options = parser.parse_args(arguments)
    text, is_whole = report(files_of(texts_of(options.templates, options.host)), options.host)
    print(text, end="")
    return 1 if options.check and not is_whole else 0


if __name__ == "__main__":
    print_everywhere()
    raise SystemExit(main())
