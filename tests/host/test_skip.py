"""Step Skip on the real host: every sampler, every way of conditioning, other skip nodes, and
nothing left behind.
"""

from __future__ import annotations

import functools
import itertools
import math
from types import SimpleNamespace

import comfy.controlnet
import comfy.hooks
import comfy.model_management
import comfy.patcher_extension
import comfy.sample
import comfy.samplers
import pytest
import torch
from comfy.k_diffusion import sampling
from comfy_extras.nodes_context_windows import ContextWindowsManualNode
from comfy_extras.nodes_custom_sampler import (
    BasicScheduler,
    CFGGuider,
    KSamplerSelect,
    RandomNoise,
    SamplerCustomAdvanced,
)
from comfy_extras.nodes_easycache import EasyCacheNode, LazyCacheNode
from comfy_extras.nodes_pag import PerturbedAttentionGuidance
from comfy_extras.nodes_slg import SkipLayerGuidanceDiT
from comfyui_fewstep.loras.catalog import CATALOG
from comfyui_fewstep.nodes import skip as skip_node
from comfyui_fewstep.nodes.host import skip as skip_patch
from comfyui_fewstep.nodes.host.attach import with_record
from comfyui_fewstep.nodes.host.model import with_model_sampling
from comfyui_fewstep.nodes.host.report import Report
from comfyui_fewstep.nodes.host.skip import KEY
from comfyui_fewstep.nodes.sampler import FewStepSampler
from comfyui_fewstep.nodes.skip import FewStepSkip
from comfyui_fewstep.samplers.skip import METHODS
from comfyui_fewstep.samplers.skip import run as skip_run
from comfyui_fewstep.samplers.skip.method import Decision, Moment, SkipMethod
from comfyui_fewstep.samplers.skip.tally import Tally
from comfyui_fewstep.samplers.skip.traits import LAST_SHARES, traits_of
from thinning import corners, thorough
from torch import Tensor

import nodes as core
import small_models

STEPS = 12
# These may find nothing to leave out in 12 steps. dpm_fast goes its own way between the first and
# the last sigma.
STOCHASTIC_OR_OWN_WAY = (
    "ancestral",
    "sde",
    "ddpm",
    "seeds",
    "sa_solver",
    "lcm",
    "dpm_adaptive",
    "dpm_fast",
)
# Random weights bend more than trained ones; a prediction that is stale, doubled or of another
# prompt is off by 0.5 and more.
CLOSE = 0.2


def skip(
    model,
    method="forecast",
    target_speedup=1.6,
    threshold=3.0,
    start_percent=0.15,
    end_percent=0.95,
    max_consecutive=3,
    cache_device="auto",
):
    return FewStepSkip.execute(
        model,
        method,
        target_speedup,
        threshold,
        start_percent,
        end_percent,
        max_consecutive,
        cache_device,
    ).args[0]


@pytest.fixture(scope="module")
def flux(models):
    return small_models.load_model(
        small_models.write_flux(models / "diffusion_models" / "skip_flux.safetensors")
    )


@pytest.fixture(scope="module")
def wan(models):
    return small_models.load_model(
        small_models.write_wan(models / "diffusion_models" / "skip_wan.safetensors")
    )


@pytest.fixture
def reports(monkeypatch) -> list[Report]:
    """What Step Skip published, run by run."""
    seen: list[Report] = []
    monkeypatch.setattr(Report, "publish", lambda report, hidden: seen.append(report) or {})
    return seen


def flux_text(seed=0, **values):
    return [
        [tensor, {**options, "guidance": 3.5, **values}]
        for tensor, options in small_models.conditioning(width=4096, seed=seed)
    ]


def sample(
    model,
    sampler="euler",
    *,
    positive=None,
    negative=None,
    cfg=3.0,
    steps=STEPS,
    shape=(1, 16, 8, 8),
    seed=5,
    scheduler="simple",
    **more,
) -> Tensor:
    noise = torch.randn(shape, generator=torch.Generator().manual_seed(seed))
    return comfy.sample.sample(
        model,
        noise,
        steps,
        cfg,
        sampler,
        scheduler,
        positive or flux_text(1),
        negative or flux_text(2),
        torch.zeros(shape),
        disable_pbar=True,
        seed=seed,
        **more,
    )


