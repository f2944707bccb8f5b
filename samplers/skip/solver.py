"""What a sampler does with the evaluations it asks for, as far as leaving some out depends on it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

# Parts of the names of ComfyUI's sampler functions that inject noise on the way. A sampler of another pack that is named
# after none of these is taken for deterministic.
STOCHASTIC_NAMES = ("ancestral", "sde", "ddpm", "seeds", "sa_solver", "restart")

# Samplers for which no forecast can stand in for an evaluation, and why.
REFUSALS = {
    "lcm": "the LCM sampler replaces all of the noise at every step, so earlier evaluations say too little about the next",
    "tcd": "the TCD sampler replaces noise at every step, so earlier evaluations say too little about the next",
    "dpm_adaptive": "dpm_adaptive sizes its steps by comparing evaluations, and forecasts would deceive it",
    "ar_video": "the causal sampler fills its key-value caches by evaluating",
    "causal": "the causal sampler fills its key-value caches by evaluating",
    "stream": "the streaming sampler fills its key-value caches by evaluating",
}


@dataclass(frozen=True)
class Solver:
    """is_euler: x moves by (sigma_next - sigma)·(x - denoised)/sigma and nothing else. refusal: why nothing may be skipped."""

    name: str
    is_euler: bool = False
    is_stochastic: bool = False
    refusal: str | None = None


def solver_of(function_name: str, options: Mapping[str, Any]) -> Solver:
    """Traits of a k-diffusion style sampler function from its name and its options (s_churn, eta)."""
    name = function_name.removeprefix("sample_").removesuffix("_function")
    refusal = next((reason for part, reason in REFUSALS.items() if part in name), None)
    churns = float(options.get("s_churn", 0) or 0) > 0
    # CFG++ variants without "ancestral" in their name call the ancestral code with eta 0.
    named_stochastic = any(part in name for part in STOCHASTIC_NAMES) and options.get("eta", 1) != 0
    return Solver(name, is_euler=name == "euler" and not churns, is_stochastic=churns or named_stochastic, refusal=refusal)
