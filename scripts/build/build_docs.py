"""Write docs/accelerators/ and README.md's table of models from the catalogue, and the table of
bases in docs/declaring-accelerators.md.

    python scripts/build/build_docs.py [--check]

--check writes nothing and says which pages are out of date.
"""

from __future__ import annotations

import argparse
import re
import sys
import textwrap
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

sys.path.append(str(Path(__file__).resolve().parents[1]))
import pack  # noqa: F401  makes comfyui_fewstep importable

# isort: split

from comfyui_fewstep.loras.accelerator import Accelerator, Kind, PublishedFile
from comfyui_fewstep.loras.bases import Base, Levels
from comfyui_fewstep.loras.catalog import CATALOG
from comfyui_fewstep.loras.catalog.left_out import LEFT_OUT, LOOK_ALIKES
from comfyui_fewstep.loras.schedules import (
    TRAINING_TIMESTEPS,
    OwnFlow,
    scaled_linear_sigma,
    shift_sigma,
)

from console import print_everywhere

ROOT = Path(__file__).resolve().parents[2]
FOLDER = ROOT / "docs" / "accelerators"
INDEX = FOLDER / "README.md"
README = ROOT / "README.md"
DECLARING = ROOT / "docs" / "declaring-accelerators.md"
COLUMNS = 100

INTRODUCTION = """# Accelerators

Every accelerator that the Accelerator Loader knows, with the settings it was distilled for:
{records} accelerators in {families} families, {files} published files.

Sigmas are those of the default step count; where they depend on the size, those of a picture of
1024 x 1024. CFG 1 makes one evaluation a step, any other value two. Strength is the release's own,
and the node's strength multiplies it. A file whose name is not known links to its repository.

Written by `python scripts/build/build_docs.py` from `loras/catalog/`: change that, not this.
"""
LOOK_ALIKES_HEAD = """## Look-alikes

Models that only look like few-step ones. The Accelerator Loader refuses them, unless their record
is chosen by hand, and says why.
"""
LEFT_OUT_HEAD = """## Left out

Distilled releases that cannot be run here as they were distilled.
"""
FAMILY_COLUMNS = "| family | bases | steps | kind |"
MODEL_COLUMNS = "| model | accelerators |"
BASE_COLUMNS = "| base | model | ComfyUI class | shift | takes the accelerators of |"
RECORD_COLUMNS = "| id | base | steps | sampler | CFG | strength |"


def pages() -> dict[Path, str]:
    """Path -> text of every page."""
    made = {page_of(family): family_page(family, records) for family, records in families().items()}
    return {INDEX: index(), **made, README: readme(), DECLARING: declaring()}


def families() -> dict[str, list[Accelerator]]:
    """Family -> its records, in the catalogue's order."""
    by_family: dict[str, list[Accelerator]] = {}
    for record in CATALOG.values():
        by_family.setdefault(record.family, []).append(record)
    return by_family


def page_of(family: str) -> Path:
    return FOLDER / f"{re.sub('[^a-z0-9]+', '-', family.lower()).strip('-')}.md"


# --- the index, and README.md's table


def index() -> str:
    introduction = INTRODUCTION.format(
        records=len(CATALOG),
        families=len(families()),
        files=sum(len(record.files) for record in CATALOG.values()),
    )
    rows = [
        table_row((f"[{family}]({page_of(family).name})", *facts_of(family, records)))
        for family, records in families().items()
    ]
    look_alikes = [
        bullet(f"{other.id} ({any_of(base.label for base in other.bases)}): {other.reason}.")
        for other in LOOK_ALIKES
    ]
    left_out = [bullet(f"`{name}`: {reason}.") for name, reason in LEFT_OUT.items()]
    return "\n".join(
        (
            introduction,
            *table(FAMILY_COLUMNS, rows),
            LOOK_ALIKES_HEAD,
            *look_alikes,
            "",
            LEFT_OUT_HEAD,
            *left_out,
            "",
        )
    )


