"""Step Budget on the real host: what it measures, what it says, and that it never leaves the accelerator's own counts."""

from __future__ import annotations

import itertools
import json
import shutil

import comfy.supported_models
import pytest
import torch
from comfy.model_patcher import ModelPatcher
from comfyui_fewstep.loras.catalog import CATALOG
from comfyui_fewstep.nodes import budget, host, measure
from comfyui_fewstep.nodes.budget import FewStepBudget
from comfyui_fewstep.nodes.skip_patch import SkipConfig, with_skip
from comfyui_fewstep.samplers.budget import BudgetError, Cost, Method
from comfyui_fewstep.samplers.skip.run import Settings

from small_loras import write_lora
from small_models import WANS, RandomWeights, load_model, shapes_of, write_flux, write_wan

IMAGE = {"samples": torch.zeros(1, 4, 8, 8)}
VIDEO = {"samples": torch.zeros(1, 16, 3, 8, 8)}


def run(model, latent, experience="interactive", seconds=0.0, evaluation=0.0, price=0.0):
    """(steps, target_speedup, report, chart, data in /history)"""
    output = FewStepBudget.execute(model, latent, experience, seconds, evaluation, price)
    return *output.args, output.ui["fewstep_report"][0]


# ---------------------------------------------------------------- measuring


@pytest.mark.parametrize("architecture", ["sd15", "sdxl", "ssd1b"])
def test_unets_are_measured_with_an_empty_prompt(unets, architecture) -> None:
    cost = measure.measure(unets[architecture], IMAGE)
    assert 0 < cost.evaluation <= cost.guided_step


@pytest.mark.parametrize("variant", WANS)
def test_wans_are_measured_with_an_empty_prompt(tmp_path, variant) -> None:
    cost = measure.measure(load_model(write_wan(tmp_path / "wan.safetensors", variant)), VIDEO)
    assert 0 < cost.evaluation <= cost.guided_step


def test_flux_is_measured_and_its_guidance_costs_nothing(tmp_path) -> None:
    model = load_model(write_flux(tmp_path / "flux.safetensors"))
    cost = measure.measure(model, {"samples": torch.zeros(1, 16, 8, 8)})
    assert cost.guided_step == 2 * cost.evaluation  # not measured: this model is never run that way
    assert measure.is_guidance_distilled(model)


def counting(model):
    """(the model, the rows of each of its forward passes)"""
    counted, rows = model.clone(), []

    def forward(apply, options):
        rows.append(options["input"].shape[0])
        return apply(options["input"], options["timestep"], **options["c"])

    counted.set_model_unet_function_wrapper(forward)
    return counted, rows


def test_what_is_measured_is_the_whole_batch_and_a_known_number_of_evaluations(unets) -> None:
    model, rows = counting(unets["sd15"])
    measure.measure(model, {"samples": torch.zeros(3, 4, 8, 8)})
    # A warm-up and five of 3 rows; then the same with both prompts, 6 rows in a pass or in two.
    assert rows[:6] == [3] * 6
    assert sum(rows[6:]) == 6 * 6


def test_a_slow_model_is_evaluated_three_times(unets) -> None:
    seconds = itertools.count(step=20)
    model, rows = counting(unets["sd15"])
    cost = measure.measure(model, IMAGE, clock=lambda: next(seconds))
    assert cost.evaluation == 20
    assert len(rows) == 3  # a warm-up and two; both prompts are taken to cost twice as much
    assert cost.guided_step == 2 * cost.evaluation


def test_measuring_changes_neither_the_model_nor_the_random_numbers(unets) -> None:
    model = unets["sd15"]
    options = {key: value for key, value in model.model_options.items() if key != "transformer_options"}
    state = torch.random.get_rng_state()
    measure.measure(model, IMAGE)
    assert torch.equal(state, torch.random.get_rng_state())
    assert {key: value for key, value in model.model_options.items() if key != "transformer_options"} == options
    assert host.RUN_KEY not in model.model_options.get("transformer_options", {})


def test_step_skip_on_the_model_does_not_spoil_the_measurement(unets) -> None:
    skipping = with_skip(unets["sd15"], SkipConfig("forecast", Settings(2.0), 0.0, 1.0, "auto"))
    assert measure.measure(skipping, IMAGE).evaluation > 0


def test_a_node_that_answers_in_place_of_the_network_is_named(unets) -> None:
    from comfy.patcher_extension import WrappersMP

    model = unets["sd15"].clone()
    model.add_wrapper_with_key(WrappersMP.PREDICT_NOISE, "test", lambda executor, x, *args: x)
    with pytest.raises(BudgetError, match="answered in place of the network"):
        measure.measure(model, IMAGE)


def test_a_model_that_takes_more_than_text_is_refused_with_what_to_do(unets, monkeypatch) -> None:
    monkeypatch.setattr(measure.host, "base_of", lambda model: None)
    with pytest.raises(BudgetError, match="seconds_per_evaluation"):
        measure.measure(unets["sd15"], IMAGE)


