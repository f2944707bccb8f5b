"""What a run costs once, and for each evaluation: the Few-Step Sampler and core's KSampler on the
demo model, which is so small that the first is most of it.

    python benchmarks/fixed_cost.py [--rounds 15]

Runs of 1 and of 4 steps, in turns; a straight line through both says what a run of no evaluations
would take. The same is measured with a network that answers at once. Processor time is told beside
wall time: other work on the machine does not move it. OMP_NUM_THREADS=1 keeps waiting threads out
of it.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from statistics import median

import in_host

in_host.enter()

from comfyui_fewstep.nodes import accelerator, demo  # noqa: E402
from sampling import Call, answering_at_once, few_step, ksampler  # noqa: E402
from tables import Table, at_most, main_of  # noqa: E402

LORA = "fewstep-demo/fewstep_demo_lightx2v_4step.safetensors"
FEW, MORE = 1, 4  # steps
GUIDED = 50
WHO = ("ours", "core's")


@dataclass(frozen=True)
class Cost:
    """Seconds of a run: once, and for each evaluation."""

    fixed: float
    evaluation: float

    @classmethod
    def between(cls, few: float, more: float) -> Cost:
        """By the seconds of runs in FEW and in MORE steps."""
        evaluation = (more - few) / (MORE - FEW)
        return cls(few - FEW * evaluation, evaluation)


def tables(rounds: int, folder: Path) -> list[Table]:
    table = Table(
        "A run of the demo model: what it costs once, and for each evaluation",
        note=(
            "One clip of 64 x 64, 17 frames. 25x is what 50 guided steps would be against 4"
            " accelerated ones if a run cost nothing but its evaluations, and one with guidance"
            " twice as much as one without."
        ),
    )
    demo.offer_loras()
    model, text, negative, _, latent, *_ = demo.FewStepDemo.execute(
        "a red circle moving right", 17, "base"
    ).args
    fast, _ = accelerator.attach_accelerator(model, LORA, accelerator.AUTO, 1.0)
    costs = add_costs(table, "the demo model", contenders(fast, text, latent), rounds)
    silent = contenders(answering_at_once(fast), text, latent)
    add_costs(table, "the same without its network", silent, rounds, is_target=True)
    add_ratio(table, costs, ksampler(model, text, negative, latent, GUIDED, 5.0), rounds)
    return [table]


def contenders(model, text, latent) -> Callable[[int], tuple[Call, Call]]:
    """Steps -> (ours, core's)."""
    return lambda steps: (
        few_step(model, text, latent, steps),
        ksampler(model, text, text, latent, steps, 1.0),
    )


def add_costs(
    table: Table,
    what: str,
    runs: Callable[[int], tuple[Call, Call]],
    rounds: int,
    is_target: bool = False,
) -> Cost:
    """Our cost by the wall clock. is_target: whether ours shall be no more than core's."""
    calls = {(who, steps): call for steps in (FEW, MORE) for who, call in zip(WHO, runs(steps))}
    taken = in_host.all_in_turns(calls, rounds)
    of_clocks = {}
    for clock in in_host.Taken._fields:
        seconds = {case: [getattr(one, clock) for one in each] for case, each in taken.items()}
        ours, cores = of_clocks[clock] = [
            Cost.between(*(median(seconds[who, steps]) for steps in (FEW, MORE))) for who in WHO
        ]
        more = [one - other for one, other in zip(*(seconds[who, FEW] for who in WHO))]
        ratio = ours.fixed / cores.fixed
        table.row(
            f"{what}, {clock} time: once, ours / core's; each evaluation",
            f"{1000 * ours.fixed:.2f} ms / {1000 * cores.fixed:.2f} ms;"
            f" {1000 * ours.evaluation:.2f} ms / {1000 * cores.evaluation:.2f} ms",
            f"{ratio:.3f}; ours in {FEW} step {1000 * median(more):+.2f} ms",
            at_most(ratio, 1.0, "{:.2f}") if is_target else "",
        )
    return of_clocks["wall"][0]


def add_ratio(table: Table, cost: Cost, guided: Call, rounds: int) -> None:
    """What 50 guided steps are against 4 accelerated ones, and what that is made of."""
    full = median(in_host.seconds_of(guided) for _ in range(max(1, rounds // 5)))
    fast = cost.fixed + MORE * cost.evaluation
    step = (full - cost.fixed) / GUIDED
    table.row(
        f"{GUIDED} guided steps against {MORE} accelerated ones",
        f"{full:.2f} s / {fast:.3f} s; a guided step is {step / cost.evaluation:.2f} evaluations,"
        f" what a run costs once {cost.fixed / cost.evaluation:.2f}",
        f"{full / fast:.1f}x; {(full - cost.fixed) / (fast - cost.fixed):.1f}x without the fixed"
        " cost",
        "",
    )


if __name__ == "__main__":
    main_of(__doc__, tables, rounds=15)
