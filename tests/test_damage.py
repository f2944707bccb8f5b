"""NaN and infinity are found wherever they are in a file, and nothing else is taken for them."""

from __future__ import annotations

import math

import pytest
import torch
from comfyui_fewstep.loras import damage
from comfyui_fewstep.loras.damage import refuse_damaged
from comfyui_fewstep.loras.header import FileProblem, read_header
from safetensors.torch import load_file, save_file


def refuse(tensors: dict[str, torch.Tensor], folder) -> None:
    path = folder / "x.safetensors"
    save_file(tensors, path)
    refuse_damaged(path, read_header(path), load_file(path))


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


@pytest.mark.parametrize("small", [0, 1 << 16], ids=["by itself", "with others"])
@pytest.mark.parametrize("place", [0, 1, 2047, 2048, 2049, 9998, 9999])
def test_it_is_found_at_the_ends_of_what_is_looked_at_together(place, small, tmp_path, monkeypatch):
    monkeypatch.setattr(damage, "CHUNK", 4096)
    monkeypatch.setattr(damage, "SMALL", small)
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
    header, tensors = read_header(path), load_file(path)
    path.write_bytes(path.read_bytes()[:-1000])
    with pytest.raises(FileProblem, match="became shorter"):
        refuse_damaged(path, header, tensors)
