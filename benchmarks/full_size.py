"""Full-size architectures with random weights on a GPU: seconds, ratios to core, and whether we
make the host wait for the device.

    python benchmarks/full_size.py [--rounds 3]   needs a CUDA device; what does not fit in its
                                                  memory is left out
    python benchmarks/full_size.py --size small   the same code on small models, also on a CPU

What a run costs does not depend on what the weights are. Each network is made on the device in
bfloat16 and in fp8 (e4m3 weights, computed in bfloat16, as core's loader has it).
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import median
from typing import Any

import in_host

in_host.enter()

import comfy.model_management  # noqa: E402
import comfy.supported_models  # noqa: E402
import torch  # noqa: E402
from comfy.model_patcher import ModelPatcher  # noqa: E402
from comfyui_fewstep.nodes.host.model import accelerator_of  # noqa: E402
from sampling import (  # noqa: E402
    EXPERTS,
    LIGHTX2V,
    Call,
    chained,
    few_step,
    ksampler,
    with_settings,
)
from tables import Table, Target, main_of  # noqa: E402

from more_models import SMALL  # noqa: E402
from small_models import FULL_WIDTH, SMALL_WIDTH, WAN_SMALL, unet_config  # noqa: E402

WAN = {
    "image_model": "wan2.1",
    "model_type": "t2v",
    "in_dim": 16,
    "out_dim": 16,
    "text_dim": 4096,
    "freq_dim": 256,
    "patch_size": (1, 2, 2),
    "window_size": (-1, -1),
    "qk_norm": True,
    "cross_attn_norm": True,
    "eps": 1e-6,
}
WAN_14B = {**WAN, "dim": 5120, "ffn_dim": 13824, "num_heads": 40, "num_layers": 40}
WAN_LATENT = (1, 16, 21, 60, 104)
GUIDED_STEPS = 50
TIMED_STEPS = 3  # of the guided run, which is too long to be made whole
PRECISIONS = {"bf16": torch.bfloat16, "fp8": torch.float8_e4m3fn}
COLUMNS = (
    "model",
    "an evaluation",
    "50 guided steps, from three",
    "accelerated",
    "factor",
    "ours / core",
    "synchronisations, ours and core's",
    "target",
)


@dataclass(frozen=True)
class Subject:
    """A host's architecture at the authors' own size, and the usual work. records: of the
    accelerator, or of both experts'.

    small: settings that make it small. text: (tokens, width).
    """

    name: str
    kind: str
    settings: dict[str, Any]
    small: dict[str, Any]
    latent: tuple[int, ...]
    text: tuple[int, int]
    records: tuple[str, ...]
    cfg: float = 5.0


# Sizes: the authors' configurations, as the host's detection writes them down.
SUBJECTS = (
    Subject(
        "Wan 2.1 14B, 81 frames of 832 x 480",
        "WAN21_T2V",
        WAN_14B,
        WAN_SMALL,
        WAN_LATENT,
        (512, 4096),
        (LIGHTX2V,),
    ),
    Subject(
        "Wan 2.1 1.3B, 81 frames of 832 x 480",
        "WAN21_T2V",
        {**WAN, "dim": 1536, "ffn_dim": 8960, "num_heads": 12, "num_layers": 30},
        WAN_SMALL,
        WAN_LATENT,
        (512, 4096),
        ("rcm-wan21-t2v-1-3b-lora",),
    ),
    Subject(
        "Wan 2.2 A14B, both experts, 81 frames of 832 x 480",
        "WAN21_T2V",
        WAN_14B,
        WAN_SMALL,
        WAN_LATENT,
        (512, 4096),
        EXPERTS,
    ),
    Subject(
        "SDXL, 1024 x 1024",
        "SDXL",
        unet_config("sdxl", FULL_WIDTH),
        unet_config("sdxl", SMALL_WIDTH),
        (1, 4, 128, 128),
        (77, 2048),
        ("sdxl-lightning-4step-lora",),
    ),
    # Its guidance is an input of the network: the full run makes one evaluation a step too.
    Subject(
        "FLUX.1 dev, 1024 x 1024",
        "Flux",
        {
            **SMALL["Flux"],
            "context_in_dim": 4096,
            "hidden_size": 3072,
            "num_heads": 24,
            "depth": 19,
            "depth_single_blocks": 38,
        },
        SMALL["Flux"],
        (1, 16, 128, 128),
        (256, 4096),
        ("hyper-flux-8step-lora",),
        cfg=1.0,
    ),
    Subject(
        "Qwen-Image, 1328 x 1328",
        "QwenImage",
        {
            **SMALL["QwenImage"],
            "num_layers": 60,
            "num_attention_heads": 24,
            "joint_attention_dim": 3584,
        },
        SMALL["QwenImage"],
        (1, 16, 1, 166, 166),
        (128, 3584),
        ("qwen-image-lightning-4step-lora",),
    ),
)


def made_small(subject: Subject) -> Subject:
    """The same at a size for any machine: small latents too."""
    settings = {**subject.settings, **subject.small}
    width = next(
        settings[name]
        for name in ("joint_attention_dim", "context_in_dim", "context_dim", "text_dim")
        if name in settings
    )
    latent = (*subject.latent[:2], *((2,) if len(subject.latent) == 5 else ()), 8, 8)
    return replace(subject, settings=settings, latent=latent, text=(8, width))


def network(subject: Subject, dtype: torch.dtype) -> ModelPatcher:
    """The host's model with random weights, made where they will stay."""
    device = comfy.model_management.get_torch_device()
    config = getattr(comfy.supported_models, subject.kind)(dict(subject.settings))
    is_fp8 = dtype.itemsize == 1
    config.set_inference_dtype(dtype, torch.bfloat16 if is_fp8 else None)
    model = config.get_model({}, "", device=device).to(device)
    for weight in model.diffusion_model.parameters():
        # By 1/sqrt(inputs), so that activations neither die nor explode.
        deviation = 1 / math.sqrt(max(math.prod(weight.shape[1:]), 1))
        weight.data = (
            deviation * torch.randn(weight.shape, device=device, dtype=torch.bfloat16)
        ).to(weight.dtype)
    return ModelPatcher(model, load_device=device, offload_device=device)


