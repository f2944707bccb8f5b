"""Adapters that are no LoRAs: what they are called, and who applies them.

Accelerators are published as low-rank pairs. What ComfyUI applies beside those goes through core's
own LoRA loader; what it does not apply needs a loader or a file of another kind.
"""

from __future__ import annotations

import re
from collections.abc import Collection
from dataclasses import dataclass


@dataclass(frozen=True)
class OtherAdapter:
    """A kind of adapter that is no LoRA."""

    name: str  # for people, with its article
    keys: str  # a pattern of keys that no other kind has
    # What to do with one that core's Load LoRA does not apply; empty for those that it does.
    elsewhere: str = ""


NOT_APPLIED = "Core's Load LoRA does not apply it either: "

OTHER_ADAPTERS = (
    OtherAdapter("a LoKr (LyCORIS)", r"\.lokr_(w[12](_[ab])?|t2)$"),
    OtherAdapter("a LoHa (LyCORIS)", r"\.hada_(w[12]_[ab]|t[12])$"),
    OtherAdapter("an OFT or BOFT", r"\.oft_blocks$"),
    OtherAdapter(
        "an OFT in a form of its trainer's own",
        r"\.oft_(diag|R(\.\w+)?(\.weight)?)$",
        f"{NOT_APPLIED}look for a version of it for ComfyUI.",
    ),
    OtherAdapter("a GLoRA (LyCORIS)", r"\.[ab][12]\.weight$"),
    OtherAdapter(
        "an IA3",
        r"\.(on_input|ia3_l(\.\w+)?)$",
        f"{NOT_APPLIED}look for a LoRA of the same.",
    ),
    OtherAdapter(
        "a Stand-In adapter for Wan",
        r"\.[qkv]_loras\.(down|up)(\.weight)?$",
        f"{NOT_APPLIED}it needs a loader made for Stand-In, such as WanVideoWrapper's.",
    ),
)
# What nunchaku writes; its whole models have such layers beside quantised weights.
NUNCHAKU = OtherAdapter(
    "a LoRA converted for nunchaku",
    r"\.lora_(down|up)$",
    f"{NOT_APPLIED}take the file that it was converted from, or nunchaku's own loader.",
)
# XLabs' layers in FLUX.1, and two by which the host knows a file as one that it converts: USO's.
XLABS = r"\.processor\.(qkv|proj)_lora[12]?\.(down|up)\.weight$"
CONVERTED = (
    "single_blocks.37.processor.qkv_lora.up.weight",
    "double_blocks.18.processor.qkv_lora2.up.weight",
)
XLABS_READ = OtherAdapter("a LoRA in XLabs' own format", XLABS)
XLABS_UNREAD = OtherAdapter(
    "a LoRA in XLabs' own format",
    XLABS,
    f"{NOT_APPLIED}look for the version of it whose name says comfy_converted.",
)
DORA_ALONE = OtherAdapter(
    "the scales of a DoRA without its LoRA",
    r"\.(dora_scale|lora_magnitude_vector(\.\w+)?)$",
    f"{NOT_APPLIED}it is a part of an adapter, so download the whole file again.",
)


# The endings of nearly all keys of a LoRA, which no other adapter has.
PLAIN = (
    ".lora_down.weight",
    ".lora_up.weight",
    ".lora_A.weight",
    ".lora_B.weight",
    ".alpha",
    ".diff",
    ".diff_b",
    ".diff_m",
)
ANY_KIND = "|".join(kind.keys for kind in (*OTHER_ADAPTERS, NUNCHAKU, XLABS_READ, DORA_ALONE))


def other_adapter(keys: Collection[str], downs: Collection[str]) -> OtherAdapter | None:
    """What adapter these keys are of, if it is no LoRA. downs: those of a LoRA's pairs among them;
    a file with more pairs than layers of another kind is a LoRA.
    """
    # One look at each key: there are thousands.
    telling = [key for key in keys if not key.endswith(PLAIN) and re.search(ANY_KIND, key)]
    pairs = len(set(downs).difference(telling))
    is_whole_model = any(key.endswith(".qweight") for key in keys)
    kinds: list[OtherAdapter] = [
        XLABS_READ if all(key in keys for key in CONVERTED) else XLABS_UNREAD,
        *OTHER_ADAPTERS,
        *(() if is_whole_model else (NUNCHAKU,)),
        *(() if pairs else (DORA_ALONE,)),
    ]
    for kind in kinds:
        layers = {re.sub(kind.keys, "", key) for key in telling if re.search(kind.keys, key)}
        if len(layers) > pairs:
            return kind
    return None


def is_of_dora(key: str) -> bool:
    """Whether a tensor scales a weight as DoRA does, beside low-rank pairs."""
    return not key.endswith(PLAIN) and re.search(DORA_ALONE.keys, key) is not None