def counted(model):
    """(the model, a list that grows by the batch rows of every forward pass)"""
    rows: list[int] = []

    def count(executor, x, *args, **kwargs):
        rows.append(x.shape[0])
        return executor(x, *args, **kwargs)

    patched = model.clone()
    patched.add_wrapper_with_key(
        comfy.patcher_extension.WrappersMP.APPLY_MODEL, "test.count", count
    )
    return patched, rows


def difference(a: Tensor, b: Tensor) -> float:
    return ((a - b).norm() / b.norm()).item()


# ---------------------------------------------------------------- samplers


def kind_of(sampler: str) -> tuple:
    """What Step Skip tells samplers apart by, and what the host does."""
    marks = ("cfg_pp", "gpu", "ancestral", "sde", "2m", "3m", "multistep", "fast")
    return sampler in LAST_SHARES, *(mark in sampler for mark in marks)


@corners("sampler", of=kind_of)
@pytest.mark.parametrize("sampler", comfy.samplers.SAMPLER_NAMES)
def test_every_sampler_of_the_host_runs_twice_alike(flux, reports, sampler):
    model, rows = counted(skip(flux))
    # dpm_adaptive needs hundreds of evaluations where the weights are random.
    size = 2 if sampler == "dpm_adaptive" else 4
    first = sample(model, sampler, shape=(1, 16, size, size))
    forward_passes = len(rows)
    assert torch.equal(first, sample(model, sampler, shape=(1, 16, size, size)))
    assert torch.isfinite(first).all()
    data = reports[0].data
    assert (
        forward_passes
        == data["evaluations_made"]
        == data["evaluations_asked"] - len(data["steps_skipped"])
    )
    assert data == {**reports[1].data, "measured_speedup": data["measured_speedup"]}
    if not any(part in sampler for part in STOCHASTIC_OR_OWN_WAY):
        assert data["evaluations_made"] < data["evaluations_asked"]


@corners()
@pytest.mark.parametrize(
    "sampler",
    [
        "euler",
        "dpmpp_2m",
        "heun",
        "euler_ancestral",
        "euler_cfg_pp",
        "dpmpp_2m_cfg_pp",
        "res_multistep",
    ],
)
@pytest.mark.parametrize(
    "settings", [{"target_speedup": 1.0}, {"method": "teacache", "threshold": 0.0}]
)
def test_nothing_skipped_equals_no_node_bit_for_bit(flux, reports, sampler, settings):
    assert torch.equal(sample(skip(flux, **settings), sampler), sample(flux, sampler))
    assert reports[0].data["steps_skipped"] == []


@pytest.mark.parametrize("sampler", LAST_SHARES)
def test_known_solvers_do_what_the_corrector_takes_them_to_do(flux, sampler):
    sigmas = [1.0, 0.8, 0.5, 0.3, 0.1]
    steps = range(len(sigmas) - 1)

    def end(told: int) -> Tensor:
        """Where the host's sampler ends when the model returns 1 at step `told` and 0 at the
        others.
        """
        patched, count = flux.clone(), iter(steps)
        patched.add_wrapper_with_key(
            comfy.patcher_extension.WrappersMP.APPLY_MODEL,
            "test.told",
            lambda executor, x, *args, **kwargs: torch.full_like(x, float(next(count) == told)),
        )
        latent = torch.zeros(1, 16, 2, 2)
        return comfy.sample.sample_custom(
            patched,
            latent,
            1.0,
            comfy.samplers.ksampler(sampler),
            torch.tensor(sigmas),
            flux_text(),
            flux_text(),
            latent,
            disable_pbar=True,
            seed=0,
        ).mean()

    solver = traits_of(f"sample_{sampler}", {})
    expected = []
    for told in steps:
        x = 0.0
        for step in steps:
            now, before = solver.reply(sigmas, step)
            x = (
                sigmas[step + 1] / sigmas[step] * x
                + now * (step == told)
                + before * (step - 1 == told)
            )
        expected.append(x)
    nothing = end(-1)
    found = torch.stack([end(told) - nothing for told in steps])
    # Up to the factor that the host's latent format puts on the result.
    torch.testing.assert_close(
        found / found[-1], torch.tensor(expected) / expected[-1], rtol=1e-4, atol=1e-5
    )