def readme() -> str:
    """README.md with its table of models as the catalogue has it now."""
    before, _, rest = README.read_text(encoding="utf-8").partition(MODEL_COLUMNS)
    by_model = families_by_model()
    rows = [
        table_row((model, ", ".join(found))) for model, found in by_model.items() if len(found) > 1
    ]
    alone = unique(found[0] for found in by_model.values() if len(found) == 1)
    elsewhere = {family for found in by_model.values() if len(found) > 1 for family in found}
    others = ", ".join(family for family in alone if family not in elsewhere)
    rows.append(table_row(("others", others)))
    return before + "\n".join(table(MODEL_COLUMNS, rows)) + "\n" + rest.partition("\n\n")[2]


def families_by_model() -> dict[str, list[str]]:
    """Label of a base -> links to the families that have accelerators for it."""
    found: dict[str, list[str]] = {}
    for family, records in families().items():
        link = f"[{family}]({page_of(family).relative_to(ROOT).as_posix()})"
        models = models_of(family, records)
        for model in models:
            found.setdefault(model, []).append(link)
    return found


def declaring() -> str:
    """The page on declarations with its table of bases as loras/bases.py has it now."""
    before, _, rest = DECLARING.read_text(encoding="utf-8").partition(BASE_COLUMNS)
    rows = [table_row(facts_of_base(base)) for base in Base]
    return before + "\n".join(table(BASE_COLUMNS, rows)) + "\n" + rest.partition("\n\n")[2]


def facts_of_base(base: Base) -> tuple[str, ...]:
    """Its name in a declaration, what it is, and what ComfyUI has for it."""
    since = f" (since {base.since})" if base.since else ""
    shift = f"{base.shift:.4g}" if base.shift is not None else ""
    return (
        f"`{base.name}`",
        base.label,
        ", ".join(base.host_classes) + since,
        shift if base.levels is Levels.FLOW else base.levels.value,
        ", ".join(f"`{name}`" for name in base.takes),
    )


def facts_of(family: str, records: Sequence[Accelerator]) -> tuple[str, str, str]:
    """What a family runs on, in how many steps, and as what kind of file."""
    steps = sorted({count for record in records for count in record.steps})
    is_range = len(steps) > 2
    return (
        ", ".join(models_of(family, records)),
        f"{steps[0]} to {steps[-1]}" if is_range else ", ".join(map(str, steps)),
        ", ".join(unique(record.kind.value for record in records)),
    )


def models_of(family: str, records: Sequence[Accelerator]) -> list[str]:
    # The demo model has the architecture of Wan and not its size: its accelerators fit no other.
    if family == "Demo":
        return ["the demo model"]
    return unique(base.label for record in records for base in record.bases)


# --- one family


def family_page(family: str, records: Sequence[Accelerator]) -> str:
    """The settings of a family's records side by side, then each with its files and remarks."""
    sources = unique(source for record in records for source in record.sources)
    return "\n".join(
        (
            f"# {family}\n",
            "[All families](README.md)\n",
            *table(RECORD_COLUMNS, [table_row(settings_of(record)) for record in records]),
            *(line for record in records for line in section(record)),
            "## Sources\n",
            *(bullet(source) for source in sources),
            "",
        )
    )


def settings_of(record: Accelerator) -> tuple[str, ...]:
    bases = any_of(base.label for base in record.bases)
    parameterization = record.parameterization.value
    return (
        f"`{record.id}`",
        bases
        + (f" ({record.expert.value} expert)" if record.expert else "")
        + (f", width {record.width}" if record.width else ""),
        ", ".join(
            f"**{count}**"
            if count == record.default_steps and len(record.steps) > 1
            else f"{count}"
            for count in record.steps
        ),
        record.solver.value + ("" if parameterization == "native" else f" ({parameterization})"),
        f"{record.cfg:g}"
        + (
            f", embedded guidance {record.embedded_guidance:g}"
            if record.embedded_guidance is not None
            else ""
        ),
        f"{record.strength:g}" if record.kind is Kind.LORA else "-",
    )


