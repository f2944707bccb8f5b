"""Muon for the matrices and AdamW for the rest, stepped as one: fewer steps than AdamW alone on
both demo models.

Muon: Jordan et al. 2024; a convolution kernel counts as the matrix (out, in·kt·kh·kw).
"""

from collections.abc import Callable

import torch


class MuonAdamW:
    """One learning-rate schedule over both. Build it after the model is on its device: Muon works
    on views.
    """

    def __init__(
        self,
        model: torch.nn.Module,
        takes_muon: Callable[[str, torch.Tensor], bool],
        muon_rate: float,
        adam_rate: float,
    ):
        named = [
            (name, weight) for name, weight in model.named_parameters() if weight.requires_grad
        ]
        self.weights = [weight for name, weight in named if takes_muon(name, weight)]
        # In the same storage as the weights.
        self.matrices = [torch.nn.Parameter(weight.data.flatten(1)) for weight in self.weights]
        others = [weight for name, weight in named if not takes_muon(name, weight)]
        self.parts = [torch.optim.AdamW(others, lr=adam_rate, weight_decay=0.0, betas=(0.9, 0.98))]
        if self.matrices:
            muon = torch.optim.Muon(
                self.matrices, lr=muon_rate, weight_decay=0.0, adjust_lr_fn="match_rms_adamw"
            )
            self.parts.append(muon)
        self.peaks = [adam_rate, muon_rate]
        self.parameters = [weight for _, weight in named]

    def step(self, rate: float) -> None:
        """Clip the gradients, update with `rate` times the peak learning rates, and clear the
        gradients.
        """
        torch.nn.utils.clip_grad_norm_(self.parameters, 1.0)
        for weight, matrix in zip(self.weights, self.matrices, strict=True):
            matrix.grad = None if weight.grad is None else weight.grad.flatten(1)
        for part, peak in zip(self.parts, self.peaks, strict=False):
            for group in part.param_groups:
                group["lr"] = peak * rate
            part.step()
        for weight in self.parameters:
            weight.grad = None

    def state_dict(self) -> list[dict]:
        return [part.state_dict() for part in self.parts]

    def load_state_dict(self, states: list[dict]) -> None:
        for part, state in zip(self.parts, states, strict=True):
            part.load_state_dict(state)


def warm_up_then_decay(step: int, steps: int, warm_up: int = 50, flat_share: float = 0.5) -> float:
    """Share of the peak learning rate: linear warm-up, flat, then linearly to zero at `steps`."""
    return min(1.0, (step + 1) / warm_up, (steps - step) / ((1 - flat_share) * steps))
