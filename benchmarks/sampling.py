"""The samplers against core's, the accelerated run against the full one, and recognition time.

python benchmarks/sampling.py [--rounds 7]
"""

from __future__ import annotations

import json
import struct
from collections.abc import Callable
from pathlib import Path
from statistics import median

import in_host

in_host.enter()

import comfy.patcher_extension  # noqa: E402
import memory  # noqa: E402
import torch  # noqa: E402
from comfy_extras.nodes_custom_sampler import (  # noqa: E402
    BasicGuider,
    Noise_RandomNoise,
    SamplerCustomAdvanced,
)
from comfyui_fewstep.loras.catalog import CATALOG  # noqa: E402
from comfyui_fewstep.loras.header import read_header  # noqa: E402
from comfyui_fewstep.loras.recognition import recognise  # noqa: E402
from comfyui_fewstep.nodes import accelerator, demo  # noqa: E402
from comfyui_fewstep.nodes.host.attach import with_record  # noqa: E402
from comfyui_fewstep.nodes.host.model import with_model_sampling  # noqa: E402
from comfyui_fewstep.nodes.sampler import FewStepSampler, FewStepSchedule  # noqa: E402
from tables import Table, at_least, at_most, main_of  # noqa: E402

import nodes as core  # noqa: E402
from small_models import conditioning, load_model, write_wan  # noqa: E402

LIGHTX2V = "wan21-t2v-lightx2v-4step"
EXPERTS = ("wan22-t2v-lightning-high", "wan22-t2v-lightning-low")
LAYERS = 40  # of Wan 14B
ADAPTED = (
    "self_attn.q",
    "self_attn.k",
    "self_attn.v",
    "self_attn.o",
    "cross_attn.q",
    "cross_attn.k",
    "cross_attn.v",
    "cross_attn.o",
    "ffn.0",
    "ffn.2",
)
BYTES = 2_000_000_000
# Nearly 80 MB each, so that every copy of one shows.
LARGE = (4, 16, 21, 90, 160)

Call = Callable[[], object]


def tables(rounds: int, folder: Path) -> list[Table]:
    return [sampling(rounds, folder), experts(rounds, folder), recognition(rounds, folder)]


# --- one model ---


def small_wan(folder: Path, seed: int = 0):
    path = folder / f"wan{seed}.safetensors"
    return load_model(path if path.exists() else write_wan(path, seed=seed))


def with_settings(model, name: str):
    """The loader's model without the LoRA: what a weight is does not change its cost."""
    return with_record(with_model_sampling(model, CATALOG[name]), CATALOG[name])


def clip(frames: int = 9, side: int = 24, batch: int = 1) -> dict:
    """An empty LATENT of Wan. frames: of the latent."""
    return {"samples": torch.zeros(batch, 16, frames, side, side)}


def few_step(model, positive, latent, steps: int = 0, **more) -> Call:
    return lambda: FewStepSampler.execute(model, positive, latent, 1, steps, 1.0, **more)


def ksampler(
    model, positive, negative, latent, steps: int, cfg: float, sampler: str = "euler"
) -> Call:
    return lambda: core.KSampler().sample(
        model, 1, steps, cfg, sampler, "simple", positive, negative, latent
    )


def custom_sampler(model, positive, latent, steps: int = 0) -> Call:
    """Core's SamplerCustomAdvanced on the Few-Step Schedule's sigmas and sampler."""

    def run():
        sigmas, sampler, *_ = FewStepSchedule.execute(model, steps, 1.0).args
        guider = BasicGuider.execute(model, positive).args[0]
        return SamplerCustomAdvanced.execute(Noise_RandomNoise(1), guider, sampler, sigmas, latent)

    return run


def sampling(rounds: int, folder: Path) -> Table:
    table = Table(
        "Sampling",
        note=(
            "A small Wan of the real architecture; every run starts from the same noise. The demo"
            " model is so small that what a run costs once counts, and an evaluation of both"
            " prompts, a batch of two, takes hardly longer than one of one: there 25x is nobody's"
            " aim, and fixed_cost.py takes its figure apart."
        ),
    )
    model = small_wan(folder)
    fast = with_settings(model, LIGHTX2V)
    text, negative, latent = conditioning(length=6), conditioning(length=6, seed=1), clip()
    ours = few_step(fast, text, latent)
    add_core(table, "KSampler", ours, ksampler(fast, text, text, latent, 4, 1.0), rounds)
    add_core(table, "SamplerCustomAdvanced", ours, custom_sampler(fast, text, latent), rounds)
    add_acceleration(
        table,
        "50 guided steps against 4 accelerated ones (100 and 4 evaluations)",
        ksampler(model, text, negative, latent, 50, 5.0),
        ours,
        rounds,
    )
    for clips in (8, 1):
        add_acceleration(
            table,
            f"the same on the demo model, clips of 64 x 64: {clips}",
            *demo_runs(clips),
            rounds,
            is_target=False,
        )
    return table


def add_core(table: Table, name: str, ours: Call, theirs: Call, rounds: int) -> None:
    """The Few-Step Sampler against one of core's, in four evaluations each."""
    mine, cores = in_host.in_turns(ours, theirs, rounds)
    ratio = in_host.median_ratio(mine, cores)
    table.row(
        f"Few-Step Sampler against core's {name}, 4 evaluations each",
        f"{median(mine):.3f} s / {median(cores):.3f} s ({median(cores) / 4 * 1000:.0f} ms an"
        " evaluation)",
        f"{ratio:.3f}",
        at_most(ratio, 1.02),
    )


