"""Which edition of a base a name is for.

Editions share an architecture, so nothing in a file tells them apart, and a LoRA of one attaches to
another without a word. Only names say which is which.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from .accelerator import Accelerator, some_ids
from .bases import Base, BaseRow
from .names import Name, read_name, read_published


@dataclass(frozen=True)
class Edition:
    """One edition of a base. words and excludes: of its name, as in Accelerator."""

    label: str
    base: Base
    words: tuple[str, ...]
    excludes: tuple[str, ...] = ()


QWEN_OTHERS = ("firered", "layered")
EDITIONS = (
    Edition("Qwen-Image-Edit-2511", Base.QWEN_IMAGE, ("2511",), QWEN_OTHERS),
    Edition("Qwen-Image-Edit-2509", Base.QWEN_IMAGE, ("2509",), QWEN_OTHERS),
    Edition("Qwen-Image-2512", Base.QWEN_IMAGE, ("2512",), QWEN_OTHERS),
    Edition("Qwen-Image-Edit", Base.QWEN_IMAGE, ("edit",), QWEN_OTHERS),
    Edition("Qwen-Image", Base.QWEN_IMAGE, ("qwen", "image"), QWEN_OTHERS),
    Edition("LTX-2.5", Base.LTXAV, ("22b|ltx2", "5")),
    Edition("LTX-2.3", Base.LTXAV, ("22b|ltx2", "3")),
    Edition("LTX-2", Base.LTXAV, ("19b|ltx2",)),
    Edition("HunyuanVideo 1.5 text-to-video", Base.HUNYUAN15, ("t2v",), ("i2v",)),
    Edition("HunyuanVideo 1.5 image-to-video", Base.HUNYUAN15, ("i2v",), ("t2v",)),
)


def edition_in(base: BaseRow | None, name: Name) -> Edition | None:
    """The first edition of a base that a name's words say; None where they say none."""
    return next(
        (
            edition
            for edition in EDITIONS
            if edition.base is base and name.says(edition.words, edition.excludes)
        ),
        None,
    )


def edition_of(record: Accelerator, base: BaseRow | None) -> Edition | None:
    """The edition that a release was made for, by the names of its files."""
    found = {edition_in(base, read_published(file.name)) for file in record.files if file.name}
    return found.pop() if len(found) == 1 else None


def edition_notes(
    record: Accelerator,
    lora_name: str,
    base: BaseRow | None,
    model_name: str,
    records: Iterable[Accelerator],
) -> tuple[str, ...]:
    """What to tell of an accelerator of one edition on a model that another's name is on."""
    own, there = edition_of(record, base), edition_in(base, read_name(read_name(model_name).stem))
    if own is None or there is None or own is there:
        return ()
    made_for = [
        other
        for other in records
        if other.kind is record.kind
        and not other.only_by_choice
        and edition_of(other, base) is there
    ]
    advice = f" Those for {there.label}: {some_ids(made_for)}." if made_for else ""
    return (
        (
            f"{lora_name} ({record.id}) is for {own.label}, and {model_name} is {there.label} by"
            f" its name. It fits, but was not distilled for it.{advice}"
        ),
    )
