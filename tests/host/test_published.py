"""The published forecasters that benchmarks/skip.py compares with, held against their formulas and
counted on a real model.
"""

from __future__ import annotations

import comfy.sample
import pytest
import torch
from comfy.patcher_extension import WrappersMP
from published import (
    Calibration,
    Expansion,
    MagCache,
    hermite,
    hi_caches,
    made_by,
    mag_caches,
    taylor_seers,
    with_method,
)

from small_models import conditioning


def forecasts(method: Expansion, values: list[float]) -> dict[int, float]:
    """step -> what stands in for it, where a run of these outputs leaves it out."""
    found = {}
    for step, value in enumerate(values):
        if method.is_made(step):
            method.keep(step, torch.zeros(1), torch.tensor([value]))
        else:
            found[step] = method.forecast(step, torch.zeros(1)).item()
    return found


def test_taylor_seer_goes_on_along_its_differences() -> None:
    line = [3.0 * step + 1 for step in range(8)]
    assert forecasts(Expansion(3, 1, 2), line) == {2: 7.0, 3: 10.0, 5: 16.0, 6: 19.0}
    # Squares 0, 1, 4: the last differences are 3 and 2, so one step on 4 + 3 + 2 / 2 and two steps
    # on 4 + 6 + 2 * 4 / 2.
    squares = [float(step * step) for step in range(5)]
    assert forecasts(Expansion(3, 2, 3), squares) == {3: 8.0, 4: 14.0}


def test_hi_cache_puts_scaled_hermite_polynomials_in_place_of_the_powers() -> None:
    # 1, 2x, 4x^2 - 2, 8x^3 - 12x
    assert [hermite(n, 0.5) for n in range(4)] == [1.0, 1.0, -1.0, -5.0]
    squares = [float(step * step) for step in range(4)]
    # 4 + 3 * 0.5 * H1(0.5) + 2 / 2 * 0.25 * H2(0.5)
    assert forecasts(Expansion(3, 2, 3, 0.5), squares) == {3: pytest.approx(4 + 1.5 - 0.25)}


def test_mag_cache_reuses_the_residual_while_its_errors_add_up_to_less() -> None:
    ratios = [1.0, 1.0, 0.9, 0.9, 0.9, 0.9, 0.9, 0.9, 0.9, 0.9]
    # From step 2 on: 0.1, then 0.1 + 0.19 = 0.29, then 0.29 + 0.271 is too much; and again.
    assert made_by(lambda: MagCache(ratios, 0.3, 4, 0.2), 10) == (0, 1, 4, 7)
    assert made_by(lambda: MagCache(ratios, 0.3, 1, 0.2), 10) == (0, 1, 3, 5, 7, 9)
    method = MagCache(ratios, 0.3, 4, 0.2)
    method.keep(0, torch.tensor([1.0]), torch.tensor([3.0]))
    assert method.forecast(2, torch.tensor([5.0])).item() == 7.0


def test_no_setting_is_run_twice() -> None:
    for makes in (taylor_seers(20), hi_caches(20), mag_caches([1.0] * 4 + [0.98] * 16)):
        assert len(makes) > 3
        for (made, *_), make in makes.items():
            assert made_by(make, 20) == made and made[0] == 0


def sampled(model, counts: list[int]) -> torch.Tensor:
    """Eight guided steps. counts: lengthened by every forward pass of the network."""

    def count(executor, *args, **kwargs):
        counts.append(1)
        return executor(*args, **kwargs)

    counted, text = model.clone(), conditioning(model)
    counted.add_wrapper_with_key(WrappersMP.DIFFUSION_MODEL, "test.count", count)
    noise = torch.randn(1, 4, 8, 8, generator=torch.Generator().manual_seed(0))
    settings = (8, 3.0, "euler", "normal", text, conditioning(model, seed=1))
    return comfy.sample.sample(
        counted, noise, *settings, torch.zeros_like(noise), disable_pbar=True
    )


def test_on_a_model_they_make_the_evaluations_that_were_counted_before(unets) -> None:
    model, plain = unets["sd15"], []
    whole = sampled(model, plain)
    calibration, made = Calibration(), []
    assert torch.equal(sampled(with_method(model, lambda: calibration), made), whole)
    assert len(plain) == len(made) == 8 and len(calibration.ratios) == 8
    assert calibration.ratios[0] == 1.0
    for make in (lambda: Expansion(3, 2, 3), lambda: MagCache(calibration.ratios, 5.0, 2, 0.2)):
        made = []
        skipped = sampled(with_method(model, make), made)
        assert len(made) == len(made_by(make, 8)) < 8
        assert torch.isfinite(skipped).all() and not torch.equal(skipped, whole)
