"""Mark a causal Wan checkpoint, so that ComfyUI loads it as one: `python scripts/mark_causal.py IN
OUT.safetensors`.

The weights of Self Forcing, Causal Forcing and CausVid have the names and shapes of ordinary Wan;
ComfyUI takes a file for causal where its metadata says so, and most published files do not. A
.safetensors file is copied as it is, with another header. A .pt file is converted; that needs torch
and safetensors, so run this with ComfyUI's own Python.
"""

from __future__ import annotations

import argparse
import json
import shutil
import struct
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any, BinaryIO

from console import print_everywhere

# Under which key the published pickles keep the generator, the averaged weights first: those are
# what the papers show.
GENERATORS = ("generator_ema", "generator", "model", "state_dict")
# What wrappers of the training code put before Wan's own names.
PREFIXES = ("model.", "_fsdp_wrapped_module.", "_orig_mod.")


FIRST_BLOCK = "blocks.0."
LONGEST_HEADER = 100_000_000  # bytes, by the format


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("source", type=Path, metavar="IN")
    parser.add_argument("target", type=Path, metavar="OUT")
    arguments = parser.parse_args()
    mark(arguments.source, arguments.target)
    print(
        f"{arguments.target}: load it with Load Diffusion Model, then Accelerator Loader with"
        " lora_name none."
    )


def mark(source: Path, target: Path) -> None:
    """Write the marked file. Raises SystemExit with what is wrong."""
    if target.suffix != ".safetensors":
        raise SystemExit(
            f"OUT is {target.name}; it must end in .safetensors, the only format that can carry the"
            " mark."
        )
    if target.exists():
        raise SystemExit(f"{target} exists already. Name another file.")
    # A broken-off run must not leave what looks whole.
    partial = target.with_suffix(".partial")
    try:
        if source.suffix == ".safetensors":
            with source.open("rb") as old, partial.open("wb") as new:
                copy_with_metadata(old, new)
        else:
            convert(source, partial)
        partial.replace(target)
    except (OSError, ValueError, struct.error) as error:
        raise SystemExit(f"{source.name} cannot be marked: {error}") from None
    finally:
        partial.unlink(missing_ok=True)


def causal_metadata(metadata: Mapping[str, str]) -> dict[str, str]:
    """The same metadata with the mark; what else its configuration says is kept."""
    config = json.loads(metadata.get("config", "{}"))
    config["transformer"] = {**config.get("transformer", {}), "causal_ar": True}
    return {**metadata, "config": json.dumps(config)}


def copy_with_metadata(old: BinaryIO, new: BinaryIO) -> None:
    """Copy a .safetensors file with another header; tensor offsets count from its end."""
    (length,) = struct.unpack("<Q", old.read(8))
    if length > LONGEST_HEADER:
        raise ValueError("it is no safetensors file")
    header: dict[str, Any] = json.loads(old.read(length))
    refuse_other_models([bare(name).removeprefix("diffusion_model.") for name in header])
    header["__metadata__"] = causal_metadata(header.get("__metadata__", {}))
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)  # the format keeps tensors aligned to 8 bytes
    new.write(struct.pack("<Q", len(text)) + text)
    shutil.copyfileobj(old, new, 1 << 24)


def refuse_other_models(tensors: Collection[str]) -> None:
    """Raise ValueError unless these are the names of a Wan model's tensors."""
    if not any(name.startswith(FIRST_BLOCK) for name in tensors):
        raise ValueError(
            f"it holds no Wan model: none of its {len(tensors)} tensors is called {FIRST_BLOCK}"
        )


def convert(source: Path, target: Path) -> None:
    """A training pickle as .safetensors, same precision. Unpickles tensors alone, no code."""
    import torch
    from safetensors.torch import save_file

    found = torch.load(source, map_location="cpu", mmap=True, weights_only=True)
    found = next((found[key] for key in GENERATORS if isinstance(found.get(key), dict)), found)
    weights = {
        bare(name): tensor for name, tensor in found.items() if isinstance(tensor, torch.Tensor)
    }
    refuse_other_models(weights)
    save_file(
        {name: tensor.contiguous() for name, tensor in weights.items()},
        target,
        metadata=causal_metadata({}),
    )


def bare(name: str) -> str:
    """Wan's own name of a weight."""
    while prefix := next((prefix for prefix in PREFIXES if name.startswith(prefix)), ""):
        name = name.removeprefix(prefix)
    return name.replace("._fsdp_wrapped_module.", ".")


if __name__ == "__main__":
    print_everywhere()
    main()
