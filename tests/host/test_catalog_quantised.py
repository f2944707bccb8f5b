"""Accelerators on quantised bases: the host's own formats, small models quantised with the host's
own code.
"""

from __future__ import annotations

import importlib.util
import json
import os
import sys
from pathlib import Path

import comfy.lora
import comfy.model_management
import comfy.sd
import folder_paths
import pytest
import torch
from comfy.quant_ops import QUANT_ALGOS, QuantizedTensor
from comfyui_fewstep.nodes import accelerator, sampler
from comfyui_fewstep.nodes.host.attach import with_record
from comfyui_fewstep.nodes.host.model import accelerator_of, base_of, look_at, with_model_sampling
from safetensors.torch import load_file, save_file
from thinning import some_of

import small_models
from more_models import small_patcher
from small_loras import write_lora

FILE = "wan2.1_t2v_14b_lora_rank64_lightx2v_4step.safetensors"
# Relative error of one weight after quantising to this format; LoRA and base are rounded together.
TOLERANCE = {
    "float8_e4m3fn": 0.05,
    "float8_e5m2": 0.10,
    "mxfp8": 0.05,
    "int8_tensorwise": 0.03,
    "nvfp4": 0.20,
    "convrot_w4a4": 0.25,
    "asym_w4a8_int8": 0.15,  # since ComfyUI 0.33; rounding alone is 0.073 there
}


def is_quantised(name: str, tensor: torch.Tensor) -> bool:
    """The block linears, as the published quantised files have it."""
    return name.startswith("blocks.") and name.endswith(".weight") and tensor.ndim == 2


def write_quantised(path: Path, whole: Path, form: str) -> Path:
    """The same model with its block linears in one of the host's formats."""
    tensors = {}
    for name, tensor in load_file(whole).items():
        if not is_quantised(name, tensor):
            tensors[name] = tensor
            continue
        packed = QuantizedTensor.from_float(
            tensor.to(torch.bfloat16), QUANT_ALGOS[form]["comfy_tensor_layout"]
        )
        tensors |= packed.state_dict(name)
        mark = json.dumps({"format": form}).encode()
        tensors[f"{name.removesuffix('.weight')}.comfy_quant"] = torch.tensor(
            list(mark), dtype=torch.uint8
        )
    save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, path)
    return path


@pytest.fixture(autouse=True)
def without_gradients():
    """As a server runs every node: older hosts round weights in ways that torch cannot
    differentiate.
    """
    with torch.no_grad():
        yield


@pytest.fixture(scope="module")
def whole(models) -> Path:
    return small_models.write_wan(models / "diffusion_models" / "wan_whole.safetensors")


@pytest.fixture(scope="module")
def lora(models, whole):
    return write_lora(
        models / "loras" / FILE,
        small_models.load_model(whole),
        "native",
        rank=8,
        alpha=8.0,
        differences=True,
        size=0.3,
    )


@pytest.fixture(scope="module")
def load(models, whole):
    """form -> a MODEL in it; "fp8 plain" is the host's own cast while loading, "scaled fp8" the
    older published layout.
    """

    def loaded(form: str):
        if form == "fp8 plain":
            return comfy.sd.load_diffusion_model(
                str(whole), model_options={"dtype": torch.float8_e4m3fn}
            )
        path = models / "diffusion_models" / f"wan_{form.replace(' ', '_')}.safetensors"
        if form == "scaled fp8":
            write_scaled(path, whole)
        else:
            write_quantised(path, whole, form)
        return comfy.sd.load_diffusion_model(str(path))

    return loaded


def write_scaled(path: Path, whole: Path) -> None:
    """`scaled_fp8` files: fp8 weights, each with its scale_weight, and a mark of the whole."""
    tensors = {"scaled_fp8": torch.zeros(2, dtype=torch.float8_e4m3fn)}
    for name, tensor in load_file(whole).items():
        if is_quantised(name, tensor):
            scale = tensor.abs().max() / torch.finfo(torch.float8_e4m3fn).max
            tensors[name] = (tensor / scale).to(torch.float8_e4m3fn)
            tensors[name.removesuffix("weight") + "scale_weight"] = scale
        else:
            tensors[name] = tensor
    save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, path)


def run(model):
    text = small_models.conditioning(model)
    output = sampler.FewStepSampler.execute(
        model, text, {"samples": torch.zeros(1, 16, 1, 8, 8)}, 9, 0, 1.0
    )
    return output.args[0]["samples"], output.ui["fewstep_report"][0]


@pytest.mark.parametrize(
    "form", some_of(["fp8 plain", "scaled fp8", *QUANT_ALGOS], "fp8 plain", "scaled fp8", "nvfp4")
)
def test_a_quantised_base_takes_an_accelerator_and_samples(load, lora, whole, form):
    model = load(form)
    assert base_of(model).name == "WAN_T2V"
    # The width is the model's, though a packed format stores fewer numbers.
    assert look_at(model).width == small_models.WAN_SMALL["dim"]
    attached, report = accelerator.attach_accelerator(model, FILE, "auto", 1.0)
    assert accelerator_of(attached).id == "wan21-t2v-lightx2v-4step"
    assert report.data["layers_lost"] == 0 and report.data["layers_applied"] > 20

    samples, data = run(attached)
    assert data["evaluations"] == 4 and torch.isfinite(samples).all()
    # A packed model with the LoRA comes out near the whole one with the LoRA, and far from itself
    # without.
    reference, _ = run(
        accelerator.attach_accelerator(small_models.load_model(whole), FILE, "auto", 1.0)[0]
    )
    without, _ = run(
        with_record(
            with_model_sampling(model, accelerator_of(attached)),
            accelerator_of(attached),
        )
    )
    near, far = (
        (samples - reference).norm() / reference.norm(),
        (samples - without).norm() / without.norm(),
    )
    assert near < 0.6 * far, (
        f"{form}: {near:.3f} from the whole model, {far:.3f} from the model without the LoRA"
    )
    again, _ = run(attached)
    assert torch.equal(samples, again)


