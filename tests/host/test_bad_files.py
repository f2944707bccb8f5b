"""Files that mean ill, on the real host: pickles, paths out of the models folders, damaged and
lying LoRAs and motion modules.

Headers alone are tests/test_fuzz_header.py's. Here whole files go through the loaders: each is
refused in words, or what is attached can be added to the model's weights, all of it, without the
host having to leave anything out.
"""

from __future__ import annotations

import gc
import json
import logging
import math
import pickle
import re
import struct
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import comfy.lora
import comfy.memory_management
import comfy.utils
import pytest
import torch
from comfyui_fewstep.loras.header import FileProblem
from comfyui_fewstep.nodes import accelerator, motion
from comfyui_fewstep.nodes.host.files import model_path
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import save_file
from thinning import examples

import nodes as core
from comfy_client import PromptRefused
from prompts import demo_prompt
from small_loras import write_lora

RECORD = "lcm-lora-sd15"
# Bytes by which reading a file of a few kilobytes may raise this process's peak: what reading a
# good one costs, with room to spare.
ROOM = 150 << 20


@contextmanager
def little_memory() -> Iterator[None]:
    """Fails if the process's resident memory peaks above what it was by more than ROOM. Without
    /proc it lets everything pass.
    """
    status, refs = Path("/proc/self/status"), Path("/proc/self/clear_refs")
    try:
        refs.write_text("5")  # the peak counts from now on
        before = peak(status)
    except OSError:
        yield
        return
    yield
    assert peak(status) - before < ROOM


def peak(status: Path) -> int:
    return int(re.search(r"VmHWM:\s+(\d+) kB", status.read_text())[1]) << 10


# ---------------------------------------------------------------- pickles


class Bomb:
    """Unpickled, it leaves a file."""

    def __init__(self, path: Path):
        self.path = path

    def __reduce__(self):
        return (Path.touch, (self.path,))


@pytest.fixture
def bomb(tmp_path) -> Path:
    """What appears if anybody unpickles."""
    return tmp_path / "unpickled"


def plant(path: Path, bomb: Path) -> None:
    path.write_bytes(pickle.dumps({"state_dict": Bomb(bomb)}))


@pytest.mark.parametrize(
    "suffix", [".ckpt", ".pt", ".pth", ".bin", ".pkl", ".safetensors", ".sft", ".SAFETENSORS"]
)
def test_a_pickle_is_never_opened_by_our_loaders_whatever_it_is_called(models, unets, bomb, suffix):
    name = f"bomb{suffix}"
    for folder, load in (
        ("loras", lambda: accelerator.attach_accelerator(unets["sd15"], name, RECORD, 1.0)),
        ("animatediff_models", lambda: motion.attach_motion(unets["sd15"], name, 4)),
    ):
        plant(models / folder / name, bomb)
        try:
            with pytest.raises(FileProblem, match="safetensors"):
                load()
        finally:
            (models / folder / name).unlink()
    assert not bomb.exists()


@pytest.mark.parametrize("suffix", [".ckpt", ".pt", ".bin"])
def test_models_in_old_formats_are_the_hosts_to_load_and_it_loads_weights_only(
    models, bomb, suffix
):
    path = models / "checkpoints" / f"bomb{suffix}"
    plant(path, bomb)
    try:
        with pytest.raises(Exception, match=r"(?i)weights[_ ]only"):
            comfy.utils.load_torch_file(str(path))
    finally:
        path.unlink()
    assert not bomb.exists()
    # The test itself can fail: this is what unpickling does.
    pickle.loads(pickle.dumps(Bomb(bomb)))  # noqa: S301
    assert bomb.exists()


# ---------------------------------------------------------------- headers


def with_header(entries: dict[str, dict], data: int = 64, more: bytes = b"") -> bytes:
    header = json.dumps(entries).encode()
    return struct.pack("<Q", len(header)) + header + bytes(data) + more


