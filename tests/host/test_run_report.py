"""Run Report on the real host: what it says behind any sampler is what was run."""

from __future__ import annotations

import json
import re

import comfy.sample
import pytest
import torch
from comfy.patcher_extension import WrappersMP
from comfy_extras.nodes_custom_sampler import (
    BasicScheduler,
    CFGGuider,
    KSamplerSelect,
    RandomNoise,
    SamplerCustomAdvanced,
)
from comfyui_fewstep.loras.catalog import CATALOG
from comfyui_fewstep.nodes.compare import number_of, rows_of
from comfyui_fewstep.nodes.host.attach import with_record
from comfyui_fewstep.nodes.host.last_runs import KEPT, PROBES, last_runs_of, mark_of
from comfyui_fewstep.nodes.host.model import with_model_sampling
from comfyui_fewstep.nodes.run_report import FewStepReport
from comfyui_fewstep.nodes.sampler import FewStepSampler
from comfyui_fewstep.nodes.skip import FewStepSkip
from torch import Tensor

import nodes as core
import small_models
from batch_jobs import Job
from batch_run import finished_result
from batch_store import Result, Store
from comfy_client import outputs
from comfy_server import Server
from prompts import core_sampler, node


@pytest.fixture(scope="module")
def flux(models):
    return small_models.load_model(
        small_models.write_flux(models / "diffusion_models" / "report_flux.safetensors")
    )


def skip(model, target_speedup=1.5, threshold=3.0, method="forecast"):
    return FewStepSkip.execute(
        model, method, target_speedup, threshold, 0.15, 0.95, 3, "auto"
    ).args[0]


def text(seed: int) -> list:
    conditioning = small_models.conditioning(width=4096, seed=seed)
    return [[tensor, {**options, "guidance": 3.5}] for tensor, options in conditioning]


def latent(*shape: int) -> dict[str, Tensor]:
    return {"samples": torch.zeros(*(shape or (1, 16, 4, 4)))}


def ksampler(model, start=None, steps=30, cfg=3.0, sampler="euler", seed=5) -> dict[str, Tensor]:
    return core.common_ksampler(
        model, seed, steps, cfg, sampler, "simple", text(1), text(2), start or latent()
    )[0]


def report(made, model):
    """(report, data in /history)"""
    output = FewStepReport.execute(made, model)
    assert output.args[0] is made
    return output.args[1], output.ui["fewstep_report"][0]


def counted(model):
    """(the model, a list that grows by the batch rows of every forward pass)"""
    rows: list[int] = []
    patched = model.clone()

    def count(executor, x, *args, **kwargs):
        rows.append(x.shape[0])
        return executor(x, *args, **kwargs)

    patched.add_wrapper_with_key(WrappersMP.DIFFUSION_MODEL, "test.count", count)
    return patched, rows


@pytest.mark.parametrize(("cfg", "prompts"), [(1.0, 1), (3.0, 2)])
@pytest.mark.parametrize("batch", [1, 3])
def test_behind_a_core_sampler_it_says_what_was_evaluated(flux, cfg, prompts, batch):
    watched, rows = counted(flux)
    model = skip(watched)
    markdown, data = report(ksampler(model, latent(batch, 16, 4, 4), cfg=cfg), model)
    # 1.5x leaves 20 of 30 steps, each with one prompt or two.
    assert data["evaluations"] == 20 * prompts == sum(rows) / batch
    assert data["seconds"] > 0 and data["run"]["steps"] == 30
    assert (data["watched"]["evaluations_asked"], data["watched"]["evaluations_made"]) == (30, 20)
    assert len(data["watched"]["steps_skipped"]) == 10
    assert f"- evaluations: {20 * prompts}\n" in markdown
    assert re.search(r"- Step Skip: steps skipped: \d+, \d+", markdown)
    json.dumps(data, allow_nan=False)