# Architectures beside the shared small ones: (the host's class for it, its configuration, latent).
OTHERS = {
    "SD3": ({"in_channels": 16, "patch_size": 2, "out_channels": 16, "depth": 2, "input_size": None, "adm_in_channels": 2048,
             "num_patches": 1024, "pos_embed_max_size": 32, "pos_embed_scaling_factor": None, "qk_norm": "rms",
             "context_embedder_config": {"target": "torch.nn.Linear", "params": {"in_features": 4096, "out_features": 128}}},
            (1, 16, 8, 8)),
    "QwenImage": ({"image_model": "qwen_image", "in_channels": 64, "num_layers": 2, "num_attention_heads": 2, "attention_head_dim": 128},
                  (1, 16, 1, 8, 8)),
    "ZImage": ({"image_model": "lumina2", "patch_size": 2, "in_channels": 16, "dim": 256, "cap_feat_dim": 2560, "n_layers": 2,
                "n_refiner_layers": 1, "n_heads": 2, "n_kv_heads": 2, "axes_dims": [32, 48, 48], "axes_lens": [64, 64, 64],
                "rope_theta": 256.0, "qk_norm": True, "z_image_modulation": True, "time_scale": 1000.0, "ffn_dim_multiplier": 2.0},
               (1, 16, 8, 8)),
    "HunyuanVideo": ({"image_model": "hunyuan_video", "in_channels": 16, "patch_size": [1, 2, 2], "out_channels": 16, "vec_in_dim": 768,
                      "context_in_dim": 4096, "hidden_size": 256, "mlp_ratio": 4.0, "num_heads": 2, "depth": 1, "depth_single_blocks": 1,
                      "axes_dim": [16, 56, 56], "theta": 256, "qkv_bias": True, "guidance_embed": True, "byt5": False, "meanflow": False,
                      "use_cond_type_embedding": False, "vision_in_dim": None, "meanflow_sum": False},
                     (1, 16, 3, 8, 8)),
    "LTXV": ({"image_model": "ltxv", "in_channels": 128, "cross_attention_dim": 256, "attention_head_dim": 64, "num_attention_heads": 4,
              "caption_channels": 4096, "num_layers": 2}, (1, 128, 3, 4, 4)),
}


def build(name: str):
    """A MODEL of the host's own class at a small size, random weights."""
    config = getattr(comfy.supported_models, name)({**OTHERS[name][0], "dtype": torch.float32})
    config.set_inference_dtype(torch.float32, None)
    model = config.get_model({}, "")
    model.diffusion_model.load_state_dict(RandomWeights(0).fill(shapes_of(model.diffusion_model)), strict=False)
    return ModelPatcher(model, load_device=torch.device("cpu"), offload_device=torch.device("cpu"))


@pytest.mark.parametrize("name", OTHERS)
def test_other_architectures_are_measured_with_an_empty_prompt(name) -> None:
    model = build(name)
    assert host.base_of(model) in measure.TEXT_INPUTS
    assert measure.measure(model, {"samples": torch.zeros(OTHERS[name][1])}).evaluation > 0


# ---------------------------------------------------------------- the node


def test_measured_mode_gives_steps_a_report_and_a_chart(unets) -> None:
    steps, speedup, report, chart, data = run(unets["sd15"], IMAGE)
    assert 25 <= steps <= 50 and 1.0 <= speedup <= 2.0
    assert data["measured"] and data["seconds_per_evaluation"] > 0
    assert chart.shape == (1, 620, 1000, 3) and chart.min() >= 0 and chart.max() <= 1
    assert "measured now" in report and "Text encoding and the VAE are not in these figures" in report
    json.dumps(data)


def test_the_accelerator_decides_which_steps_there_are(unets) -> None:
    model = host.with_record(unets["sdxl"], CATALOG["lcm-lora-sdxl"])
    # At half a second an evaluation, 5 s are 10 steps: LCM was distilled for 8 at most. 2.2 s are 4, 0.1 s are none.
    assert [run(model, IMAGE, seconds=seconds, evaluation=0.5)[0] for seconds in (5.0, 2.2, 0.1)] == [8, 4, 2]
    data = run(model, IMAGE, seconds=0.1, evaluation=0.5)[-1]
    assert data["misses"] == pytest.approx(0.9)
    assert "misses the allowance" in data["summary"]


def test_batch_runs_the_full_steps_and_leaves_nothing_out(unets) -> None:
    steps, speedup, report, _, data = run(unets["sd15"], IMAGE, "batch", evaluation=0.5, price=1.0)
    assert (steps, speedup, data["misses"]) == (50, 1.0, 0.0)
    assert data["allowance"] is None  # infinity is no JSON
    # 50 guided steps at 1 s: 50 s of an hour at 1.
    assert data["price"] == pytest.approx(50 / 3600)
    assert "price per picture" in report


