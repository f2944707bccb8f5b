"""Write docs/accelerators.md and README.md's table of families from the catalogue.

`--check` only says whether they are current (exit status 1 if not).
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

sys.path.append(str(Path(__file__).resolve().parents[1]))
import pack  # noqa: F401  makes comfyui_fewstep importable

ROOT = Path(__file__).resolve().parents[2]
TARGET = ROOT / "docs" / "accelerators.md"
README = ROOT / "README.md"

HEAD = """# Accelerators

Every accelerator the Accelerator Loader knows, with the settings it was distilled for. Written by
`python scripts/build/build_docs.py` from `loras/catalog/`; edit that, not this.

Sigmas are those of the default step count, for sizes that matter at 1024 x 1024. CFG 1 makes one evaluation a step; any other
value makes two. Strength is the release's own and multiplies the node's. What could not be confirmed is said at the end of each
family. Files whose name is not known link to their repository.
"""
OUTRO_LEFT = "## Left out\n\nDistilled releases that cannot be run here as they were distilled.\n"
OUTRO_ALIKE = (
    "## Look-alikes\n\nModels that only look like few-step ones. The Accelerator Loader refuses"
    " them, unless their record is chosen by hand, and says why.\n"
)
FAMILY_COLUMNS = "| family | bases | steps | kind |"
COLUMNS = ("id", "base", "steps", "sampler", "sigmas", "CFG", "strength", "licence")


def document() -> str:
    """The whole page."""
    from comfyui_fewstep.loras.catalog import CATALOG
    from comfyui_fewstep.loras.catalog.left_out import LEFT_OUT, LOOK_ALIKES

    parts = [
        HEAD,
        (
            f"{len(CATALOG)} accelerators in {len(families())} families, "
            f"{sum(len(record.files) for record in CATALOG.values())} published files.\n"
        ),
    ]
    for family, records in families().items():
        parts += [f"## {family}\n", *section(records)]
    parts += [
        OUTRO_ALIKE,
        *(
            f"- {other.id} ({words(base.label for base in other.bases)}): {other.reason}."
            for other in LOOK_ALIKES
        ),
        "",
    ]
    parts += [OUTRO_LEFT, *(f"- `{name}`: {reason}." for name, reason in LEFT_OUT.items())]
    return "\n".join(parts) + "\n"


def families() -> dict[str, list[Any]]:
    """Family -> its records, in the catalogue's order."""
    from comfyui_fewstep.loras.catalog import CATALOG

    found: dict[str, list[Any]] = {}
    for record in CATALOG.values():
        found.setdefault(record.family, []).append(record)
    return found


def readme() -> str:
    """README.md with its table of families as the catalogue has it now."""
    before, _, rest = README.read_text(encoding="utf-8").partition(FAMILY_COLUMNS)
    return (
        before
        + "\n".join([FAMILY_COLUMNS, "|---|---|---|---|", *family_rows()])
        + "\n\n"
        + rest.partition("\n\n")[2]
    )


def family_rows() -> Iterator[str]:
    """A family in one row: what it runs on, in how many steps, and as what kind of file."""
    for family, records in families().items():
        steps = sorted({count for record in records for count in record.steps})
        is_range = len(steps) > 2 and steps == list(range(steps[0], steps[-1] + 1))
        yield (
            "| "
            + " | ".join(
                (
                    family,
                    # The demo model has the architecture of Wan and not its size: its accelerators
                    # fit no other.
                    (
                        "the demo model"
                        if family == "Demo"
                        else ", ".join(
                            dict.fromkeys(base.label for record in records for base in record.bases)
                        )
                    ),
                    f"{steps[0]} to {steps[-1]}" if is_range else ", ".join(map(str, steps)),
                    ", ".join(dict.fromkeys(record.kind.value for record in records)),
                )
            )
            + " |"
        )


def section(records: list[Any]) -> Iterator[str]:
    """A family: its settings as a table, its files, its remarks."""
    yield f"| {' | '.join(COLUMNS)} |"
    yield "|" + "---|" * len(COLUMNS)
    for record in records:
        yield f"| {' | '.join(cell(text) for text in row(record))} |"
    yield ""
    for record in records:
        yield f"- **{record.id}**: {'; '.join(file_words(file) for file in record.files)}"
        yield from (f"  - {note}" for note in record.notes)
        if record.unverified:
            yield f"  - Not confirmed: {'; '.join(record.unverified)}."
    yield (
        "\nSources:"
        f" {'; '.join(dict.fromkeys(source for record in records for source in record.sources))}.\n"
    )


def row(record: Any) -> tuple[str, ...]:
    steps = ", ".join(
        f"**{n}**" if n == record.default_steps and len(record.steps) > 1 else str(n)
        for n in record.steps
    )
    bases = words(base.label for base in record.bases) + (
        f" ({record.expert.value} expert)" if record.expert else ""
    )
    guidance = (
        f", embedded guidance {record.embedded_guidance:g}"
        if record.embedded_guidance is not None
        else ""
    )
    parameterization = (
        "" if record.parameterization.value == "native" else f" ({record.parameterization.value})"
    )
    strength = "-" if record.kind.value != "LoRA" else f"{record.strength:g}"
    return (
        f"`{record.id}`",
        bases + (f", width {record.width}" if record.width else ""),
        steps,
        record.solver.value + parameterization,
        sigma_words(record),
        f"{record.cfg:g}{guidance}",
        strength,
        str(record.licence),
    )


def sigma_words(record: Any) -> str:
    from comfyui_fewstep.loras.accelerator import Kind
    from comfyui_fewstep.loras.schedules import scaled_linear_sigma

    if record.kind is Kind.MOTION_MODULE:
        return "its own, on linear betas"
    sigmas = record.schedule.sigmas(
        record.default_steps, 1.0, scaled_linear_sigma, image_tokens=4096
    )
    shown = [f"{sigma:.4g}" for sigma in sigmas]
    return ", ".join(shown if len(shown) <= 10 else [*shown[:4], "...", *shown[-3:]])


def file_words(file: Any) -> str:
    rank = f", rank {file.rank}" if file.rank else ""
    caution = f", {file.caution}" if file.caution else ""
    if not file.repo:
        origin = (
            "comes with this pack"
            if any(ROOT.glob(f"demo/**/{file.name}"))
            else "repository not known"
        )
        return f"`{file.path}` ({origin}{rank}{caution})"
    name = f"`{file.path}`" if file.path else "file name not known"
    return f"[{name}]({file.url}) in {file.repo} → models/{file.folder}{rank}{caution}"


def words(values: Any) -> str:
    return " or ".join(values)


def cell(text: str) -> str:
    return text.replace("|", "\\|")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "--check", action="store_true", help="write nothing; exit 1 if the page is not current"
    )
    arguments = parser.parse_args()
    pages = {TARGET: document(), README: readme()}
    if arguments.check:
        stale = [
            path.relative_to(ROOT)
            for path, page in pages.items()
            if not path.is_file() or path.read_text(encoding="utf-8") != page
        ]
        print(
            f"{', '.join(map(str, stale))} not current: run python scripts/build/build_docs.py"
            if stale
            else "all current"
        )
        return 1 if stale else 0
    TARGET.parent.mkdir(exist_ok=True)
    for path, page in pages.items():
        path.write_text(page, encoding="utf-8", newline="\n")
        print(f"wrote {path.relative_to(ROOT)}, {len(page.splitlines())} lines")
    return 0


if __name__ == "__main__":
    sys.exit(main())