@pytest.mark.parametrize("form", ["whole", "fp8 plain", "scaled fp8", *QUANT_ALGOS])
def test_plain_fp8_is_told_from_fp8_with_scales_and_from_whole_numbers(load, whole, form):
    model = small_models.load_model(whole) if form == "whole" else load(form)
    assert look_at(model).is_in_plain_fp8 == (form == "fp8 plain")


@pytest.mark.parametrize("is_plain", [True, False], ids=("plain fp8", "whole"))
def test_qwens_grids_are_told_on_plain_fp8_alone(models, is_plain):
    model = small_patcher("QwenImage")
    file = "Qwen-Image-Lightning-4steps-V1.0-bf16.safetensors"
    write_lora(models / "loras" / file, model, "bare", rank=64)
    if is_plain:
        for weight in model.model.diffusion_model.parameters():
            weight.data = weight.data.to(torch.float8_e4m3fn)
    _, report = accelerator.attach_accelerator(model, file, "auto", 1.0)
    assert any("leaves grid artefacts" in note for note in report.notes) == is_plain


@pytest.mark.parametrize("form", QUANT_ALGOS)
def test_a_quantised_weight_is_patched_by_the_loras_product(load, lora, form):
    attached, _ = accelerator.attach_accelerator(load(form), FILE, "auto", 1.0)
    name = "blocks.0.self_attn.q.weight"
    before = dequantised(attached, name)
    expected = before + lora.change(name)
    with_patch = comfy.lora.calculate_weight(
        attached.patches[f"diffusion_model.{name}"], before.clone(), name
    )
    assert torch.allclose(with_patch, expected, atol=1e-5)
    host_weights = patched_weight(attached, name)
    error = (host_weights - expected).norm() / expected.norm()
    assert error < TOLERANCE[form], f"{form}: {error:.3f}"


def dequantised(model, name: str) -> torch.Tensor:
    weight = dict(model.model.diffusion_model.named_parameters())[name]
    return (
        (weight.dequantize() if isinstance(weight, QuantizedTensor) else weight)
        .float()
        .detach()
        .clone()
    )


def patched_weight(model, name: str) -> torch.Tensor:
    """The weight as the host has it on the device while it samples."""
    comfy.model_management.load_models_gpu([model])
    try:
        return dequantised(model, name)
    finally:
        comfy.model_management.unload_all_models()


def gguf_nodes():
    """The ComfyUI-GGUF loader's nodes, from this ComfyUI's custom_nodes or from where COMFYUI_GGUF
    says; skips without it.
    """
    pytest.importorskip("gguf", reason="the gguf package is not installed")
    roots = [Path(root) / "ComfyUI-GGUF" for root in folder_paths.get_folder_paths("custom_nodes")]
    found = next(
        (
            root
            for root in [Path(os.environ.get("COMFYUI_GGUF", "-")), *roots]
            if (root / "nodes.py").is_file()
        ),
        None,
    )
    if found is None:
        pytest.skip("the ComfyUI-GGUF loader is not installed")
    spec = importlib.util.spec_from_file_location(
        "comfyui_gguf", found / "__init__.py", submodule_search_locations=[str(found)]
    )
    module = importlib.util.module_from_spec(spec)
    sys.modules["comfyui_gguf"] = module
    spec.loader.exec_module(module)
    return module.NODE_CLASS_MAPPINGS


def test_gguf_takes_an_accelerator_where_its_loader_is_installed(models, whole, lora):
    loader = gguf_nodes()["UnetLoaderGGUF"]()
    import gguf

    path = models / "diffusion_models" / "wan.gguf"
    writer = gguf.GGUFWriter(str(path), "wan")
    for name, tensor in load_file(whole).items():
        kind = (
            gguf.GGMLQuantizationType.Q8_0
            if is_quantised(name, tensor)
            else gguf.GGMLQuantizationType.F32
        )
        # The format knows four dimensions at most; the loader takes the patch embedding's five from
        # a note.
        if tensor.ndim > 4:
            writer.add_array(f"comfy.gguf.orig_shape.{name}", list(tensor.shape))
            tensor = tensor.flatten(2)
        writer.add_tensor(name, gguf.quants.quantize(tensor.float().numpy(), kind), raw_dtype=kind)
    for step in (
        writer.write_header_to_file,
        writer.write_kv_data_to_file,
        writer.write_tensors_to_file,
        writer.close,
    ):
        step()
    model = loader.load_unet("wan.gguf")[0]
    assert look_at(model).width == small_models.WAN_SMALL["dim"]
    attached, report = accelerator.attach_accelerator(model, FILE, "auto", 1.0)
    assert report.data["layers_lost"] == 0 and report.data["layers_applied"] > 20
    samples, data = run(attached)
    reference, _ = run(
        accelerator.attach_accelerator(small_models.load_model(whole), FILE, "auto", 1.0)[0]
    )
    without, _ = run(
        with_record(
            with_model_sampling(model, accelerator_of(attached)),
            accelerator_of(attached),
        )
    )
    assert data["evaluations"] == 4
    assert (samples - reference).norm() < 0.5 * (samples - without).norm()
