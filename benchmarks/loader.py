"""Accelerator Loader against core's LoraLoaderModelOnly on the same file: the node's call, the
first load of the patched weights, memory.

    python benchmarks/loader.py [--rounds 9]

The files have as many layers as the published ones, on models as deep and less wide: what a node's
call costs depends on the number of tensors. Reading and adding the weights costs the same either
way and is part of the second figure.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from types import SimpleNamespace
from typing import Any

import in_host

in_host.enter()

import comfy.model_management  # noqa: E402
import execution  # noqa: E402
import folder_paths  # noqa: E402
import memory  # noqa: E402
import torch  # noqa: E402
from comfy_extras.nodes_preview_any import PreviewAny  # noqa: E402
from comfyui_fewstep.nodes.accelerator import AUTO, FewStepAccelerator  # noqa: E402
from tables import Table, at_most, main_of  # noqa: E402

import nodes as core  # noqa: E402
from small_loras import write_lora  # noqa: E402
from small_models import load_model, unet_patcher, write_wan  # noqa: E402

RANK = 64
Run = Callable[[], object]


@dataclass(frozen=True)
class Case:
    """A LoRA under its published name, and its model. options: how small_loras writes it."""

    name: str
    file: str
    layout: str
    options: dict[str, Any]

    def model(self, folder: Path):
        if self.name.startswith("SDXL"):
            return unet_patcher("sdxl")
        path = folder / "wan40.safetensors"
        return load_model(path if path.exists() else write_wan(path, layers=40))

    def write(self, folder: Path) -> None:
        path = folder / "loras" / self.file
        if not path.exists():
            write_lora(
                path,
                self.model(folder),
                self.layout,
                rank=RANK,
                alpha=RANK,
                dtype=torch.float16,
                **self.options,
            )


CASES = {
    "wan": Case(
        "Wan with 14B's 40 layers, LightX2V with whole differences",
        "wan2.1_t2v_14b_lora_rank64_lightx2v_4step.safetensors",
        "native",
        {"differences": True},
    ),
    "sdxl": Case(
        "SDXL, Lightning in kohya's layout",
        "sdxl_lightning_4step_lora.safetensors",
        "kohya-diffusers",
        {},
    ),
}


def tables(rounds: int, folder: Path) -> list[Table]:
    return [loading(name, rounds, folder) for name in CASES]


def loading(name: str, rounds: int, folder: Path) -> Table:
    case = CASES[name]
    case.write(folder)
    offer(folder)
    model, path = case.model(folder), folder / "loras" / case.file
    table = Table(f"Loader: {case.name}, {path.stat().st_size / 1e6:.0f} MB")
    for what, mine, cores, bound in pairs_of(case, model):
        seconds = in_host.in_turns(mine, cores, rounds)
        ratio = in_host.median_ratio(*seconds)
        table.row(
            what,
            " / ".join(f"{1000 * median(each):.1f} ms" for each in seconds),
            f"{ratio:.3f}",
            at_most(ratio, bound, "{:.2f}"),
        )
    add_peaks(table, name, folder)
    return table


def pairs_of(case: Case, model) -> tuple[tuple[str, Run, Run, float], ...]:
    """(what, ours, core's, the ratio that is aimed at)."""
    kept = core.LoraLoaderModelOnly()
    ours, theirs = node_call("ours", model, case.file), node_call("core", model, case.file)
    return (
        ("node's call", ours, theirs, 1.05),
        (
            "node's call and first load onto the device",
            then_loaded(ours),
            then_loaded(theirs),
            1.05,
        ),
        (
            "second call at another strength, against core's node that has kept the tensors",
            node_call("ours", model, case.file, 0.9),
            lambda: kept.load_lora_model_only(model, case.file, 0.9)[0],
            1.0,
        ),
        (
            "the same graph once more, answered from the host's cache of results",
            graph("FewStepAccelerator", model, accelerator=AUTO, strength=1.0, lora_name=case.file),
            graph("LoraLoaderModelOnly", model, strength_model=1.0, lora_name=case.file),
            1.0,
        ),
    )


def add_peaks(table: Table, name: str, folder: Path) -> None:
    # A process differs from the next by some ten megabytes.
    peaks = [
        median(memory.peak("loader", "attaching", who, name, folder).taken for _ in range(3))
        for who in ("ours", "core")
    ]
    ratio = peaks[0] / peaks[1]
    table.row(
        "peak memory of call and load, median of three processes",
        " / ".join(f"{peak / 2**20:.0f} MiB" for peak in peaks),
        f"{ratio:.3f}",
        at_most(ratio, 1.05),
    )


def offer(folder: Path) -> None:
    """Make the files there known to the host's loaders."""
    folder_paths.add_model_folder_path("loras", str(folder / "loras"))
    folder_paths.filename_list_cache.clear()


def node_call(who: str, model, file: str, strength: float = 1.0) -> Callable[[], Any]:
    """The call of one node as at the first run of a graph; it returns the patched model."""
    if who == "ours":
        return lambda: FewStepAccelerator.execute(model, file, AUTO, strength).args[0]
    return lambda: core.LoraLoaderModelOnly().load_lora_model_only(model, file, strength)[0]


def then_loaded(call: Callable[[], Any]) -> Callable[[], object]:
    """The call, then what the first sampler after it waits for, and the weights put back."""

    def run():
        comfy.model_management.load_models_gpu([call()])
        comfy.model_management.unload_all_models()

    return run


def graph(loader: str, model, **inputs: Any) -> Callable[[], object]:
    """A one-loader graph run by the host's executor, which keeps unchanged nodes' results."""
    given = type(
        "GivenModel",
        (),
        {
            "INPUT_TYPES": classmethod(lambda cls: {"required": {}}),
            "RETURN_TYPES": ("MODEL",),
            "FUNCTION": "give",
            "give": lambda self: (model,),
        },
    )
    core.NODE_CLASS_MAPPINGS.update(
        {"GivenModel": given, "FewStepAccelerator": FewStepAccelerator, "PreviewAny": PreviewAny}
    )
    prompt = {
        "1": {"class_type": "GivenModel", "inputs": {}},
        "2": {"class_type": loader, "inputs": {"model": ["1", 0], **inputs}},
        "3": {"class_type": "PreviewAny", "inputs": {"source": ["2", 0]}},
    }
    server = SimpleNamespace(client_id=None, last_node_id=None, send_sync=lambda *message: None)
    executor = execution.PromptExecutor(server, cache_args={"ram": 0, "ram_inactive": 0})

    def run():
        executor.execute(prompt, "benchmark", execute_outputs=["3"])
        assert executor.success, executor.status_messages

    return run


def attaching(who: str, name: str, folder: str) -> Callable[[], object]:
    """For memory.peak."""
    case = CASES[name]
    offer(Path(folder))
    call = node_call(who, case.model(Path(folder)), case.file)
    return lambda: comfy.model_management.load_models_gpu([call()])


if __name__ == "__main__":
    main_of(__doc__, tables, rounds=9)