def section(record: Accelerator) -> Iterator[str]:
    """A record by itself."""
    yield f"## {record.id}\n"
    yield bullet(f"Licence: {record.licence}")
    yield bullet(f"Sigmas: {sigmas_of(record)}")
    notes = (*record.notes_on_plain_fp8, *record.notes, record.template_note)
    yield from (bullet(note) for note in notes if note)
    if record.unverified:
        yield bullet(f"Not confirmed: {'; '.join(record.unverified)}.")
    yield "\nFiles:\n"
    yield from map(file_bullet, record.files)
    yield ""


def sigmas_of(record: Accelerator) -> str:
    if record.kind is Kind.MOTION_MODULE:
        return "its own, on linear betas"
    base = record.bases[0]
    if isinstance(record.schedule, OwnFlow) and base.shift is None:
        return "even, shifted as ComfyUI shifts the model"

    def sigma_of(timestep: float) -> float:
        if base.has_timesteps:
            return scaled_linear_sigma(timestep)
        return shift_sigma(timestep / TRAINING_TIMESTEPS, base.shift or 1.0)

    sigmas = record.schedule.sigmas(record.default_steps, 1.0, sigma_of, image_tokens=4096)
    shown = [f"{sigma:.4g}" for sigma in sigmas]
    return ", ".join(shown if len(shown) <= 10 else [*shown[:4], "...", *shown[-3:]])


def file_bullet(file: PublishedFile) -> str:
    """A file's name and address on one line, and below it where it belongs and what is known."""
    facts = [
        origin_of(file),
        f"rank {file.rank}" if file.rank else "",
        file.caution,
    ]
    name = f"`{file.path}`" if file.path else "file name not known"
    linked = f"[{name}]({file.url})" if file.repo else name
    return f"- {linked}\n{indented(', '.join(filter(None, facts)))}"


def origin_of(file: PublishedFile) -> str:
    """Whose file it is, and where ComfyUI looks for it."""
    if file.repo:
        return f"in {file.repo} → models/{file.folder}"
    is_ours = any(ROOT.glob(f"demo/**/{file.name}"))
    return "comes with this pack" if is_ours else "repository not known"


# --- Markdown


def table(columns: str, rows: Sequence[str]) -> list[str]:
    """Its lines, and an empty one after it."""
    return [columns, "|" + "---|" * (columns.count("|") - 1), *rows, ""]


def table_row(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in cells)} |"


def bullet(text: str) -> str:
    return "- " + indented(text).lstrip()


def indented(text: str) -> str:
    """A text under or in a bullet, wrapped, but for words that are longer than a line."""
    return textwrap.fill(
        text,
        COLUMNS,
        initial_indent="  ",
        subsequent_indent="  ",
        break_long_words=False,
        break_on_hyphens=False,
    )


def any_of(names: Iterator[str]) -> str:
    return " or ".join(names)


def unique(texts: Iterator[str]) -> list[str]:
    """Each text once, in the order of its first."""
    return list(dict.fromkeys(texts))


def stale(made: Mapping[Path, str]) -> list[Path]:
    """Pages to write, or to remove where no family makes them any more."""
    changed = [
        path
        for path, page in made.items()
        if not path.is_file() or path.read_text(encoding="utf-8") != page
    ]
    return [*changed, *sorted(set(FOLDER.glob("*.md")) - set(made))]


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--check", action="store_true", help="only say what is out of date")
    is_check = parser.parse_args().check
    made = pages()
    outdated = stale(made)
    print("\n".join(str(path.relative_to(ROOT)) for path in outdated) or "every page is current")
    if is_check:
        return 1 if outdated else 0
    FOLDER.mkdir(exist_ok=True)
    for path in outdated:
        if path in made:
            path.write_text(made[path], encoding="utf-8", newline="\n")
        else:
            path.unlink()
    return 0


if __name__ == "__main__":
    print_everywhere()
    sys.exit(main())