def entry(begin: int, end: int, dtype: str = "F32", count: int | None = None) -> dict:
    shape = [(end - begin) // 4 if count is None else count]
    return {"dtype": dtype, "shape": shape, "data_offsets": [begin, end]}


BROKEN = {
    "nothing": b"",
    "a page": b"<!DOCTYPE html><html>" + bytes(200),
    "not JSON": struct.pack("<Q", 20) + b"{" * 20 + bytes(64),
    "cut": with_header({"a": entry(0, 64)})[:-1],
    "more behind": with_header({"a": entry(0, 64)}, more=b"more"),
    "two in one place": with_header({"a": entry(0, 64), "b": entry(0, 64)}),
    "a hole": with_header({"a": entry(0, 16), "b": entry(32, 64)}),
    "another size than its shape": with_header({"a": entry(0, 64, count=3)}),
    "beyond the end": with_header({"a": entry(0, 4096)}),
    "no dtype": with_header({"a": entry(0, 64, dtype="F31")}),
}


@pytest.mark.parametrize("maps_itself", [False, True], ids=["library", "dynamic VRAM"])
@pytest.mark.parametrize("broken", BROKEN)
def test_what_a_broken_file_says_of_itself_is_refused_before_the_host_believes_it(
    models, unets, broken, maps_itself, monkeypatch
):
    # So the host's loader does without the format's library.
    monkeypatch.setattr(comfy.memory_management, "aimdo_enabled", maps_itself)
    path = models / "loras" / "broken.safetensors"
    path.write_bytes(BROKEN[broken])
    with pytest.raises(FileProblem, match="not a complete .safetensors file|is empty"):
        accelerator.attach_accelerator(unets["sd15"], path.name, RECORD, 1.0)
    path.unlink()


# ---------------------------------------------------------------- one reading


@pytest.mark.skipif(not Path("/proc/self/io").exists(), reason="the system does not tell")
def test_the_numbers_of_a_file_are_read_in_one_map_and_never_copied(models, unets):
    path = models / "loras" / "read_once.safetensors"
    write_lora(path, unets["sd15"], "kohya-diffusers", rank=64, alpha=64.0)
    accelerator.attach_accelerator(unets["sd15"], path.name, RECORD, 1.0)
    before, maps_before = bytes_read(), maps_of(path)
    model, _ = accelerator.attach_accelerator(unets["sd15"], path.name, RECORD, 1.0)
    # The header, by ourselves and by the format's library.
    assert bytes_read() - before < path.stat().st_size / 4
    assert maps_of(path) - maps_before == 1
    assert model.patches
    path.unlink()


def maps_of(path: Path) -> int:
    """How often a file is in this process's memory."""
    gc.collect()
    return Path("/proc/self/maps").read_text().count(f" {path}\n")


def test_a_host_that_reads_in_its_own_way_is_asked_once_for_what_was_found_whole(
    models, unets, good, monkeypatch
):
    path = models / "loras" / "bad_files.safetensors"
    save_file(good, path)
    loads, load = [], comfy.utils.load_torch_file

    def noted(name, *args, **more):
        loads.append(name)
        return load(name, *args, **more)

    monkeypatch.setattr(comfy.utils, "DISABLE_MMAP", True)
    monkeypatch.setattr(comfy.utils, "load_torch_file", noted)
    theirs, _ = accelerator.attach_accelerator(unets["sd15"], path.name, RECORD, 1.0)
    assert loads == [str(path)]
    monkeypatch.setattr(comfy.utils, "DISABLE_MMAP", False)
    ours, _ = accelerator.attach_accelerator(unets["sd15"], path.name, RECORD, 1.0)
    assert loads == [str(path)] and ours.patches.keys() == theirs.patches.keys() != set()
    for key, patches in ours.patches.items():
        for one, other in zip(patches[0][1].weights[:2], theirs.patches[key][0][1].weights[:2]):
            assert torch.equal(one, other)
    damaged = {**good, "x.diff": torch.full((3,), math.nan)}
    monkeypatch.setattr(comfy.utils, "DISABLE_MMAP", True)
    with pytest.raises(FileProblem, match="is damaged: 1 of its"):
        attach(models, unets["sd15"], damaged)
    assert loads == [str(path)]


def bytes_read() -> int:
    """By read(); what is looked at through a map is not among them (proc(5), io)."""
    return int(re.search(r"rchar: (\d+)", Path("/proc/self/io").read_text())[1])


def test_a_host_that_copies_what_it_loads_copies_nothing_that_is_refused(
    models, unets, monkeypatch
):
    path = models / "loras" / "a_model.safetensors"
    save_file({"model.diffusion_model.input_blocks.1.0.in_layers.0.weight": torch.ones(8)}, path)
    monkeypatch.setattr(comfy.utils, "DISABLE_MMAP", True)
    monkeypatch.setattr(comfy.utils, "load_torch_file", lambda *_, **__: pytest.fail("loaded"))
    with pytest.raises(ValueError, match="a_model.safetensors"):
        accelerator.attach_accelerator(unets["sd15"], path.name, RECORD, 1.0)
    path.unlink()


# ---------------------------------------------------------------- paths


@pytest.fixture
def outside(models, unets):
    """A LoRA that would do, beside the models folder instead of in it."""
    path = models.parent / f"{models.name}-outside.safetensors"
    write_lora(path, unets["sd15"], "kohya-diffusers", rank=1, only="middle.*attn1")
    yield path
    path.unlink()


def ways_to(path: Path) -> list[str]:
    return [
        str(path),
        f"../../{path.name}",
        f"..\\..\\{path.name}",
        f"x/../../../{path.name}",
        f"/../../{path.name}",
        f"//{path}",
        f"file://{path}",
        f"{path.name}\0.safetensors",
    ]


@pytest.mark.parametrize("way", range(8))
def test_no_name_leads_out_of_the_models_folders(models, unets, outside, way):
    name = ways_to(outside)[way]
    assert model_path("loras", name) is None and model_path(motion.FOLDER, name) is None
    for load in (
        lambda: accelerator.attach_accelerator(unets["sd15"], name, RECORD, 1.0),
        lambda: motion.attach_motion(unets["sd15"], name, 4),
    ):
        with pytest.raises(FileProblem, match="is not in models/"):
            load()


def test_a_server_refuses_such_names_before_anything_runs(server, outside):
    for name in ways_to(outside):
        prompt = demo_prompt(seed=1, steps=1)
        prompt["loader"]["inputs"]["lora_name"] = name
        with pytest.raises(PromptRefused):
            server.client.run(prompt)
    assert server.is_alive


# ---------------------------------------------------------------- LoRAs


@pytest.fixture(scope="module")
def good(models, unets) -> dict[str, torch.Tensor]:
    """A LoRA for three layers of the small SD 1.5, as its trainer would write it."""
    return write_lora(
        models / "loras" / "bad_files.safetensors",
        unets["sd15"],
        "kohya-diffusers",
        rank=4,
        alpha=4.0,
        only=r"middle_block.*(attn2\.to_[kv]|proj_in)",
    ).tensors


def attach(models: Path, base, tensors: dict[str, torch.Tensor]):
    """(MODEL, report) of a file with these tensors. Raises ValueError where it is refused."""
    path = models / "loras" / "bad_files.safetensors"
    save_file({key: tensor.contiguous() for key, tensor in tensors.items()}, path)
    return accelerator.attach_accelerator(base, path.name, RECORD, 1.0)


def assert_everything_is_applied(model, caplog) -> None:
    """Every patch changes its weight or leaves it, as large as it was, and the host has nothing to
    complain of.
    """
    caplog.clear()
    with caplog.at_level(logging.WARNING):
        for key, patches in model.patches.items():
            weight = comfy.utils.get_attr(model.model, key).detach().clone()
            changed = comfy.lora.calculate_weight(patches, weight.clone(), key)
            assert changed.shape == weight.shape and torch.isfinite(changed).all(), key
    assert [record.message for record in caplog.records] == []


LYING = {
    "two ranks": ("lora_up.weight", lambda up: up[:, :3]),
    "half a pair": ("lora_up.weight", lambda up: None),
    "no dimension": ("lora_down.weight", lambda down: torch.tensor(1.0)),
    "one dimension": ("lora_down.weight", lambda down: down.flatten()),
    "no rank": ("lora_down.weight", lambda down: down[:0]),
    "too wide": ("lora_down.weight", lambda down: torch.cat([down, down], 1)),
    "whole numbers": ("lora_down.weight", lambda down: (down * 100).to(torch.int8)),
    "several alphas": ("alpha", lambda alpha: torch.tensor([1.0, 2.0, 3.0])),
    "no alpha": ("alpha", lambda alpha: torch.zeros(0)),
    "a weight of another shape": ("reshape_weight", lambda _: torch.tensor([10**6, 10**6])),
    "a kernel": ("lora_mid.weight", lambda _: torch.zeros(4, 4, 500, 500)),
    "a difference of another shape": ("diff", lambda _: torch.zeros(7)),
    "a bias of another length": ("diff_b", lambda _: torch.zeros(7)),
    "a weight to set": ("set_weight", lambda _: torch.zeros(7, 7)),
    "a Kronecker product": ("lokr_w1", lambda _: torch.zeros(1000, 1000)),
    "directions": ("dora_scale", lambda _: torch.zeros(3, 3)),
}


@pytest.mark.parametrize("lie", LYING)
def test_a_lying_layer_is_left_out_by_name_and_costs_nothing(models, unets, good, caplog, lie):
    ending, change = LYING[lie]
    layer = next(key for key in good if key.endswith("lora_down.weight")).removesuffix(
        ".lora_down.weight"
    )
    key = f"{layer}.{ending}"
    tensors = {**good, key: change(good.get(key))}
    if lie == "a Kronecker product":
        tensors[f"{layer}.lokr_w2"] = torch.zeros(1000, 1000)
    with little_memory():
        model, report = attach(
            models,
            unets["sd15"],
            {key: tensor for key, tensor in tensors.items() if tensor is not None},
        )
        assert_everything_is_applied(model, caplog)
    assert report.data["layers_applied"] >= 2
    if lie not in ("whole numbers", "a Kronecker product"):
        assert report.data["layers_applied"] == 2 and layer in str(report.markdown)


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_numbers_that_are_none_are_refused(models, unets, good, value):
    key = next(key for key in good if key.endswith("lora_up.weight"))
    damaged = good[key].clone()
    damaged[0, 0] = value
    with pytest.raises(
        FileProblem,
        match=f"is damaged: 1 of its {len(good)} tensors .*{re.escape(key)}.*Download it again",
    ):
        attach(models, unets["sd15"], {**good, key: damaged})


SHAPES = st.lists(st.sampled_from([0, 1, 2, 3, 4, 32, 64, 128, 768]), max_size=4)
DTYPES = st.sampled_from(
    [
        torch.float32,
        torch.float16,
        torch.bfloat16,
        torch.int8,
        torch.bool,
        torch.float8_e4m3fn,
        torch.float64,
    ]
)
NUMBERS = st.sampled_from([0.0, 1.0, -1e-8, 6e4, 1e30, math.nan, math.inf])
ENDINGS = st.sampled_from(
    [
        "lora_down.weight",
        "lora_up.weight",
        "lora_mid.weight",
        "alpha",
        "dora_scale",
        "diff",
        "diff_b",
        "diff_m",
        "set_weight",
        "reshape_weight",
        "w_norm",
        "b_norm",
        "lokr_w1",
        "lokr_w2",
        "hada_w1_a",
        "oft_blocks",
        "lora_A.weight",
        "lora_B.weight",
        "",
        "nonsense",
    ]
)


@st.composite
def changes(draw) -> list[tuple[str, torch.Tensor | None]]:
    """(ending, tensor; None takes it away) for one layer of the file."""
    made = []
    for ending in draw(st.lists(ENDINGS, min_size=1, max_size=4)):
        if draw(st.integers(0, 5)) == 0:
            made.append((ending, None))
            continue
        shape, number = draw(SHAPES), draw(NUMBERS)
        if math.prod(shape) < 10**6:
            made.append((ending, torch.full(shape, number, dtype=torch.float32).to(draw(DTYPES))))
    return made


@examples(150)
@given(st.data())
def test_any_tensors_are_attached_whole_or_refused_in_words(models, unets, good, caplog, data):
    layers = sorted({key.rpartition(".lora_")[0] for key in good if ".lora_" in key})
    layer, tensors = (
        data.draw(st.sampled_from([*layers, "lora_unet_nowhere", "lora_te_text_model", ""])),
        dict(good),
    )
    for ending, tensor in data.draw(changes()):
        if tensor is None:
            tensors.pop(f"{layer}.{ending}", None)
        else:
            tensors[f"{layer}.{ending}"] = tensor
    with little_memory():
        try:
            model, report = attach(models, unets["sd15"], tensors)
        except ValueError as error:
            assert "bad_files.safetensors" in str(error)
            return
        assert report.data["layers_applied"] >= 1
        if all(tensor.float().abs().max() < 1e20 for tensor in tensors.values() if tensor.numel()):
            assert_everything_is_applied(model, caplog)


def test_core_gets_the_good_one_too(models, unets, good):
    """What the others are changed from is a whole LoRA."""
    model, report = attach(models, unets["sd15"], good)
    assert report.data["layers_applied"] == len(good) // 3 == 3 and report.data["layers_lost"] == 0
    theirs = core.LoraLoaderModelOnly().load_lora_model_only(
        unets["sd15"], "bad_files.safetensors", 1.0
    )[0]
    assert set(model.patches) == set(theirs.patches)


# ---------------------------------------------------------------- motion modules


def test_a_damaged_motion_module_is_refused(models, unets):
    pytest.importorskip("diffusers")
    from motion_files import animatediff_keys, motion_adapter, save

    tensors = animatediff_keys(motion_adapter(size=0.3).state_dict())
    key = next(key for key in tensors if key.endswith("to_q.weight"))
    tensors[key] = tensors[key].clone()
    tensors[key][3, 3] = math.nan
    save(models / "animatediff_models" / "damaged.safetensors", tensors)
    with pytest.raises(
        FileProblem, match=f"is damaged: 1 of its {len(tensors)} tensors .*{re.escape(key)}"
    ):
        motion.attach_motion(unets["sd15"], "damaged.safetensors", 4)