def add_acceleration(
    table: Table,
    what: str,
    full: Call,
    fast: Call,
    rounds: int,
    ideal: int = 25,
    is_target: bool = True,
) -> None:
    in_host.seconds_of(fast)
    slow, accelerated = in_host.in_turns(full, fast, max(1, rounds // 3), is_warm=True)
    factor = in_host.median_ratio(slow, accelerated)
    table.row(
        what,
        f"{median(slow):.2f} s / {median(accelerated):.3f} s",
        f"{factor:.1f}x, {factor / ideal:.2f} of the ideal {ideal}x",
        at_least(factor / ideal, 0.95) if is_target else "",
    )


def demo_runs(clips: int) -> tuple[Call, Call]:
    """The demo model by 50 guided steps of core's KSampler, and by its accelerator."""
    demo.offer_loras()
    model, positive, negative, _, latent, _ = demo.FewStepDemo.execute(
        "a red circle moving right", 17, "base"
    ).args
    latent = {"samples": latent["samples"].repeat(clips, 1, 1, 1, 1)}
    fast, _ = accelerator.attach_accelerator(
        model, "fewstep-demo/fewstep_demo_lightx2v_4step.safetensors", accelerator.AUTO, 1.0
    )
    return ksampler(model, positive, negative, latent, 50, 5.0), few_step(fast, positive, latent)


# --- two experts ---


def experts(rounds: int, folder: Path) -> Table:
    table = Table(
        "Two experts of Wan 2.2: one Few-Step Sampler against two chained KSamplerAdvanced",
        note=(
            "Peak memory is that of the samplers alone: latents of 77 MB, networks that answer at"
            " once, fresh processes."
        ),
    )
    pair, text = expert_pair(folder), conditioning(length=6)
    mine, cores = in_host.in_turns(
        few_step(pair[0], text, clip(), model_low_noise=pair[1]),
        chained(*pair, text, clip()),
        rounds,
    )
    ratio = in_host.median_ratio(mine, cores)
    table.row(
        "4 steps, 2 with each expert",
        f"{median(mine):.3f} s / {median(cores):.3f} s",
        f"{ratio:.3f}",
        at_most(ratio, 1.0, "{:.2f}"),
    )
    ours, theirs = (
        memory.peak("sampling", "expert_run", who, folder).taken for who in ("ours", "core")
    )
    table.row(
        "peak memory",
        f"{ours / 2**20:.0f} MiB / {theirs / 2**20:.0f} MiB",
        f"{ours / theirs:.3f}",
        at_most(ours / theirs, 1.0, "{:.2f}"),
    )
    return table


def expert_pair(folder: Path) -> list:
    return [with_settings(small_wan(folder, seed), name) for seed, name in enumerate(EXPERTS)]


def chained(high, low, text, latent) -> Call:
    def run():
        advanced = core.KSamplerAdvanced()
        half = advanced.sample(
            high, "enable", 1, 4, 1.0, "euler", "simple", text, text, latent, 0, 2, "enable"
        )[0]
        return advanced.sample(
            low, "disable", 1, 4, 1.0, "euler", "simple", text, text, half, 2, 4, "disable"
        )

    return run


def expert_run(who: str, folder: str) -> Call:
    """For memory.peak: both experts at a large latent, their networks left out."""
    high, low = (answering_at_once(model) for model in expert_pair(Path(folder)))
    text, latent = conditioning(length=6), {"samples": torch.zeros(LARGE)}
    return (
        few_step(high, text, latent, model_low_noise=low)
        if who == "ours"
        else chained(high, low, text, latent)
    )


def answering_at_once(model):
    """The model without its network: what remains is the sampler's own work, and the host's."""

    def answer(executor, x, *args, **kwargs):
        return torch.zeros_like(x)

    silent = model.clone()
    silent.add_wrapper_with_key(
        comfy.patcher_extension.WrappersMP.DIFFUSION_MODEL, "benchmark", answer
    )
    return silent


# --- recognition ---


def recognition(rounds: int, folder: Path) -> Table:
    """A 2 GB LoRA in LightX2V's layout: its header is real, its tensors are a hole."""
    table = Table("Recognition")
    path = folder / "wan2.1_t2v_14b_lora_rank64_lightx2v_4step.safetensors"
    names = [
        f"diffusion_model.blocks.{n}.{layer}.{end}"
        for n in range(LAYERS)
        for layer in ADAPTED
        for end in ("lora_down.weight", "lora_up.weight")
    ]
    width = BYTES // len(names) // 2 // 64
    entries = {
        name: {
            "dtype": "F16",
            "shape": [64, width] if "down" in name else [width, 64],
            "data_offsets": [i * width * 128, (i + 1) * width * 128],
        }
        for i, name in enumerate(names)
    }
    header = json.dumps(entries).encode()
    with path.open("wb") as file:
        file.write(struct.pack("<Q", len(header)) + header)
        file.truncate(8 + len(header) + len(names) * width * 128)
    seconds = [
        in_host.seconds_of(lambda: recognise(read_header(path), path.name, CATALOG.values()))
        for _ in range(rounds)
    ]
    table.row(
        f"a LoRA of {path.stat().st_size / 1e9:.1f} GB with {len(names)} tensors",
        f"{median(seconds) * 1000:.1f} ms",
        f"slowest {max(seconds) * 1000:.1f} ms",
        at_most(max(seconds) * 1000, 50, "{:g} ms"),
    )
    path.unlink()
    return table


if __name__ == "__main__":
    main_of(__doc__, tables, rounds=7)