REASONS = [
    # settings, steps and sampler of a run that leaves little out, and what is told
    (
        dict(target_speedup=4.0),
        30,
        "euler",
        "4x was asked for, and 2.31x came of it: the warm-up, the window and max_consecutive allow",
    ),
    (
        dict(threshold=0.0),
        30,
        "euler",
        "came of it: 20 evaluations were made after all, as threshold asks",
    ),
    (dict(), 8, "euler", "passed through: 8 evaluations are too few"),
    (dict(), 20, "lcm", "passed through: the LCM sampler"),
    (dict(target_speedup=3.0), 20, "euler_ancestral", "a sampler that injects noise"),
    (dict(method="teacache", threshold=0.4), 20, "euler", "signal: the model input"),
]


@pytest.mark.parametrize(("settings", "steps", "sampler", "reason"), REASONS)
def test_it_says_why_no_more_was_left_out(flux, settings, steps, sampler, reason):
    model = skip(flux, **settings)
    markdown, data = report(ksampler(model, steps=steps, sampler=sampler), model)
    assert reason in markdown and any(reason in note for note in data["notes"])


def test_speed_quality_compare_reads_it_like_a_sampler_s(flux):
    model = skip(flux)
    rows = rows_of(report(ksampler(model), model)[0])
    assert (rows["steps"], number_of(rows, "evaluations")) == ("30", 40.0)
    assert number_of(rows, "seconds") > 0


def test_at_1x_step_skip_only_counts(flux):
    model = skip(flux, target_speedup=1.0)
    made = ksampler(model)
    assert torch.equal(made["samples"], ksampler(flux)["samples"])
    assert report(made, model)[1]["evaluations"] == 60


def test_behind_sampler_custom_advanced(flux):
    model = skip(flux)
    made = SamplerCustomAdvanced.execute(
        RandomNoise.execute(9).args[0],
        CFGGuider.execute(model, text(1), text(2), 3.0).args[0],
        KSamplerSelect.execute("euler").args[0],
        BasicScheduler.execute(model, "simple", 30, 1.0).args[0],
        latent(),
    ).args[0]
    assert report(made, model)[1]["evaluations"] == 40


def test_two_samplers_on_one_model_are_told_apart(flux):
    model = skip(flux)
    first, second = ksampler(model, steps=30), ksampler(model, steps=12, seed=6)
    counts = [report(made, model)[1]["run"]["steps"] for made in (first, second, first)]
    assert counts == [30, 12, 30]


def test_a_node_in_between_and_half_precision_do_not_hide_it(flux):
    model = skip(flux)
    other_clone = model.clone()
    made = ksampler(other_clone)
    in_half = {**made, "samples": made["samples"].to(torch.bfloat16), "noise_mask": None}
    assert report(in_half, model)[1]["is_of_this_latent"]


def test_another_latent_gets_the_latest_run_and_is_told(flux):
    model = skip(flux)
    made = ksampler(model)
    changed = {"samples": made["samples"] * 0.5}
    markdown, data = report(changed, model)
    assert "not what any of the model's last runs made" in markdown
    assert not data["is_of_this_latent"] and data["run"]["evaluations"] == 40
    # A batch that adds up evaluations does not take these for this latent's.
    assert "evaluations" not in data and "seconds" not in data


def test_only_the_last_runs_are_kept_and_nothing_of_their_latents(flux):
    model = skip(flux)
    made = [ksampler(model, steps=10, seed=seed, cfg=1.0) for seed in range(KEPT + 1)]
    assert not report(made[0], model)[1]["is_of_this_latent"]
    assert all(report(each, model)[1]["is_of_this_latent"] for each in made[1:])
    kept = last_runs_of(model).runs
    assert len(kept) == KEPT and all(len(run.mark.values) == PROBES for run in kept)


def test_an_interrupted_run_is_not_one_of_them(flux):
    model = skip(flux)

    def interrupt(step, denoised, x, steps):
        raise KeyboardInterrupt

    start = latent()["samples"]
    with pytest.raises(KeyboardInterrupt):
        comfy.sample.sample(
            model, start, 12, 1.0, "euler", "simple", text(1), text(2), start, callback=interrupt
        )
    markdown, data = report(latent(), model)
    assert "was not sampled since Step Skip was put on it" in markdown and "run" not in data