@pytest.mark.parametrize(
    "sampler",
    ["euler_cfg_pp", "dpmpp_2m_cfg_pp", "res_multistep_cfg_pp", "gradient_estimation_cfg_pp"],
)
def test_cfg_pp_samplers_read_a_forecast_of_the_unconditional_prediction(flux, reports, sampler):
    # With the prediction of an earlier step left in place the error is several times that of the
    # guided forecast.
    reference = sample(flux, sampler, cfg=1.5, steps=20)
    assert difference(sample(skip(flux), sampler, cfg=1.5, steps=20), reference) < CLOSE
    assert reports[0].data["evaluations_made"] < 15


@pytest.mark.parametrize("steps", [4, 8, 9])
def test_few_steps_pass_through_bit_for_bit_and_say_why(flux, reports, steps):
    assert torch.equal(
        sample(skip(flux, target_speedup=3.0), steps=steps), sample(flux, steps=steps)
    )
    assert f"{steps} evaluations are too few" in reports[0].data["passed_through"] or steps == 4
    assert any("passed through" in note for note in reports[0].notes)


def test_lcm_passes_through_bit_for_bit_and_says_why(flux, reports):
    assert torch.equal(sample(skip(flux), "lcm"), sample(flux, "lcm"))
    assert "LCM" in reports[0].data["passed_through"]


@pytest.mark.parametrize(
    ("function", "name", "note"),
    [
        (
            functools.partial(sampling.sample_lcm, noise_sampler=None),
            "lcm",
            "passed through: the LCM sampler",
        ),
        (
            functools.partial(sampling.sample_euler, s_churn=0.1),
            "euler",
            "a sampler that injects noise",
        ),
    ],
)
def test_a_sampler_in_a_partial_is_known_by_its_own_name_and_options(
    flux, reports, function, name, note
):
    # As other packs hand options to a sampler.
    latent = torch.zeros(1, 16, 2, 2)
    comfy.sample.sample_custom(
        skip(flux, target_speedup=4.0),
        latent,
        1.0,
        comfy.samplers.KSAMPLER(function),
        torch.linspace(1, 0, STEPS + 1),
        flux_text(),
        flux_text(),
        latent,
        disable_pbar=True,
        seed=0,
    )
    assert reports[0].data["sampler"] == name and any(note in said for said in reports[0].notes)


def test_noise_prediction_models_are_skipped_too(unets, reports):
    model, text = unets["sd15"], small_models.conditioning(unets["sd15"])
    options = dict(positive=text, negative=text, shape=(1, 4, 8, 8), scheduler="karras", steps=16)
    reference = sample(model, "dpmpp_2m", **options)
    assert (
        difference(sample(skip(model, end_percent=1.0), "dpmpp_2m", **options), reference) < CLOSE
    )
    assert reports[0].data["evaluations_made"] <= 11


# ---------------------------------------------------------------- what conditions a run


class CountingControl(comfy.controlnet.ControlBase):
    """A ControlNet of the host's base class whose control is a constant."""

    def __init__(self):
        super().__init__()
        self.calls = 0

    def get_control(self, x_noisy, t, cond, batched_number, transformer_options):
        if self.timestep_range is not None and (
            t[0] > self.timestep_range[0] or t[0] < self.timestep_range[1]
        ):
            return None
        self.calls += 1
        tokens = x_noisy.shape[-2] // 2 * (x_noisy.shape[-1] // 2)
        return {"input": [torch.full((x_noisy.shape[0], tokens, 256), 0.5)], "output": []}

    def get_models(self):
        return []

    def copy(self):
        return self