def test_the_table_lists_every_accelerator_of_the_base_with_its_file_and_licence(unets) -> None:
    report = run(unets["sdxl"], IMAGE, evaluation=0.5)[2]
    for record in CATALOG.values():
        lines = [line for line in report.splitlines() if line.startswith("|") and f" {record.id}" in line]
        if host.base_of(unets["sdxl"]) in record.bases:
            assert any(record.licence.name in line for line in lines), record.id
    assert "full steps and guidance + Step Skip 2x" in report


def test_a_file_in_the_loras_folder_is_found_under_its_published_name(unets, models) -> None:
    path = models / "loras" / "sub" / "sdxl_lightning_4step_lora.safetensors"
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(b"")
    try:
        report = run(unets["sdxl"], IMAGE, evaluation=0.5)[2]
        assert line_of(report, "sdxl-lightning-4step-lora").count("yes (loras)") == 1
        assert "no (loras)" in line_of(report, "sdxl-lightning-8step-lora")
    finally:
        shutil.rmtree(path.parent)


def test_a_name_that_many_releases_share_is_told_by_the_file_itself(unets, models) -> None:
    folder = models / "loras" / "lcm-lora-sdv1-5"
    folder.mkdir(exist_ok=True)
    path = folder / "pytorch_lora_weights.safetensors"
    write_lora(path, unets["sd15"], "kohya-diffusers", rank=64, alpha=64.0, only="attn2")
    try:
        report = run(unets["sd15"], IMAGE, evaluation=0.5)[2]
        assert "yes (loras)" in line_of(report, "lcm-lora-sd15")
        assert "no (loras)" in line_of(report, "tcd-lora-sd15")
        path.write_bytes(b"broken")
        assert "no (loras)" in line_of(run(unets["sd15"], IMAGE, evaluation=0.5)[2], "lcm-lora-sd15")
    finally:
        shutil.rmtree(folder)


def line_of(report: str, id: str) -> str:
    return next(line for line in report.splitlines() if line.startswith(f"| {id},"))


def test_a_clip_is_told_by_its_playing_time(tmp_path) -> None:
    model = load_model(write_wan(tmp_path / "wan.safetensors", "wan21_t2v"))
    # 3 latent frames are 9 frames at 16 a second.
    assert budget.work_of(model, VIDEO).clip_seconds == pytest.approx(9 / 16)
    report, data = run(model, VIDEO, "live", evaluation=0.5)[2::2]
    assert data["allowance"] == pytest.approx(9 / 16)
    assert "Live video needs a causal model" in report


def test_a_causal_model_streams(tmp_path) -> None:
    causal = load_model(write_wan(tmp_path / "causal.safetensors", "wan21_causal"))
    with pytest.raises(BudgetError, match="Accelerator Loader"):
        run(causal, VIDEO, evaluation=0.5)
    steps, _, report, _, data = run(host.with_record(causal, CATALOG["self-forcing-dmd"]), VIDEO, "live", evaluation=0.1)
    assert steps == 4
    assert data["evaluations"] == 4  # one block of three frames: four steps, and no later block that needs its keys
    assert "first block of the stream" in report
    assert {way["method"] for way in data["ways"]} == {Method.STREAM.value}


def test_an_ordinary_lora_of_another_loader_changes_nothing_but_is_told(unets) -> None:
    model = unets["sd15"].clone()
    key = "diffusion_model.input_blocks.1.1.transformer_blocks.0.attn1.to_q.weight"
    weight = model.model.state_dict()[key]
    model.add_patches({key: ("diff", (torch.zeros_like(weight),))}, 1.0)
    report = run(model, IMAGE, evaluation=0.5)[2]
    assert "Taken for a model without an accelerator" in report


def test_without_matplotlib_it_says_what_to_install(unets, monkeypatch) -> None:
    import sys

    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    with pytest.raises(ValueError, match="pip install matplotlib"):
        run(unets["sd15"], IMAGE, evaluation=0.5)


def test_a_forced_negative_branch_doubles_the_prediction(unets) -> None:
    model = host.with_record(unets["sdxl"].clone(), CATALOG["sdxl-lightning-4step-lora"])
    model.model_options["disable_cfg1_optimization"] = True
    data = run(model, IMAGE, evaluation=0.5)[-1]
    assert (data["evaluations"], data["predicted_seconds"]) == (8, 4.0)


def test_weights_are_measured_as_they_lie_in_memory(unets) -> None:
    assert budget.machine_of(unets["sd15"]).weight_bits == 32


def test_the_chart_is_drawn_for_every_kind_of_way(unets) -> None:
    subject = budget.look_at(unets["sd15"], IMAGE)
    ways = budget.known_ways(subject.base, None, subject.full_run, CATALOG.values(), Cost(0.1, 0.2), subject.work)
    for allowance in (0.001, float("inf")):
        choice = budget.choose(budget.candidates(None, subject.full_run, Cost(0.1, 0.2), subject.work), allowance)
        assert budget.draw(Cost(0.1, 0.2), choice, ways, subject).shape == (1, 620, 1000, 3)