def test_a_model_that_nobody_watches_is_told_what_to_connect(flux):
    markdown, data = report(ksampler(flux, steps=4), flux)
    assert "carries no Step Skip" in markdown and "evaluations" not in data
    assert data["notes"] == [data["summary"]]


def test_behind_our_own_sampler_a_run_is_not_counted_twice(unets):
    record = CATALOG["lcm-lora-sd15"]
    model = skip(with_record(with_model_sampling(unets["sd15"], record), record))
    prompt = small_models.conditioning(unets["sd15"])
    output = FewStepSampler.execute(model, prompt, latent(1, 4, 8, 8), 0, 0, 1.0)
    _, data = report(output.args[0], model)
    assert data["is_reported_by_sampler"] and "evaluations" not in data
    own = output.ui["fewstep_report"][0]
    assert data["run"]["evaluations"] == own["evaluations"]


def test_the_slot_is_the_model_s_own_and_makes_nobody_load_again(flux):
    first, second = skip(flux), skip(flux)
    assert last_runs_of(first) is not last_runs_of(second) and last_runs_of(flux) is None
    ksampler(first, steps=10, cfg=1.0)
    assert len(last_runs_of(first).runs) == 1 and last_runs_of(second).runs == ()
    assert first.clone_has_same_weights(flux)
    # And the counter went with the run.
    wrappers = first.model_options["transformer_options"]["wrappers"]
    assert WrappersMP.APPLY_MODEL not in wrappers


def test_several_latents_at_once_are_known_again():
    import comfy.nested_tensor
    import comfy.utils

    parts = [torch.randn(1, 4, 2, 4, 4), torch.randn(1, 8, 16)]
    nested = comfy.nested_tensor.NestedTensor(parts)
    packed = comfy.utils.pack_latents(parts)[0]
    assert mark_of(nested).is_of(mark_of(packed))
    assert not mark_of(nested).is_of(mark_of(packed.flip(-1)))


def test_runs_that_differ_in_a_small_mask_alone_are_told_apart():
    source = torch.randn(1, 4, 128, 128)
    for left in range(0, 115, 9):
        painted = source.clone()
        painted[..., left : left + 13, left : left + 13] = torch.randn(1, 4, 13, 13)
        assert not mark_of(painted).is_of(mark_of(source))
    assert mark_of(source.clone()).is_of(mark_of(source))


def test_a_latent_without_numbers_is_known_again_too():
    black = torch.full((1, 4, 8, 8), float("nan"))
    assert mark_of(black).is_of(mark_of(black.clone()))
    assert not mark_of(black).is_of(mark_of(torch.zeros(1, 4, 8, 8)))


def test_a_batch_finds_the_evaluations_of_a_core_sampler_in_history(server: Server, tmp_path):
    prompt = {
        "demo": node("FewStepDemo", prompt="a red circle", frames=1, variant="base"),
        "skip": node(
            "FewStepSkip",
            model=["demo", 0],
            method="forecast",
            target_speedup=1.5,
            threshold=3.0,
            start_percent=0.15,
            end_percent=0.95,
            max_consecutive=3,
            cache_device="auto",
        ),
        "sample": core_sampler(
            "skip",
            20,
            cfg=5.0,
            positive=["demo", 1],
            negative=["demo", 2],
            latent_image=["demo", 4],
        ),
        "report": node("FewStepReport", latent=["sample", 0], model=["skip", 0]),
        "out": node("TestLatentReport", samples=["report", 0]),
    }
    entry = server.client.run(prompt)
    data = outputs(entry, "fewstep_report")[0]
    # 1.5x of 20 steps are 13, with both prompts.
    assert (data["node"], data["evaluations"]) == ("Run Report", 26)
    job = Job("job", "demo", "a red circle", 1, prompt)
    blank = Result("job", "demo", "a red circle", 1, "here")
    result = finished_result(job, Store(tmp_path), entry, [], blank)
    assert (result.evaluations, result.sampling_seconds) == (26, data["seconds"])
    # Another seed runs the sampler again, and the report with it.
    prompt["sample"]["inputs"]["seed"] = 2
    again = outputs(server.client.run(prompt), "fewstep_report")[0]
    assert again["is_of_this_latent"] and again["seconds"] != data["seconds"]
