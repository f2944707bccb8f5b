"""Accelerator Loader against core's LoraLoaderModelOnly on the same file: the node's call, the
first load of the patched weights, memory, bytes from the disk.

    python benchmarks/loader.py [--rounds 9]

The files have as many layers as the published ones, on models as deep and less wide: what a node's
call costs depends on the number of tensors. One of them has as many bytes too, by a rank that no
release has. Core's call only maps a file, and its weights are read when they are first loaded;
ours has looked for damage by then. Processor time stands beside wall time: other work on the
machine does not move it.

A cold file is one that the system keeps nothing of (posix_fadvise): TMPDIR has to be on a disk.
"""

from __future__ import annotations

import gc
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from types import SimpleNamespace
from typing import Any

import in_host
from in_host import Taken

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
    rank: int = RANK
    accelerator: str = AUTO

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
                rank=self.rank,
                alpha=self.rank,
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
    "large": Case(
        "Wan with 14B's 40 layers, as many bytes as 14B's LoRA",
        "wan_rank1240.safetensors",
        "native",
        {"differences": True},
        rank=1240,
        accelerator="wan21-t2v-lightx2v-4step",
    ),
}


def tables(rounds: int, folder: Path, cases: Sequence[str] = tuple(CASES)) -> list[Table]:
    return [loading(name, rounds, folder) for name in cases]


def loading(name: str, rounds: int, folder: Path) -> Table:
    case = CASES[name]
    case.write(folder)
    offer(folder)
    model, path = case.model(folder), folder / "loras" / case.file
    table = Table(f"Loader: {case.name}, {path.stat().st_size / 1e6:.0f} MB")
    ours, theirs = node_call("ours", model, case), node_call("core", model, case)
    add_times(table, "node's call", ours, theirs, rounds)
    both = then_loaded(ours), then_loaded(theirs)
    add_times(table, "node's call and first load onto the device", *both, rounds)
    if name == "large":
        add_cold(table, path, *both, rounds)
    add_again(table, case, model, rounds)
    add_peaks(table, name, folder)
    return table


def add_times(
    table: Table,
    what: str,
    ours: Run,
    theirs: Run,
    rounds: int,
    bound: float | None = 1.05,
    before: Run = lambda: None,
) -> None:
    """bound: the ratio that is aimed at, if any is. before: untimed, before each call."""
    taken = in_host.all_in_turns({"ours": ours, "core": theirs}, rounds, before)
    for clock in Taken._fields:
        seconds = [[getattr(one, clock) for one in taken[who]] for who in ("ours", "core")]
        ratio = in_host.median_ratio(*seconds)
        table.row(
            f"{what}, {clock} time",
            " / ".join(f"{1000 * median(each):.1f} ms" for each in seconds),
            f"{ratio:.3f}",
            "" if bound is None else at_most(ratio, bound, "{:.2f}"),
        )


def add_again(table: Table, case: Case, model, rounds: int) -> None:
    """The second call, for which core's node has kept the tensors, and the same graph once more."""
    kept = core.LoraLoaderModelOnly()
    add_times(
        table,
        "second call at another strength, against core's node that has kept the tensors",
        node_call("ours", model, case, 0.9),
        lambda: kept.load_lora_model_only(model, case.file, 0.9)[0],
        rounds,
        bound=None,
    )
    ours = {"accelerator": case.accelerator, "strength": 1.0}
    add_times(
        table,
        "the same graph once more, answered from the host's cache of results",
        graph("FewStepAccelerator", model, lora_name=case.file, **ours),
        graph("LoraLoaderModelOnly", model, lora_name=case.file, strength_model=1.0),
        rounds,
        bound=1.0,
    )


def add_cold(table: Table, path: Path, ours: Run, theirs: Run, rounds: int) -> None:
    """The same where the file is on the disk alone, and how much of it comes from there."""

    def forget() -> None:
        gc.collect()  # what maps the file keeps it in memory
        forget_file(path)

    what = "call and first load, cold file"
    add_times(table, what, ours, theirs, rounds, before=forget)
    read = []
    for call in (ours, theirs):
        forget()
        before = bytes_from_disk()
        call()
        read.append((bytes_from_disk() - before) / path.stat().st_size)
    table.row(
        f"{what}: bytes from the disk, in sizes of the file",
        " / ".join(f"{each:.2f}" for each in read),
        "",
        at_most(read[0], 1.05, "{:.2f}"),
    )


def forget_file(path: Path) -> None:
    """Have the system drop what it keeps of a file."""
    with path.open("rb") as file:
        os.fsync(file.fileno())
        os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def bytes_from_disk() -> int:
    """What this process has had to wait for so far, by read() and by maps (proc(5), io)."""
    lines = Path("/proc/self/io").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("read_bytes:"))


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


def node_call(who: str, model, case: Case, strength: float = 1.0) -> Callable[[], Any]:
    """The call of one node as at the first run of a graph; it returns the patched model."""
    if who == "ours":
        return lambda: FewStepAccelerator.execute(
            model, case.file, case.accelerator, strength
        ).args[0]
    return lambda: core.LoraLoaderModelOnly().load_lora_model_only(model, case.file, strength)[0]


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
    call = node_call(who, case.model(Path(folder)), case)
    return lambda: comfy.model_management.load_models_gpu([call()])


if __name__ == "__main__":
    main_of(
        __doc__,
        tables,
        rounds=9,
        cases={"nargs": "+", "choices": tuple(CASES), "default": tuple(CASES)},
    )
