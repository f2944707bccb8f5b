"""What a sampler does with the evaluations that it asks for, as far as skipping depends on it."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

# Parts of the names of ComfyUI's sampler functions that inject noise on the way. A sampler of
# another pack that is named after none of these is taken for deterministic.
STOCHASTIC_NAMES = ("ancestral", "sde", "ddpm", "seeds", "sa_solver", "restart")

# Samplers for which no forecast can stand in for an evaluation, and why.
REFUSALS = {
    "lcm": (
        "the LCM sampler replaces all of the noise at every step, so earlier evaluations say too"
        " little about the next"
    ),
    "tcd": (
        "the TCD sampler replaces noise at every step, so earlier evaluations say too little about"
        " the next"
    ),
    "dpm_adaptive": (
        "dpm_adaptive sizes its steps by comparing evaluations, and forecasts would deceive it"
    ),
    "ar_video": "the causal sampler fills its key-value caches by evaluating",
    "causal": "the causal sampler fills its key-value caches by evaluating",
    "stream": "the streaming sampler fills its key-value caches by evaluating",
}


# Solvers of which each step is linear in what the model returned at this step and at the one
# before: the weight of the latter, as a share of the whole, from the sizes of this step and of the
# last in -ln sigma. Euler 0; DPM-Solver++(2M), Lu et al. 2022, arXiv 2211.01095, algorithm 2; RES,
# Zhang et al. 2023, arXiv 2308.02157, its second-order multistep form.
LAST_SHARES: dict[str, Callable[[float, float], float]] = {
    "euler": lambda size, last: 0.0,
    "dpmpp_2m": lambda size, last: -size / (2 * last),
    "res_multistep": lambda size, last: (1 + size / math.expm1(-size)) / last,
}


@dataclass(frozen=True)
class SamplerTraits:
    """What is known of a sampler by its name and options."""

    name: str
    last_share: Callable[[float, float], float] | None = None  # of LAST_SHARES; None: not known
    is_stochastic: bool = False  # it injects noise on the way
    refusal: str | None = None  # why nothing may be skipped, if so

    @property
    def is_known(self) -> bool:
        return self.last_share is not None

    @property
    def looks_back(self) -> bool:
        """Whether a step is known to use what the model returned at the step before."""
        return self.last_share is not None and self.last_share(1.0, 1.0) != 0

    def reply(self, sigmas: Sequence[float], step: int) -> tuple[float, float]:
        """Weights of this step's denoised latent and the last one's in x at the end of a step.

        x itself has sigma_next/sigma.
        """
        assert self.last_share is not None
        sigma, sigma_next = sigmas[step : step + 2]
        whole = 1 - sigma_next / sigma
        # Nothing to look back at, or the jump to the end, which is Euler's in all of them.
        if step == 0 or sigma_next == 0:
            return whole, 0.0
        last = whole * self.last_share(
            math.log(sigma / sigma_next), math.log(sigmas[step - 1] / sigma)
        )
        return whole - last, last


def traits_of(function_name: str, options: Mapping[str, Any]) -> SamplerTraits:
    """Of a k-diffusion style sampler function, from its name and its options (s_churn, eta)."""
    name = function_name.removeprefix("sample_").removesuffix("_function")
    refusal = next((reason for part, reason in REFUSALS.items() if part in name), None)
    churns = float(options.get("s_churn", 0) or 0) > 0
    # CFG++ variants without "ancestral" in their name call the ancestral code with eta 0.
    named_stochastic = any(part in name for part in STOCHASTIC_NAMES) and options.get("eta", 1) != 0
    last_share = None if churns else LAST_SHARES.get(name)
    return SamplerTraits(
        name, last_share, is_stochastic=churns or named_stochastic, refusal=refusal
    )