def masked(shape) -> Tensor:
    mask = torch.ones(shape[0], 1, *shape[-2:])
    mask[..., : shape[-1] // 2] = 0
    return mask


def regional(seed):
    left, right = (
        flux_text(seed, area=(8, 4, 0, 0), strength=1.0),
        flux_text(seed + 1, area=(8, 4, 0, 4), strength=1.0),
    )
    return left + right


WAYS = {
    "no guidance": dict(cfg=1.0),
    "guidance": dict(cfg=4.0),
    "regional prompts": dict(positive=regional(3)),
    "inpainting mask": dict(noise_mask=masked((1, 16, 8, 8))),
    "batch": dict(shape=(3, 16, 8, 8)),
    "part of a schedule": dict(steps=30, start_step=4, last_step=24, force_full_denoise=True),
}


@pytest.mark.parametrize("way", list(WAYS))
def test_ways_of_sampling(flux, reports, way):
    reference = sample(flux, **WAYS[way])
    model, rows = counted(skip(flux))
    assert difference(sample(model, **WAYS[way]), reference) < CLOSE
    data = reports[0].data
    assert data["evaluations_made"] < data["evaluations_asked"]
    _, plain_rows = plain = counted(flux)
    sample(plain[0], **WAYS[way])
    assert sum(rows) / sum(plain_rows) == pytest.approx(
        data["evaluations_made"] / data["evaluations_asked"]
    )


def test_a_prompt_that_changes_forces_evaluations(flux, reports):
    # Steps 0 to 9 see the first prompt, 10 to 19 the second: shift 1.15 makes 50 % of the schedule
    # step 10.
    scheduled = flux_text(1, start_percent=0.0, end_percent=0.5) + flux_text(
        7, start_percent=0.5, end_percent=1.0
    )
    sample(skip(flux, target_speedup=2.0), positive=scheduled, steps=20)
    sample(skip(flux, target_speedup=2.0), steps=20)
    changed, same = (set(report.data["steps_skipped"]) for report in reports)
    window = {10, 11, 12}
    assert same & window and len(changed & window) < len(same & window)


def test_controlnet_is_not_run_on_a_skip_and_its_range_is_respected(flux, reports):
    control = CountingControl()
    control.timestep_percent_range = (0.0, 1.0)
    model = skip(flux)
    sample(model, positive=flux_text(1, control=control), steps=20)
    assert control.calls == reports[0].data["evaluations_made"] < 20
    control.timestep_percent_range = (0.0, 0.5)
    sample(model, positive=flux_text(1, control=control), steps=20)
    assert control.calls < 20


def test_hook_keyframes_force_evaluations(flux):
    from comfyui_fewstep.nodes.host.skip import boundaries

    group = comfy.hooks.HookKeyframeGroup()
    for percent in (0.0, 0.5):
        group.add(comfy.hooks.HookKeyframe(strength=1.0, start_percent=percent))
    hook = comfy.hooks.WeightHook()
    hook.hook_keyframe = group
    group.initialize_timesteps(flux.model)
    hooks = comfy.hooks.HookGroup()
    hooks.add(hook)
    starts, ends = boundaries([{"hooks": hooks}])
    assert len(starts) == 2 and 0.4 < starts[0] < 0.9 and not ends


@pytest.mark.parametrize(
    ("patch", "fixture", "options"),
    [
        (
            lambda model: SkipLayerGuidanceDiT.execute(model, 2.0, 0.0, 1.0, "1", "1").args[0],
            "flux",
            {},
        ),
        (
            lambda model: PerturbedAttentionGuidance.execute(model, 2.0).args[0],
            "sd15",
            {"shape": (1, 4, 8, 8), "scheduler": "karras"},
        ),
    ],
    ids=["SLG", "PAG"],
)
def test_guidance_that_evaluates_again(flux, unets, reports, patch, fixture, options):
    base = flux if fixture == "flux" else unets["sd15"]
    if fixture == "sd15":
        text = small_models.conditioning(base)
        options = {**options, "positive": text, "negative": text}
    guided = patch(base)
    reference = sample(guided, **options)
    for model in (skip(guided, end_percent=1.0), patch(skip(base, end_percent=1.0))):
        assert difference(sample(model, **options), reference) < CLOSE
    assert all(report.data["steps_skipped"] for report in reports)


@pytest.mark.parametrize("schedule", ["standard_static", "batched", "standard_uniform"])
def test_context_windows(wan, reports, schedule):
    windowed = ContextWindowsManualNode.execute(
        wan, 5, 2, schedule, 1, False, "pyramid", 2, False
    ).args[0]
    text = small_models.conditioning(length=6)
    options = dict(positive=text, negative=text, shape=(1, 16, 8, 4, 4))
    reference = sample(windowed, **options)
    assert difference(sample(skip(windowed), **options), reference) < CLOSE
    assert reports[0].data["steps_skipped"]


def test_two_experts_are_two_runs_with_two_states(wan, reports):
    # As Wan 2.2 is sampled in core: the second sampler goes on where the first stopped.
    text, latent = small_models.conditioning(length=6), {"samples": torch.zeros(1, 16, 2, 4, 4)}
    model = skip(wan)

    def run() -> Tensor:
        ksampler = core.KSamplerAdvanced()
        high = ksampler.sample(
            model, "enable", 3, 30, 3.0, "euler", "simple", text, text, latent, 0, 14, "enable"
        )[0]
        return ksampler.sample(
            model, "disable", 3, 30, 3.0, "euler", "simple", text, text, high, 14, 30, "disable"
        )[0]["samples"]

    assert torch.equal(run(), run())
    assert [report.data["evaluations_asked"] for report in reports] == [14, 16] * 2
    assert all(report.data["steps_skipped"] for report in reports)


def test_sampler_custom_advanced_and_ksampler_agree(flux, reports):
    model = skip(flux)
    latent = {"samples": torch.zeros(1, 16, 8, 8)}
    ksampler = core.common_ksampler(
        model, 9, STEPS, 3.0, "euler", "simple", flux_text(1), flux_text(2), latent
    )[0]["samples"]
    guider = CFGGuider.execute(model, flux_text(1), flux_text(2), 3.0).args[0]
    sigmas = BasicScheduler.execute(model, "simple", STEPS, 1.0).args[0]
    sampler = KSamplerSelect.execute("euler").args[0]
    advanced = SamplerCustomAdvanced.execute(
        RandomNoise.execute(9).args[0], guider, sampler, sigmas, latent
    )
    assert torch.equal(ksampler, advanced.args[0]["samples"])
    assert len(reports) == 2 and all(report.data["steps_skipped"] for report in reports)


# ---------------------------------------------------------------- state


@pytest.mark.parametrize("method", ["forecast", "teacache"])
def test_batch_and_resolution_may_change_between_runs(flux, method):
    model = skip(flux, method, threshold=0.4)
    first = sample(model)
    for shape in ((2, 16, 8, 8), (1, 16, 16, 4)):
        assert sample(model, shape=shape).shape == shape
    assert torch.equal(sample(model), first)


def test_interrupted_runs_leave_nothing_behind(flux, reports):
    model = skip(flux)
    first = sample(model)

    def interrupt(step, denoised, x, steps):
        if step == 7:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        sample(model, callback=interrupt)
    assert KEY not in model.model_options and KEY not in flux.model_options
    assert not any(KEY in str(name) for name in vars(model.model)) and KEY not in vars(
        model.model.diffusion_model
    )
    assert torch.equal(sample(model), first)
    assert len(reports) == 2


def test_history_on_the_cpu_changes_nothing(flux, reports):
    assert torch.equal(
        sample(skip(flux, cache_device="cpu")), sample(skip(flux, cache_device="model"))
    )
    assert torch.equal(
        sample(skip(flux, cache_device="cpu"), "dpmpp_2m"),
        sample(skip(flux, cache_device="model"), "dpmpp_2m"),
    )
    # Two float32 latents of 16 x 8 x 8, and for a sampler that looks back what it was given to make
    # good for a skip.
    assert [report.data["history_bytes"] for report in reports] == [2 * 16 * 8 * 8 * 4] * 2 + [
        3 * 16 * 8 * 8 * 4
    ] * 2


@pytest.mark.parametrize(
    ("fixture", "sampler", "steps", "latents"),
    [
        ("flux", "euler", STEPS, 2),
        ("flux", "dpmpp_2m", STEPS, 2 + 1),
        ("flux", "euler_ancestral", 20, 2 * 2),
        ("flux", "euler_cfg_pp", STEPS, 3 * 2),
        ("sd15", "euler", 30, 3),
        ("sd15", "dpmpp_2m", 30, 3 + 1),
        ("sd15", "dpmpp_2m_cfg_pp", 30, 3 * 3),
    ],
)
def test_auto_reckons_with_all_that_is_kept(
    flux, unets, reports, monkeypatch, fixture, sampler, steps, latents
):
    # Two or three derivatives; where they are looked at, their denoised latents, what a solver
    # takes along, and all three predictions.
    model, shape, options = flux.clone(), (1, 16, 8, 8), {}
    if fixture == "sd15":
        text = small_models.conditioning(unets["sd15"])
        model, shape, options = (
            unets["sd15"].clone(),
            (1, 4, 8, 8),
            {"positive": text, "negative": text, "scheduler": "karras"},
        )
    # What the model returns does not matter here, so it is not run.
    model.add_wrapper_with_key(
        comfy.patcher_extension.WrappersMP.APPLY_MODEL,
        "test.half",
        lambda executor, x, *args, **kwargs: 0.5 * x,
    )
    devices, kept, free = history_devices(monkeypatch), latents * 4 * math.prod(shape), 2**40
    monkeypatch.setattr(
        comfy.model_management,
        "get_free_memory",
        lambda device=None, torch_too=False: (free, free) if torch_too else free,
    )
    for share in (kept / free, (kept - 1) / free):
        monkeypatch.setattr(skip_patch, "FREE_MEMORY_SHARE", share)
        sample(skip(model), sampler, steps=steps, shape=shape, **options)
    assert [report.data["history_bytes"] for report in reports] == [kept] * 2
    assert devices == [None, torch.device("cpu")]


def history_devices(monkeypatch) -> list[torch.device | None]:
    """Where the runs from now on keep their history, run by run."""
    devices: list[torch.device | None] = []

    class Seen(skip_patch.SkipRun):
        def __init__(self, *args, device, **more):
            devices.append(device)
            super().__init__(*args, device=device, **more)

    monkeypatch.setattr(skip_patch, "SkipRun", Seen)
    return devices


def test_adding_the_node_does_not_make_the_host_load_the_weights_again(flux):
    assert skip(flux).clone_has_same_weights(flux) and flux.clone_has_same_weights(skip(flux))


def test_the_model_given_is_not_changed(flux):
    before = sample(flux)
    skip(flux)
    assert torch.equal(sample(flux), before)


@thorough
def test_torch_compile_sees_no_more_graph_breaks(flux, monkeypatch, request):
    from comfy_api.torch_helpers import set_torch_compile_wrapper
    from torch._dynamo.utils import counters

    request.addfinalizer(torch._dynamo.reset)  # graphs keep tensors alive, which later tests count

    # The host's attention reads the free memory, and a graph is made anew for every other value of
    # it.
    monkeypatch.setattr(
        comfy.model_management,
        "get_free_memory",
        lambda device=None, torch_free_too=False: (8 << 30, 0) if torch_free_too else 8 << 30,
    )

    def breaks(model) -> tuple[int, int]:
        torch._dynamo.reset()
        counters.clear()
        patched = model.clone()
        set_torch_compile_wrapper(patched, backend="eager")
        sample(patched)
        return sum(counters["graph_break"].values()), counters["stats"]["unique_graphs"]

    breaks(flux)  # the first time, the host's own caches are traced too
    assert breaks(skip(flux)) == breaks(flux)


# ---------------------------------------------------------------- other skip nodes


def easy_cache(model):
    return EasyCacheNode.execute(model, 0.2, 0.15, 0.95, False).args[0]


def lazy_cache(model):
    return LazyCacheNode.execute(model, 0.2, 0.15, 0.95, False).args[0]


@pytest.mark.parametrize(
    ("other", "name"),
    [(easy_cache, "EasyCache"), (lazy_cache, "LazyCache"), (skip, "another Step Skip")],
)
def test_another_skip_node_before_this_one_is_an_error_naming_both(flux, other, name):
    with pytest.raises(ValueError, match=f"(?s){name}.*Step Skip"):
        skip(other(flux))


@pytest.mark.parametrize(("other", "name"), [(easy_cache, "EasyCache"), (lazy_cache, "LazyCache")])
def test_another_skip_node_after_this_one_is_an_error_naming_both(flux, other, name):
    with pytest.raises(ValueError, match=f"(?s){name}.*Step Skip"):
        sample(other(skip(flux)))


def test_a_cache_of_another_pack_is_recognised_by_where_it_comes_from(flux):
    def teacache_forward_wrapper(apply_model, args):
        return apply_model(args["input"], args["timestep"], **args["c"])

    model = flux.clone()
    model.set_model_unet_function_wrapper(teacache_forward_wrapper)
    with pytest.raises(ValueError, match="(?s)teacache_forward_wrapper.*Step Skip"):
        skip(model)


# ---------------------------------------------------------------- methods and reports


def test_teacache_on_wan_listens_to_the_time_embedding(wan, reports):
    text = small_models.conditioning(length=6)
    options = dict(positive=text, negative=text, shape=(1, 16, 2, 4, 4), steps=20)
    for threshold in (0.0, 1.5, 3.0):
        sample(skip(wan, "teacache", threshold=threshold), **options)
    made = [report.data["evaluations_made"] for report in reports]
    assert made[0] == 20 and made[0] > made[1] > made[2]
    assert "time embedding" in reports[0].notes[0]
    # It depends on the timestep alone: another latent and another prompt skip the same steps.
    sample(
        skip(wan, "teacache", threshold=1.5),
        **{**options, "seed": 77, "positive": small_models.conditioning(length=6, seed=9)},
    )
    assert reports[3].data["steps_skipped"] == reports[1].data["steps_skipped"]


class Repeat(SkipMethod):
    """Every second step repeats the derivative of the evaluation before it."""

    does = "repeats every second step."
    about_threshold = "not more than 1."

    def decide(self, moment: Moment) -> Decision:
        return Decision.SKIP if moment.step % 2 else Decision.EVALUATE

    def predict(self, x: Tensor, moment: Moment, entries, run_length: int) -> Tensor:
        return entries[-1].derivative.to(x.device, copy=True)

    def notes(self, tally: Tally) -> tuple[str, ...]:
        return (f"repeated {tally.skipped} steps",)


def test_a_new_method_is_one_class_and_one_entry(flux, reports, monkeypatch):
    methods = {**METHODS, "repeat": Repeat}
    for module in (skip_node, skip_patch):
        monkeypatch.setattr(module, "METHODS", methods)
    inputs = {one.id: one for one in FewStepSkip.define_schema().inputs}
    assert inputs["method"].options == ["forecast", "teacache", "repeat"]
    assert inputs["method"].tooltip.endswith("repeat repeats every second step.")
    assert inputs["threshold"].tooltip.endswith("repeat: not more than 1.")
    assert "repeat" not in inputs["target_speedup"].tooltip
    model, rows = counted(skip(flux, "repeat"))
    sample(model, steps=20)
    # Steps are told from 1: of 20, the first three and the last are made anyway.
    assert reports[0].data["steps_skipped"] == [4, 6, 8, 10, 12, 14, 16, 18] and len(rows) == 12
    assert reports[0].data["method"] == "repeat" and reports[0].notes == ("repeated 8 steps",)
    assert reports[0].summary.startswith("repeat: 12 of 20 evaluations made")
    # Two latents, as the memory was reckoned with.
    assert reports[0].data["history_bytes"] == 2 * 4 * 16 * 8 * 8


def test_report_holds_what_was_done(flux, reports, monkeypatch):
    # By this clock an evaluation takes a second, and each look at the clock a tenth of one.
    model, rows = counted(skip(flux, target_speedup=1.5))
    looks = itertools.count()
    monkeypatch.setattr(
        skip_run, "time", SimpleNamespace(perf_counter=lambda: len(rows) + 0.1 * next(looks))
    )
    sample(model, steps=30, cfg=1.0)
    data = reports[0].data
    assert (data["evaluations_asked"], data["evaluations_made"]) == (30, 20)
    # 30 evaluations of 1.1 s, in place of 20 of them and 10 skips of 0.1 s.
    assert data["estimated_speedup"] == 1.5 and data["measured_speedup"] == pytest.approx(33 / 23)
    assert len(data["steps_skipped"]) == 10 and data["largest_forecast_error"] > 0
    assert "20 of 30 evaluations made, 1.50x by count" in reports[0].summary


def test_few_step_sampler_shows_it_in_its_own_report(unets):
    record = CATALOG["lcm-lora-sd15"]
    model = skip(with_record(with_model_sampling(unets["sd15"], record), record))
    text = small_models.conditioning(unets["sd15"])
    output = FewStepSampler.execute(model, text, {"samples": torch.zeros(1, 4, 8, 8)}, 0, 0, 1.0)
    entry = output.ui["fewstep_report"][0]["entries"][0]
    assert entry["node"] == "Step Skip" and entry["passed_through"]
    assert "Step Skip" in output.args[1]
