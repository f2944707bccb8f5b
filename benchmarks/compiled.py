"""torch.compile with and without the pack's nodes: graphs, graph breaks, and graphs that a second run adds.

    python benchmarks/compiled.py

What TorchDynamo traces does not depend on what is then made of it, so its own backend "eager" is enough, and no compiler is needed.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import in_host

in_host.enter()

import torch  # noqa: E402
from comfy_api.torch_helpers import set_torch_compile_wrapper  # noqa: E402
from comfy_extras.nodes_torch_compile import skip_torch_compile_dict  # noqa: E402
from sampling import LIGHTX2V, Call, clip, few_step, ksampler, with_settings  # noqa: E402
from skip import step_skip  # noqa: E402
from tables import Table, Target, main_of  # noqa: E402
from torch._dynamo.utils import counters  # noqa: E402

from small_models import conditioning, load_model, write_wan  # noqa: E402


@dataclass(frozen=True)
class Traced:
    """graphs and breaks of a first run, and how many graphs a second one added."""

    graphs: int
    breaks: int
    again: int

    def __str__(self) -> str:
        return f"{self.graphs} graphs, {self.breaks} breaks, {self.again} more in a second run"


def tables(rounds: int, folder: Path) -> list[Table]:
    model = load_model(write_wan(folder / "wan1.safetensors", layers=1))
    text, latent = conditioning(length=6), clip(2, 4)
    fast = with_settings(model, LIGHTX2V)
    table = Table("torch.compile: what TorchDynamo makes of the network")
    cases = (
        ("Few-Step Sampler against core's KSampler", lambda: few_step(compiled(fast), text, latent),
         lambda: ksampler(compiled(fast), text, text, latent, 4, 1.0)),
        ("Step Skip in core's KSampler against none", lambda: ksampler(compiled(step_skip(model)), text, text, latent, 12, 1.0),
         lambda: ksampler(compiled(model), text, text, latent, 12, 1.0)),
    )
    for what, ours, cores in cases:
        mine, theirs = traced(ours), traced(cores)
        table.row(what, theirs, mine, Target("equal", mine == theirs))
    return [table]


def compiled(model):
    """As core's TorchCompileModel node does it."""
    patched = model.clone()
    set_torch_compile_wrapper(model=patched, backend="eager", options={"guard_filter_fn": skip_torch_compile_dict})
    return patched


def traced(make: Callable[[], Call]) -> Traced:
    torch._dynamo.reset()
    counters.clear()
    run = make()
    in_host.seconds_of(run)
    graphs = counters["stats"]["unique_graphs"]
    in_host.seconds_of(run)
    return Traced(graphs, sum(counters["graph_break"].values()), counters["stats"]["unique_graphs"] - graphs)


if __name__ == "__main__":
    main_of(__doc__, tables, rounds=1)
