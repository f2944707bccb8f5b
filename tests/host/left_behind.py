"""What a run may have left behind: everything on a MODEL that could change the next one, and the
memory of all tensors.
"""

from __future__ import annotations

import gc
import zlib
from collections.abc import Mapping
from contextlib import suppress
from typing import Any

import torch

HOOKS = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks")


def footprint(model) -> dict[str, Any]:
    """A MODEL's state as plain values that compare equal or not: its options and patches, its
    layers, every bit of its weights.
    """
    module = model.model
    return {
        "options": outline(model.model_options),
        "patches": outline(model.patches),
        "object patches": outline(model.object_patches),
        "attachments": outline(model.attachments),
        "wrappers": outline(model.wrappers),
        "callbacks": outline(model.callbacks),
        "injections": outline(model.injections),
        "is injected": model.is_injected,
        "hook patches": outline(model.hook_patches),
        "additional models": [id(extra.model) for extra in model.get_additional_models()],
        "attributes": [(name, sorted(vars(part))) for name, part in module.named_modules()],
        "layers": [id(part) for part in module.modules()],
        "layer hooks": [len(getattr(part, kind)) for part in module.modules() for kind in HOOKS],
        "weights": checksums(module),
    }


def outline(value: Any) -> Any:
    """Nested dictionaries and lists as they are, each thing in them by its identity."""
    if isinstance(value, Mapping):
        return {str(key): outline(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [outline(item) for item in value]
    return value if isinstance(value, bool | int | float | str | None) else id(value)


def checksums(module: torch.nn.Module) -> dict[str, int]:
    return {
        name: zlib.crc32(
            tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().data
        )
        for name, tensor in module.state_dict().items()
    }


def live_bytes() -> int:
    """Bytes of all tensors on the CPU that were made since the tests began, each storage once."""
    gc.collect()
    storages = {}
    for thing in gc.get_objects():
        if issubclass(type(thing), torch.Tensor) and thing.device.type == "cpu":
            with suppress(RuntimeError):  # the compiler's stand-ins for tensors have no data
                storages[thing.untyped_storage().data_ptr()] = thing.untyped_storage().nbytes()
    return sum(storages.values())
