"""torch.compile with and without the pack's nodes: graphs, graph breaks, and graphs that a second
run adds.

    python benchmarks/compiled.py

What TorchDynamo traces does not depend on what is then made of it, so its own backend "eager" is
enough, and no compiler is needed. The networks attend as on a GPU: the host's attention for a CPU
reads a file of the system's for the free memory, a break each time.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import in_host

in_host.enter()

import comfy.ops  # noqa: E402
import torch  # noqa: E402
from comfy.ldm.modules.attention import attention_pytorch  # noqa: E402
from comfy_api.torch_helpers import set_torch_compile_wrapper  # noqa: E402
from comfy_extras.nodes_torch_compile import skip_torch_compile_dict  # noqa: E402
from comfyui_fewstep.motion.keys import Architecture  # noqa: E402
from comfyui_fewstep.motion.module import MotionModule  # noqa: E402
from comfyui_fewstep.nodes.host import motion as motion_patch  # noqa: E402
from comfyui_fewstep.nodes.host.model import with_linear_betas  # noqa: E402
from sampling import LIGHTX2V, Call, clip, few_step, ksampler, with_settings  # noqa: E402
from skip import step_skip  # noqa: E402
from stream import by_ar_video, causal_model, streamed  # noqa: E402
from tables import Table, Target, main_of  # noqa: E402
from torch._dynamo.utils import counters  # noqa: E402

from small_models import conditioning, load_model, unet_patcher, write_wan  # noqa: E402


@dataclass(frozen=True)
class Traced:
    """graphs and breaks of a first run, and how many graphs a second one added."""

    graphs: int
    breaks: int
    again: int

    def __str__(self) -> str:
        return (
            f"graphs: {self.graphs}, breaks: {self.breaks}, new graphs in a second run:"
            f" {self.again}"
        )


def cases(folder: Path) -> tuple[tuple[str, Callable[[], Call], Callable[[], Call]], ...]:
    """(what, ours, core's)."""
    model = load_model(write_wan(folder / "wan1.safetensors", layers=1))
    fast, causal = with_settings(model, LIGHTX2V), causal_model(folder, layers=1)
    text, latent = conditioning(length=6), clip(2, 4)
    unet, picture = unet_patcher("sd15"), {"samples": torch.zeros(2, 4, 8, 8)}
    prompt = conditioning(unet, length=77)
    return (
        (
            "Few-Step Sampler against core's KSampler",
            lambda: few_step(compiled(fast), text, latent),
            lambda: ksampler(compiled(fast), text, text, latent, 4, 1.0),
        ),
        (
            "Step Skip in core's KSampler against none",
            lambda: ksampler(compiled(step_skip(model)), text, text, latent, 12, 1.0),
            lambda: ksampler(compiled(model), text, text, latent, 12, 1.0),
        ),
        (
            "motion module in core's KSampler against none",
            lambda: ksampler(compiled(with_motion(unet)), prompt, prompt, picture, 2, 1.0),
            lambda: ksampler(compiled(unet), prompt, prompt, picture, 2, 1.0),
        ),
        (
            "Streaming Sampler against core's ar_video",
            lambda: streamed(compiled(causal), text, 6, 4),
            lambda: by_ar_video(compiled(causal), text, 6, 4),
        ),
    )


def tables(rounds: int, folder: Path) -> list[Table]:
    table = Table(
        "torch.compile: what TorchDynamo makes of the network",
        ("what", "core", "ours", "target"),
        "The breaks of the causal network are those of the host's attention for a CPU, which cannot"
        " be replaced in it.",
    )
    for what, ours, cores in cases(folder):
        mine, theirs = traced(ours), traced(cores)
        is_met = mine.breaks <= theirs.breaks and mine.again <= theirs.again
        table.row(what, theirs, mine, Target("no more breaks, none later", is_met))
    return [table]


def with_motion(unet):
    """A motion module of AnimateDiff v2's kind, at the width of this UNet."""
    network = MotionModule(
        Architecture(motion_patch.widths_of(unet), 32, True), operations=comfy.ops.manual_cast
    )
    moving = motion_patch.with_motion(unet, network.requires_grad_(False), "benchmark", 2)
    return with_linear_betas(moving)


def compiled(model):
    """As core's TorchCompileModel node does it."""
    patched = model.clone()
    options = patched.model_options["transformer_options"]
    options["optimized_attention_override"] = lambda _, *args, **kwargs: attention_pytorch(
        *args, **kwargs
    )
    set_torch_compile_wrapper(
        model=patched, backend="eager", options={"guard_filter_fn": skip_torch_compile_dict}
    )
    return patched


def traced(make: Callable[[], Call]) -> Traced:
    torch._dynamo.reset()
    counters.clear()
    run = make()
    in_host.seconds_of(run)
    graphs = counters["stats"]["unique_graphs"]
    in_host.seconds_of(run)
    return Traced(
        graphs, sum(counters["graph_break"].values()), counters["stats"]["unique_graphs"] - graphs
    )


if __name__ == "__main__":
    main_of(__doc__, tables, rounds=1)
