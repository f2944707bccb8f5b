"""NaN and infinity are found wherever they are in a file, and nothing else is taken for them."""

from __future__ import annotations

import gc
import math

import pytest
import torch
from comfyui_fewstep.loras import damage
from comfyui_fewstep.loras.damage import refuse_damaged
from comfyui_fewstep.loras.header import FileProblem, read_header
from comfyui_fewstep.loras.mapped import DTYPES, can_be_mapped, map_file
from safetensors.torch import load_file, save_file


def refuse(tensors: dict[str, torch.Tensor], folder) -> None:
    """In a map of the file and by reading it: both say the same."""
    path = folder / "x.safetensors"
    save_file(tensors, path)
    header = read_header(path)
    assert can_be_mapped(header)
    said = []
    for data in (None, map_file(path, header).data):
        try:
            refuse_damaged(path, header, data)
        except FileProblem as problem:
            said.append(str(problem))
    assert len(said) in (0, 2) and len(set(said)) <= 1
    if said:
        raise FileProblem(said[0])


@pytest.mark.parametrize(
    "dtype", [torch.float64, torch.float32, torch.float16, torch.bfloat16, torch.float8_e5m2]
)
@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_one_number_that_is_none_is_found(dtype, value, tmp_path):
    tensors = {"whole": torch.ones(50, 40), "damaged": torch.ones(50, 40)}
    tensors["damaged"][17, 3] = value
    tensors["damaged"] = tensors["damaged"].to(dtype)
    with pytest.raises(
        FileProblem,
        match=(
            r"x\.safetensors is damaged: 1 of its 2 tensors .*, such as damaged\. Download it again"
        ),
    ):
        refuse(tensors, tmp_path)


@pytest.mark.parametrize("place", [0, 1, 2047, 2048, 2049, 9998, 9999])
def test_it_is_found_at_the_ends_of_what_is_read_together(place, tmp_path, monkeypatch):
    monkeypatch.setattr(damage, "CHUNK", 4096)
    numbers = torch.ones(10000, dtype=torch.float16)
    numbers[place] = math.nan
    with pytest.raises(FileProblem, match="1 of its 3 tensors .* such as b"):
        refuse(
            {"a": torch.ones(7, dtype=torch.float16), "b": numbers, "c": torch.ones(5)}, tmp_path
        )


@pytest.mark.parametrize(
    "dtype", [torch.float16, torch.bfloat16, torch.float8_e5m2, torch.float8_e4m3fn]
)
def test_of_all_numbers_that_a_format_has_the_finite_ones_are_no_damage(dtype, tmp_path):
    half = 1 << 8 * dtype.itemsize - 1
    numbers = torch.arange(-half, half).to(getattr(torch, f"int{8 * dtype.itemsize}")).view(dtype)
    is_finite = numbers.float().isfinite()
    refuse({"finite": numbers[is_finite]}, tmp_path)
    for number in numbers[~is_finite][:: 1 if dtype.itemsize == 1 else 97]:
        with pytest.raises(FileProblem, match="1 of its 2 tensors"):
            refuse({"whole": torch.ones(3, dtype=dtype), "one": number.reshape(1)}, tmp_path)


@pytest.mark.parametrize(
    "tensor",
    [
        torch.full((300, 300), 65504.0, dtype=torch.float16),
        torch.full((1000, 1000), -3e30),
        torch.tensor(2),
        torch.zeros(0, 4),
        torch.full((40, 40), 448.0).to(torch.float8_e4m3fn),
        torch.zeros(3, dtype=torch.bool),
    ],
    ids=["largest half", "large", "whole number", "empty", "one byte", "bool"],
)
def test_large_numbers_and_other_kinds_are_no_damage(tensor, tmp_path):
    refuse({"a": tensor}, tmp_path)


def test_a_file_that_was_cut_meanwhile_is_refused(tmp_path):
    path = tmp_path / "x.safetensors"
    save_file({"a": torch.ones(1000)}, path)
    header = read_header(path)
    path.write_bytes(path.read_bytes()[:-1000])
    with pytest.raises(FileProblem, match="became shorter"):
        refuse_damaged(path, header)


@pytest.mark.parametrize("dtype", DTYPES.values(), ids=str)
def test_a_map_has_the_tensors_that_the_formats_own_library_has(dtype, tmp_path):
    numbers = torch.randn(300) * 100 if dtype.is_floating_point else torch.randint(0, 100, (300,))
    tensors = {
        "matrix": numbers[:60].reshape(5, 12).to(dtype),
        "one": numbers[60].to(dtype),
        "none": torch.zeros(0, 4, dtype=dtype),
        "odd": numbers[61:68].to(dtype),  # what follows it may lie at any byte
        "after": numbers[68:].to(dtype),
    }
    path = tmp_path / "x.safetensors"
    save_file(tensors, path)
    ours, theirs = map_file(path, read_header(path)).tensors, load_file(path)
    assert ours.keys() == theirs.keys()
    for key, tensor in theirs.items():
        assert ours[key].shape == tensor.shape and ours[key].dtype == tensor.dtype
        assert torch.equal(bytes_of(ours[key]), bytes_of(tensor))


def bytes_of(tensor: torch.Tensor) -> torch.Tensor:
    return tensor.flatten().view(torch.uint8)


def test_what_is_written_into_a_map_stays_out_of_the_file(tmp_path):
    path = tmp_path / "x.safetensors"
    save_file({"a": torch.ones(1000)}, path)
    before = path.read_bytes()
    map_file(path, read_header(path)).tensors["a"].zero_()
    assert path.read_bytes() == before


def test_a_tensor_keeps_the_map_of_its_file(tmp_path):
    path = tmp_path / "x.safetensors"
    save_file({"a": torch.arange(100_000), "b": torch.ones(3)}, path)
    tensor = map_file(path, read_header(path)).tensors["a"]
    path.unlink()
    gc.collect()
    assert torch.equal(tensor, torch.arange(100_000))


def test_a_file_that_became_another_since_its_header_was_read_is_refused(tmp_path):
    path = tmp_path / "x.safetensors"
    save_file({"a": torch.ones(1000)}, path)
    header = read_header(path)
    save_file({"a": torch.ones(10)}, path)
    with pytest.raises(FileProblem, match="it had .* bytes when it was opened"):
        map_file(path, header)