def bytes_of(subject: Subject, dtype: torch.dtype) -> int:
    """Of the weights, before they are made."""
    config = getattr(comfy.supported_models, subject.kind)(dict(subject.settings))
    config.set_inference_dtype(dtype, torch.bfloat16 if dtype.itemsize == 1 else None)
    with torch.device("meta"):
        model = config.get_model({}, "", device="meta")
    return sum(weight.nbytes for weight in model.diffusion_model.parameters()) * len(
        subject.records
    )


def conditioning_of(subject: Subject, seed: int) -> list:
    """Random text; FLUX's and SDXL's pooled text beside it."""
    generator = torch.Generator().manual_seed(seed)
    pooled = torch.randn(1, 1280 if subject.kind == "SDXL" else 768, generator=generator)
    return [[torch.randn(1, *subject.text, generator=generator), {"pooled_output": pooled}]]


def tables(rounds: int, folder: Path, size: str = "full") -> list[Table]:
    if size == "full" and not torch.cuda.is_available():
        raise SystemExit("No CUDA device is here. --size small tries the code on any machine.")
    where = "full size" if size == "full" else "small, to try the code: the figures mean nothing"
    table = Table(f"Architectures with random weights, {where}", COLUMNS)
    for subject in SUBJECTS if size == "full" else map(made_small, SUBJECTS):
        for name, dtype in PRECISIONS.items():
            if (
                torch.cuda.is_available()
                and (needed := bytes_of(subject, dtype)) > 0.8 * torch.cuda.mem_get_info()[0]
            ):
                table.row(
                    f"{subject.name}, {name}",
                    *("-",) * 6,
                    f"left out: {needed / 2**30:.0f} GiB of weights",
                )
                continue
            table.row(f"{subject.name}, {name}", *measured(subject, dtype, rounds))
            comfy.model_management.unload_all_models()
            comfy.model_management.soft_empty_cache()
    return [table]


def measured(subject: Subject, dtype: torch.dtype, rounds: int) -> Iterator[object]:
    """The cells of a row."""
    text, negative, latent = (
        conditioning_of(subject, 0),
        conditioning_of(subject, 1),
        {"samples": torch.zeros(subject.latent)},
    )
    plain = [network(subject, dtype) for _ in subject.records]
    models = [with_settings(model, name) for model, name in zip(plain, subject.records)]
    if len(models) == 2:
        ours, theirs = (
            few_step(models[0], text, latent, model_low_noise=models[1]),
            chained(*models, text, latent),
        )
    else:
        solver, steps = plan_of(models[0])
        ours, theirs = (
            few_step(models[0], text, latent),
            ksampler(models[0], text, text, latent, steps, 1.0, solver),
        )
    mine, cores = in_host.in_turns(ours, theirs, rounds)
    guided = ksampler(plain[0], text, negative, latent, TIMED_STEPS, subject.cfg)
    in_host.seconds_of(guided)
    full = median(in_host.seconds_of(guided) for _ in range(rounds)) / TIMED_STEPS * GUIDED_STEPS
    steps = plan_of(models[0])[1]
    ideal = GUIDED_STEPS * (2 if subject.cfg > 1 else 1) / steps
    factor, ratio = full / median(mine), in_host.median_ratio(mine, cores)
    yield f"{median(cores) / steps:.3f} s"
    yield f"{full:.1f} s"
    yield f"{median(mine):.2f} s"
    yield f"{factor:.1f}x of {ideal:g}x"
    yield f"{ratio:.3f}"
    yield " / ".join(map(str, (synchronisations(ours), synchronisations(theirs))))
    yield Target(
        ">= 0.95 of the ideal factor, <= 1.02 of core's seconds",
        factor >= 0.95 * ideal and ratio <= 1.02,
    )


def plan_of(model) -> tuple[str, int]:
    """(sampler, steps) of the accelerator on a model."""
    record = accelerator_of(model)
    return record.solver.value, record.default_steps


def synchronisations(run: Call) -> int | str:
    """How often a run makes the host wait for the device, as counted by torch.cuda's debug mode."""
    if not torch.cuda.is_available():
        return "no GPU"
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        torch.cuda.set_sync_debug_mode("warn")
        try:
            run()
        finally:
            torch.cuda.set_sync_debug_mode("default")
    return sum("synchronizing" in str(warning.message) for warning in caught)


if __name__ == "__main__":
    main_of(__doc__, tables, rounds=3, size={"choices": ("full", "small"), "default": "full"})
