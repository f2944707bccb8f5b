"""What a run costs beside its evaluations, counted: operations on tensors beside core's KSampler,
and calls of this pack's own functions. benchmarks/fixed_cost.py has the seconds.
"""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pytest
from comfyui_fewstep.nodes import accelerator, demo
from comfyui_fewstep.nodes.sampler import FewStepSampler
from torch.utils._python_dispatch import TorchDispatchMode

import nodes as core

PACK = Path(__file__).resolve().parents[2]
ROOMS = tuple(str(PACK / room) for room in ("nodes", "loras", "samplers"))
LORA = "fewstep-demo/fewstep_demo_lightx2v_4step.safetensors"
# Of this pack's own functions, in a run of one step: a plan, a report, no walk through a table of
# records or bases, of which there are hundreds.
MOST_CALLS = 260


class Operations(TorchDispatchMode):
    """Counts what is computed: on a GPU each of these is a kernel to start, or a wait."""

    def __init__(self):
        super().__init__()
        self.counts: Counter[str] = Counter()

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        self.counts[str(function)] += 1
        return function(*args, **(kwargs or {}))


def operations_of(run: Callable[[], object]) -> Counter[str]:
    run()  # the host loads the model in the first
    with Operations() as counted:
        run()
    return counted.counts


def own_calls_of(run: Callable[[], object]) -> Counter[str]:
    """How often each function of this pack is called."""
    calls: Counter[str] = Counter()

    def count(frame, event, _):
        code = frame.f_code
        if event == "call" and code.co_filename.startswith(ROOMS):
            calls[f"{Path(code.co_filename).name} {code.co_name}"] += 1

    run()
    sys.setprofile(count)
    try:
        run()
    finally:
        sys.setprofile(None)
    return calls


@pytest.fixture(scope="module")
def runs(models):
    """Steps -> (ours, core's) on the demo model."""
    demo.offer_loras()
    model, text, _, _, latent, *_ = demo.FewStepDemo.execute(
        "a red circle moving right", 17, "base"
    ).args
    fast, _ = accelerator.attach_accelerator(model, LORA, accelerator.AUTO, 1.0)
    return lambda steps: (
        lambda: FewStepSampler.execute(fast, text, latent, 1, steps, 1.0),
        lambda: core.KSampler().sample(fast, 1, steps, 1.0, "euler", "simple", text, text, latent),
    )


@pytest.mark.parametrize("steps", [1, 4])
def test_a_run_computes_no_more_on_tensors_than_cores_sampler(runs, steps):
    ours, cores = map(operations_of, runs(steps))
    assert ours.total() <= cores.total(), ours - cores
    # A look at every number of a latent, which takes a while where that is a long clip.
    assert ours["aten.count_nonzero.default"] == cores["aten.count_nonzero.default"]


def test_our_own_work_for_a_run_is_bounded_and_hardly_grows_with_its_steps(runs):
    one, four = (own_calls_of(runs(steps)[0]) for steps in (1, 4))
    assert one.total() <= MOST_CALLS, one.most_common(12)
    # Each evaluation is counted and shown; sigmas and words of the report are a few more.
    assert four.total() - one.total() <= 3 * 8, (four - one).most_common(12)
