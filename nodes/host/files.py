"""Model files: where the host keeps them, and how it reads them."""

from __future__ import annotations

import difflib
import os
from collections.abc import Iterable, Mapping

import comfy.memory_management
import comfy.sd
import comfy.utils
import folder_paths
from torch import Tensor

from ...loras.damage import refuse_damaged
from ...loras.header import FileProblem, Header
from ...loras.mapped import can_be_mapped, map_file


def add_model_folder(name: str) -> None:
    """Make models/<name> known to the host, beside places that its configuration names."""
    folder_paths.add_model_folder_path(name, os.path.join(folder_paths.models_dir, name))


def add_to_folder(name: str, path: str) -> None:
    """Have the host list the files in a folder of ours beside those of models/<name>."""
    folder_paths.add_model_folder_path(name, path)


def declaration_names(suffix: str) -> list[str]:
    """JSON files with this ending in models/fewstep and beside LoRAs. The host keeps the list."""
    for root in (
        os.path.join(folder_paths.models_dir, "fewstep"),
        *folder_paths.get_folder_paths("loras"),
    ):
        folder_paths.add_model_folder_path("fewstep", root)
    folder_paths.folder_names_and_paths["fewstep"][1].add(".json")
    return [name for name in folder_paths.get_filename_list("fewstep") if name.endswith(suffix)]


def is_folder(name: str) -> bool:
    """Whether the host knows a model folder of this name: packs bring some of their own."""
    return name in folder_paths.folder_names_and_paths


def listed_files(folder: str) -> list[str]:
    """The files of models/<folder> as the host lists them, by the endings it knows for it."""
    return folder_paths.get_filename_list(folder)


def model_files(folder: str) -> list[str]:
    """Those that are model files, of a folder for which the host knows no endings."""
    return [
        name
        for name in listed_files(folder)
        if name.lower().endswith(tuple(folder_paths.supported_pt_extensions))
    ]


def model_path(folder: str, name: str) -> str | None:
    return folder_paths.get_full_path(folder, name)


def required_path(folder: str, name: str) -> str:
    """Where a file of models/<folder> lies. Raises FileProblem where it is not there."""
    path = model_path(folder, name)
    if path is None:
        raise FileProblem(missing_file(folder, name))
    return path


def is_there(folder: str, name: str) -> bool | str:
    """True, or what to say of a file that is not there: what a node's validate_inputs returns."""
    return model_path(folder, name) is not None or missing_file(folder, name)


def stamp_of(paths: Iterable[str]) -> str:
    """What changes when one of these files does: what a node's fingerprint_inputs returns."""
    states = (os.stat(path) for path in paths)
    return " ".join(f"{state.st_size} {state.st_mtime_ns}" for state in states)


def missing_file(folder: str, name: str) -> str:
    """What to say of a name that no file in models/<folder> has."""
    near = difflib.get_close_matches(name, model_files(folder), n=3, cutoff=0.4)
    return (
        f"{name} is not in models/{folder}. "
        + (f"The nearest files there: {', '.join(near)}. " if near else "")
        + "Put the file there, or choose another."
    )


def whole_tensors(path: str, header: Header) -> Mapping[str, Tensor]:
    """The tensors of a file whose header was read, in memory as the host's loader has them; raises
    FileProblem for a file with numbers that are none.

    That loader maps a file and asks the format's library for one tensor after the other, which
    takes most of its time: it is mapped here. Where the host reads files in its own way, as with
    dynamic VRAM, or was started to copy them, its loader is asked.
    """
    has_its_own_way = comfy.utils.DISABLE_MMAP or comfy.memory_management.aimdo_enabled
    if has_its_own_way or not can_be_mapped(header):
        refuse_damaged(path, header)
        return load_tensors(path)[0]
    file = map_file(path, header)
    refuse_damaged(path, header, file.data)
    return file.tensors


def load_tensors(path: str) -> tuple[dict[str, Tensor], dict[str, str]]:
    """(tensors, metadata) of a safetensors file through the host's loader."""
    tensors, metadata = comfy.utils.load_torch_file(path, safe_load=True, return_metadata=True)
    return tensors, metadata or {}


def load_diffusion_model(
    tensors: dict[str, Tensor], metadata: Mapping[str, str], disable_dynamic: bool = False
):
    """The MODEL of a diffusion model's tensors, detected by the host."""
    return comfy.sd.load_diffusion_model_state_dict(
        tensors, metadata=dict(metadata), disable_dynamic=disable_dynamic
    )


def load_vae(path: str):
    """The VAE of a file."""
    tensors, metadata = load_tensors(path)
    return comfy.sd.VAE(sd=tensors, metadata=metadata)
