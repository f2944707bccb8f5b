"""Every known accelerator. A family is a module of records and one line in FAMILIES."""

from __future__ import annotations

from types import MappingProxyType

from ..accelerator import Accelerator, Expert, are_partners, is_recipe_for
from . import (
    accvideo,
    animatediff,
    causal_forcing,
    causvid,
    demo,
    dmd2,
    fastwan,
    flux,
    fusionx,
    hunyuan,
    hyper_sd,
    image_models,
    lcm,
    ltx,
    minimax_h3,
    pcm,
    qwen_image,
    qwen_image21,
    rcm,
    sdxl_lightning,
    tcd,
    templates,
    turbo,
    wan21_lightx2v,
    wan22_lightning,
    wan_animate,
    wan_recipes,
    z_image,
)

FAMILIES = (
    lcm,
    sdxl_lightning,
    hyper_sd,
    wan21_lightx2v,
    wan22_lightning,
    wan_animate,
    wan_recipes,
    turbo,
    tcd,
    dmd2,
    pcm,
    flux,
    z_image,
    qwen_image,
    qwen_image21,
    image_models,
    animatediff,
    causvid,
    accvideo,
    fusionx,
    causal_forcing,
    rcm,
    fastwan,
    hunyuan,
    ltx,
    minimax_h3,
    templates,
    demo,
)


def index(records: list[Accelerator]) -> dict[str, Accelerator]:
    """Records by id.

    Raises ValueError for an id used twice, since saved graphs hold ids, and for a partner that does
    not exist.
    """
    by_id: dict[str, Accelerator] = {}
    for record in records:
        if record.id in by_id:
            raise ValueError(f"Accelerator id {record.id!r} is used by two records.")
        by_id[record.id] = record
    for record in records:
        if record.partner is not None and not are_partners(record, by_id.get(record.partner)):
            raise ValueError(
                f"Accelerator {record.id!r} names {record.partner!r} as its partner, which is no"
                " record of the other expert that names it back."
            )
    return by_id


def recipes_for_experts(record: Accelerator) -> tuple[Accelerator, ...]:
    """The first pair of recipes that runs this record's files on Wan 2.2's experts, the high-noise
    one first; empty where there is none.
    """
    for other in CATALOG.values():
        if other.expert is not Expert.HIGH_NOISE or other.partner is None:
            continue
        if set(other.bases) & set(record.bases) and is_recipe_for(other, record):
            return (other, CATALOG[other.partner])
    return ()


CATALOG = MappingProxyType(index([record for family in FAMILIES for record in family.RECORDS]))
