"""Step Budget on the real host: what it measures, what it says, and that it never leaves the
accelerator's own counts.
"""

from __future__ import annotations

import itertools
import json
import math
import shutil
import time
from collections.abc import Callable
from dataclasses import replace

import comfy.supported_models
import comfy.utils
import pytest
import torch
from comfy.model_patcher import ModelPatcher
from comfyui_fewstep.loras.bases import unlisted
from comfyui_fewstep.loras.catalog import CATALOG
from comfyui_fewstep.nodes import budget
from comfyui_fewstep.nodes.budget import FewStepBudget
from comfyui_fewstep.nodes.demo import FewStepDemo
from comfyui_fewstep.nodes.host import measure
from comfyui_fewstep.nodes.host import run as sample_run
from comfyui_fewstep.nodes.host.attach import with_record
from comfyui_fewstep.nodes.host.last_runs import last_runs_of
from comfyui_fewstep.nodes.host.model import base_of, look_at, with_model_sampling
from comfyui_fewstep.nodes.host.skip import SkipConfig, with_skip
from comfyui_fewstep.nodes.stream import FewStepStream
from comfyui_fewstep.quality.chart import draw_chart
from comfyui_fewstep.samplers.budget.cost import BlockCost, BudgetError, Cost
from comfyui_fewstep.samplers.budget.ways import Choice, Route
from comfyui_fewstep.samplers.plan import PlanError
from comfyui_fewstep.samplers.skip.method import Settings
from thinning import some_of

from more_models import HUNYUAN
from small_loras import write_lora
from small_models import (
    HAS_CAUSAL_WAN,
    WANS,
    RandomWeights,
    conditioning,
    load_model,
    shapes_of,
    write_flux,
    write_wan,
)

IMAGE = {"samples": torch.zeros(1, 4, 8, 8)}
VIDEO = {"samples": torch.zeros(1, 16, 3, 8, 8)}


def run(model, latent, experience="interactive", seconds=0.0, evaluation=0.0, price=0.0):
    """(steps, target_speedup, report, chart, data in /history)"""
    output = FewStepBudget.execute(model, latent, experience, seconds, evaluation, price)
    return *output.args, output.ui["fewstep_report"][0]


# ---------------------------------------------------------------- measuring


@pytest.mark.parametrize("architecture", some_of(["sd15", "sdxl", "ssd1b"], "sdxl"))
def test_unets_are_measured_with_an_empty_prompt(unets, architecture) -> None:
    cost = measure.measure_cost(look_at(unets[architecture]), IMAGE)
    assert 0 < cost.evaluation <= cost.guided_step


@pytest.mark.parametrize("variant", WANS)
def test_wans_are_measured_with_an_empty_prompt(tmp_path, variant) -> None:
    cost = measure.measure_cost(
        look_at(load_model(write_wan(tmp_path / "wan.safetensors", variant))), VIDEO
    )
    assert 0 < cost.evaluation <= cost.guided_step


def test_flux_is_measured_and_its_guidance_costs_nothing(tmp_path) -> None:
    model = load_model(write_flux(tmp_path / "flux.safetensors"))
    cost = measure.measure_cost(look_at(model), {"samples": torch.zeros(1, 16, 8, 8)})
    assert cost.guided_step == 2 * cost.evaluation  # not measured: this model is never run that way
    assert look_at(model).is_guidance_distilled


def counting(model):
    """(the model, the rows of each of its forward passes)"""
    counted, rows = model.clone(), []

    def forward(apply, options):
        rows.append(options["input"].shape[0])
        return apply(options["input"], options["timestep"], **options["c"])

    counted.set_model_unet_function_wrapper(forward)
    return counted, rows


def quick() -> Callable[[], float]:
    """A clock by which an evaluation takes a hundredth of a second, whatever it takes here."""
    looks = itertools.count()
    return lambda: 0.01 * next(looks)


def test_what_is_measured_is_the_whole_batch_and_a_known_number_of_evaluations(unets) -> None:
    model, rows = counting(unets["sd15"])
    measure.measure_cost(look_at(model), {"samples": torch.zeros(3, 4, 8, 8)}, quick())
    # A warm-up and five of 3 rows; then the same with both prompts, 6 rows in a pass or in two.
    assert rows[:6] == [3] * 6
    assert sum(rows[6:]) == 6 * 6


def test_a_slow_model_is_evaluated_three_times(unets) -> None:
    seconds = itertools.count(step=20)
    model, rows = counting(unets["sd15"])
    cost = measure.measure_cost(look_at(model), IMAGE, clock=lambda: next(seconds))
    assert cost.evaluation == 20
    assert len(rows) == 3  # a warm-up and two; both prompts are taken to cost twice as much
    assert cost.guided_step == 2 * cost.evaluation


def progress_of(call) -> list[tuple[int, int]]:
    """(value, total) of every time the host is told how far it is."""
    told, before = [], comfy.utils.PROGRESS_BAR_HOOK
    comfy.utils.set_progress_bar_global_hook(
        lambda value, total, *rest, **more: told.append((value, total))
    )
    try:
        call()
    finally:
        comfy.utils.set_progress_bar_global_hook(before)
    return told


def test_the_progress_bar_moves_with_every_evaluation(unets) -> None:
    model = unets["sd15"].clone()

    def forward(apply, options):
        time.sleep(0.11)  # the host passes on ten updates a second at most
        return apply(options["input"], options["timestep"], **options["c"])

    model.set_model_unet_function_wrapper(forward)
    # A warm-up and five, with one prompt and with two; a slow model has three in all, and then the
    # bar is full too.
    assert list(
        dict.fromkeys(progress_of(lambda: measure.measure_cost(look_at(model), IMAGE, quick())))
    ) == [(count, 12) for count in range(1, 13)]
    seconds = itertools.count(step=20)
    slow = progress_of(
        lambda: measure.measure_cost(look_at(model), IMAGE, clock=lambda: next(seconds))
    )
    assert slow == [(1, 12), (2, 12), (3, 12), (12, 12)]


needs_causal_wan = pytest.mark.skipif(not HAS_CAUSAL_WAN, reason="this host has no causal Wan")


class Timepiece:
    """A clock that only evaluations move, by an amount that grows with the keys that are looked at.

    starts, frames, tokens: of each evaluation, where its block begins, its latent frames, and the
    length of the text.
    """

    def __init__(self, seconds: float = 0.1, seconds_per_key: float = 0.001):
        self.now, self.seconds, self.seconds_per_key = 0.0, seconds, seconds_per_key
        self.starts: list[int] = []
        self.frames: list[int] = []
        self.tokens: list[int] = []

    def __call__(self) -> float:
        return self.now

    def on(self, model):
        """The model, moving this clock."""
        timed = model.clone()

        def forward(apply, options):
            conditions = options["c"]
            state, (_, _, frames, height, width) = (
                conditions["transformer_options"].get("ar_state"),
                options["input"].shape,
            )
            before = state["kv_caches"][0]["end"] if state else 0
            self.starts.append(state["start_frame"] if state else 0)
            self.frames.append(frames)
            self.tokens.append(conditions["c_crossattn"].shape[1])
            self.now += self.seconds + self.seconds_per_key * (
                before + frames * height * width // 4
            )
            return apply(options["input"], options["timestep"], **conditions)

        timed.set_model_unet_function_wrapper(forward)
        return timed


def clip_of(frames: int) -> dict[str, torch.Tensor]:
    return {"samples": torch.zeros(1, 16, frames, 4, 4)}


def self_forcing(folder):
    record = CATALOG["self-forcing-dmd"]
    causal = load_model(write_wan(folder / "causal.safetensors", "wan21_causal"))
    return with_record(with_model_sampling(causal, record), record)


@needs_causal_wan
def test_a_causal_model_is_measured_with_an_empty_cache_and_with_a_full_one(tmp_path) -> None:
    clock = Timepiece()
    costs = measure.measure_blocks(
        look_at(clock.on(self_forcing(tmp_path))), clip_of(9), [CATALOG["self-forcing-dmd"]], clock
    )
    # A warm-up and five each, of the block at the start and of the one at the end, behind six
    # frames of four keys.
    assert clock.starts == [0] * 6 + [6] * 6
    assert clock.frames == [3] * 12
    assert costs == {3: BlockCost(pytest.approx(0.1 + 0.012), pytest.approx(0.1 + 0.036))}


@needs_causal_wan
def test_a_slow_causal_model_is_evaluated_three_times_a_block(tmp_path) -> None:
    clock = Timepiece(seconds=20.0)
    measure.measure_blocks(
        look_at(clock.on(self_forcing(tmp_path))), clip_of(9), [CATALOG["self-forcing-dmd"]], clock
    )
    assert clock.starts == [0] * 3 + [6] * 3


@needs_causal_wan
def test_a_clip_of_one_block_is_measured_once(tmp_path) -> None:
    clock, model = Timepiece(), self_forcing(tmp_path)
    told = progress_of(
        lambda: measure.measure_blocks(
            look_at(clock.on(model)), clip_of(3), [CATALOG["self-forcing-dmd"]], clock
        )
    )
    assert clock.starts == [0] * 6
    assert told[-1] == (12, 12)


@needs_causal_wan
@pytest.mark.parametrize("frames", [3, 9, 21])
def test_a_stream_takes_what_was_predicted(tmp_path, frames) -> None:
    clock = Timepiece()
    assert_predicted(
        clock, clock.on(self_forcing(tmp_path)), conditioning(length=6), clip_of(frames)
    )


@needs_causal_wan
@pytest.mark.parametrize("length", [1, 17, 65])
def test_the_demo_models_stream_takes_what_was_predicted(length) -> None:
    model, positive, _, _, latent, _ = FewStepDemo.execute(
        "a red circle moving right", length, "causal"
    ).args
    clock = Timepiece()
    assert_predicted(clock, clock.on(model), positive, latent)
    assert set(clock.tokens) == {positive[0][0].shape[1]}  # measured with text as long as its own


def assert_predicted(clock: Timepiece, model, positive, latent) -> None:
    """That the Streaming Sampler moves the clock by as much as was predicted, and to the first
    block as well.
    """
    subject = budget.subject_of(model, latent)
    cost = budget.cost_of(subject, latent, 0, clock)
    way = budget.choose(budget.candidates(subject.record, None, cost, subject.work), math.inf).way
    before, evaluated = clock.now, len(clock.starts)
    with torch.inference_mode():
        FewStepStream.execute(model, positive, latent, 1, 0, 0, 0)
    assert len(clock.starts) - evaluated == way.evaluations
    assert clock.now - before == pytest.approx(way.seconds)


@needs_causal_wan
def test_a_streaming_accelerator_on_a_model_that_is_not_causal_is_refused(tmp_path) -> None:
    wan = load_model(write_wan(tmp_path / "wan.safetensors", "wan21_t2v"))
    with pytest.raises(PlanError, match="needs a causal model"):
        run(with_record(wan, CATALOG["self-forcing-dmd"]), VIDEO)


@needs_causal_wan
def test_a_size_that_the_streaming_sampler_refuses_is_refused_in_its_words() -> None:
    model = FewStepDemo.execute("a red circle moving right", 5, "causal").args[0]
    with pytest.raises(PlanError, match="is 64 x 56 pixels, .* Set the height to 48 or 64"):
        run(model, {"samples": torch.zeros(1, 16, 2, 7, 8)})


def test_the_demo_model_is_measured_with_text_as_long_as_its_own() -> None:
    model, positive, _, _, latent, _ = FewStepDemo.execute(
        "a red circle moving right", 5, "base"
    ).args
    clock = Timepiece()
    measure.measure_cost(look_at(clock.on(model)), latent, clock)
    assert set(clock.tokens) == {positive[0][0].shape[1]} == {10}


def test_wan_is_measured_with_text_as_long_as_the_host_makes_it(tmp_path) -> None:
    clock = Timepiece()
    measure.measure_cost(
        look_at(clock.on(load_model(write_wan(tmp_path / "wan.safetensors", "wan21_t2v")))),
        VIDEO,
        clock,
    )
    assert set(clock.tokens) == {512}


def test_measuring_changes_neither_the_model_nor_the_random_numbers(unets) -> None:
    model = unets["sd15"]
    options = {
        key: value for key, value in model.model_options.items() if key != "transformer_options"
    }
    state = torch.random.get_rng_state()
    measure.measure_cost(look_at(model), IMAGE)
    assert torch.equal(state, torch.random.get_rng_state())
    assert {
        key: value for key, value in model.model_options.items() if key != "transformer_options"
    } == options
    assert sample_run.RUN_KEY not in model.model_options.get("transformer_options", {})


def test_step_skip_on_the_model_does_not_spoil_the_measurement(unets) -> None:
    skipping = with_skip(unets["sd15"], SkipConfig("forecast", Settings(2.0), 0.0, 1.0, "auto"))
    assert measure.measure_cost(look_at(skipping), IMAGE).evaluation > 0


@pytest.mark.parametrize(
    ("method", "told"),
    [
        ("forecast", "done, Step Skip is on the model (forecast at target_speedup 1.5); the"),
        ("teacache", "done, Step Skip is on the model (teacache at threshold 0.2). What it leaves"),
    ],
)
def test_a_model_that_carries_step_skip_is_measured_without_it_and_not_advised_it(
    unets, caplog, method, told
) -> None:
    settings = SkipConfig(method, Settings(1.5), 0.15, 0.95, "auto")
    skipping = with_skip(unets["sd15"], settings)
    caplog.set_level("INFO")
    steps, speedup, report, _, data = run(skipping, IMAGE, "batch")
    # Six evaluations are too few for Step Skip, and nobody asked it for these.
    assert "too few" not in report + caplog.text and "Step Skip:" not in caplog.text
    assert last_runs_of(skipping).runs == ()
    assert told in report and "put Step Skip" not in report
    expected = 1.5 if method == "forecast" else 1.0
    assert (steps, speedup) == (50, expected)
    assert data["evaluations"] == 2 * round(50 / expected)


def test_a_node_that_answers_in_place_of_the_network_is_named(unets) -> None:
    from comfy.patcher_extension import WrappersMP

    model = unets["sd15"].clone()
    model.add_wrapper_with_key(WrappersMP.PREDICT_NOISE, "test", lambda executor, x, *args: x)
    with pytest.raises(BudgetError, match="answered in place of the network"):
        measure.measure_cost(look_at(model), IMAGE)


def test_a_model_that_takes_more_than_text_is_refused_with_what_to_do(unets) -> None:
    unknown = replace(look_at(unets["sd15"]), base=unlisted("NewModel"))
    with pytest.raises(BudgetError, match="seconds_per_evaluation"):
        measure.measure_cost(unknown, IMAGE)


# Architectures beside the shared small ones: (the host's class for it, its configuration, latent).
OTHERS = {
    "SD3": (
        {
            "in_channels": 16,
            "patch_size": 2,
            "out_channels": 16,
            "depth": 2,
            "input_size": None,
            "adm_in_channels": 2048,
            "num_patches": 1024,
            "pos_embed_max_size": 32,
            "pos_embed_scaling_factor": None,
            "qk_norm": "rms",
            "context_embedder_config": {
                "target": "torch.nn.Linear",
                "params": {"in_features": 4096, "out_features": 128},
            },
        },
        (1, 16, 8, 8),
    ),
    "QwenImage": (
        {
            "image_model": "qwen_image",
            "in_channels": 64,
            "num_layers": 2,
            "num_attention_heads": 2,
            "attention_head_dim": 128,
        },
        (1, 16, 1, 8, 8),
    ),
    "ZImage": (
        {
            "image_model": "lumina2",
            "patch_size": 2,
            "in_channels": 16,
            "dim": 256,
            "cap_feat_dim": 2560,
            "n_layers": 2,
            "n_refiner_layers": 1,
            "n_heads": 2,
            "n_kv_heads": 2,
            "axes_dims": [32, 48, 48],
            "axes_lens": [64, 64, 64],
            "rope_theta": 256.0,
            "qk_norm": True,
            "z_image_modulation": True,
            "time_scale": 1000.0,
            "ffn_dim_multiplier": 2.0,
        },
        (1, 16, 8, 8),
    ),
    "HunyuanVideo": (
        {**HUNYUAN, "context_in_dim": 4096},
        (1, 16, 3, 8, 8),
    ),
    "LTXV": (
        {
            "image_model": "ltxv",
            "in_channels": 128,
            "cross_attention_dim": 256,
            "attention_head_dim": 64,
            "num_attention_heads": 4,
            "caption_channels": 4096,
            "num_layers": 2,
        },
        (1, 128, 3, 4, 4),
    ),
}


def build(name: str):
    """A MODEL of the host's own class at a small size, random weights."""
    config = getattr(comfy.supported_models, name)({**OTHERS[name][0], "dtype": torch.float32})
    config.set_inference_dtype(torch.float32, None)
    model = config.get_model({}, "")
    model.diffusion_model.load_state_dict(
        RandomWeights(0).fill(shapes_of(model.diffusion_model)), strict=False
    )
    return ModelPatcher(model, load_device=torch.device("cpu"), offload_device=torch.device("cpu"))


@pytest.mark.parametrize("name", OTHERS)
def test_other_architectures_are_measured_with_an_empty_prompt(name) -> None:
    model = build(name)
    assert base_of(model).text is not None
    assert (
        measure.measure_cost(look_at(model), {"samples": torch.zeros(OTHERS[name][1])}).evaluation
        > 0
    )


# ---------------------------------------------------------------- the node


def test_measured_mode_gives_steps_a_report_and_a_chart(unets) -> None:
    steps, speedup, report, chart, data = run(unets["sd15"], IMAGE)
    assert 25 <= steps <= 50 and 1.0 <= speedup <= 2.0
    assert data["measured"] and data["seconds_per_evaluation"] > 0
    assert chart.shape == (1, 620, 1000, 3) and chart.min() >= 0 and chart.max() <= 1
    assert (
        "measured now" in report and "Text encoding and the VAE are not in these figures" in report
    )
    json.dumps(data)


def test_the_costs_are_rows_of_their_own(unets) -> None:
    model = with_record(unets["sdxl"], CATALOG["lcm-lora-sdxl"])
    rows = (
        run(model, IMAGE, seconds=5.0, evaluation=0.5, price=3.6)[2].split("\n\n")[1].splitlines()
    )
    # 8 steps at half a second are 4 s, and 3.6 an hour are a thousandth a second.
    assert rows[3:7] == [
        "- steps: 8",
        "- evaluations: 8",
        "- seconds: 4 (predicted)",
        "- price: 0.004 for each picture",
    ]
    assert rows[7] == "- allowance: fits 5 s"
    full = (
        run(unets["sd15"], IMAGE, "batch", seconds=1500, evaluation=20.0)[2]
        .split("\n\n")[1]
        .splitlines()
    )
    # 50 guided steps at 40 s: at 1.35x 37 are made in 1480 s, and no power of ten stands for that.
    assert full[3:7] == [
        "- steps: 50",
        "- target_speedup: 1.35",
        "- evaluations: 74",
        "- seconds: 1480 (predicted)",
    ]


def test_the_accelerator_decides_which_steps_there_are(unets) -> None:
    model = with_record(unets["sdxl"], CATALOG["lcm-lora-sdxl"])
    # At half a second an evaluation, 5 s are 10 steps: LCM was distilled for 8 at most. 2.2 s are
    # 4, 0.1 s are none.
    assert [
        run(model, IMAGE, seconds=seconds, evaluation=0.5)[0] for seconds in (5.0, 2.2, 0.1)
    ] == [8, 4, 2]
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


def table_of(report: str) -> dict[str, dict[str, str]]:
    """The table of all ways: what stands first in a line, up to its first comma -> its other cells
    by the column's name.
    """
    lines = report.partition("Every way to run this model:")[2].split("\n\n")[1].splitlines()
    head, _, *rows = [[cell.strip() for cell in line.strip("|").split(" | ")] for line in lines]
    assert all(len(row) == len(head) for row in rows)
    return {
        row[0].partition(",")[0].partition(" (on ")[0]: dict(zip(head[1:], row[1:])) for row in rows
    }


def test_the_table_says_what_every_way_costs(unets) -> None:
    table = table_of(run(unets["sdxl"], IMAGE, seconds=10.0, evaluation=0.5, price=3.6)[2])
    # A guided step is given as two evaluations, a second: 50 steps are 50 s, 25 of them 25 s.
    expected = {
        "full steps and guidance": (50, 100, 50.0),
        "full steps and guidance + Step Skip 2x": (50, 50, 25.0),
    }
    for record in CATALOG.values():
        if base_of(unets["sdxl"]) in record.bases:
            evaluations = record.default_steps * (1 if record.cfg == 1.0 else 2)
            expected[record.id] = (record.default_steps, evaluations, evaluations * 0.5)
    assert table.keys() == expected.keys()
    for name, (steps, evaluations, seconds) in expected.items():
        row = table[name]
        assert (row["steps"], row["evaluations"], float(row["seconds"])) == (
            str(steps),
            str(evaluations),
            seconds,
        ), name
        assert float(row["price per picture"]) == pytest.approx(seconds / 1000)
        assert row["factor"] == f"{50 / seconds:.1f}x"
        assert row["fits"] == ("yes" if seconds <= 10 else "no")


def test_the_table_names_the_file_and_the_licence_of_every_accelerator(unets) -> None:
    for id, row in table_of(run(unets["sdxl"], IMAGE, evaluation=0.5)[2]).items():
        if id in CATALOG:
            assert row["licence"] == str(CATALOG[id].licence)
            assert row["file"] in {
                name for file in CATALOG[id].files for name in (file.name, file.repo)
            }


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
        assert "no (loras)" in line_of(
            run(unets["sd15"], IMAGE, evaluation=0.5)[2], "lcm-lora-sd15"
        )
    finally:
        shutil.rmtree(folder)


def line_of(report: str, id: str) -> str:
    return next(line for line in report.splitlines() if line.startswith(f"| {id},"))


def test_a_clip_is_told_by_its_playing_time(tmp_path) -> None:
    model = load_model(write_wan(tmp_path / "wan.safetensors", "wan21_t2v"))
    # 3 latent frames are 9 frames at 16 a second.
    assert budget.work_of(look_at(model), VIDEO).clip_seconds == pytest.approx(9 / 16)
    report, data = run(model, VIDEO, "live", evaluation=0.5)[2::2]
    assert data["allowance"] == pytest.approx(9 / 16)
    assert "Live video needs a causal model" in report


def test_a_causal_model_streams(tmp_path) -> None:
    causal = load_model(write_wan(tmp_path / "causal.safetensors", "wan21_causal"))
    with pytest.raises(BudgetError, match="Accelerator Loader"):
        run(causal, VIDEO, evaluation=0.5)
    steps, _, report, _, data = run(
        with_record(causal, CATALOG["self-forcing-dmd"]), VIDEO, "live", evaluation=0.1
    )
    assert steps == 4
    # One block of three frames: four steps, and no later block that needs its keys.
    assert data["evaluations"] == 4
    assert "first block of the stream" in report
    assert {way["method"] for way in data["ways"]} == {Route.STREAM.value}
    assert "a stream's seconds are rough" in report


@needs_causal_wan
def test_a_measured_stream_says_what_its_first_and_its_last_block_cost(tmp_path) -> None:
    report, _, data = run(self_forcing(tmp_path), clip_of(9))[2:]
    first, last = data["seconds_per_block"]["3"]
    assert 0 < first <= last and data["seconds_per_evaluation"] == pytest.approx((first + last) / 2)
    assert (
        f"{first:.3g} in the first block of the stream, {last:.3g} in the last (measured now on"
        in report
    )
    # Frame-wise models make one frame at a time, which has a cost of its own.
    assert data["seconds_per_block"].keys() == {"1", "3"}


@needs_causal_wan
def test_the_demo_models_stream_is_there_and_has_only_its_own_accelerators() -> None:
    model, _, _, _, latent, _ = FewStepDemo.execute("a red circle moving right", 17, "causal").args
    table = table_of(run(model, latent, "live", evaluation=0.01)[2])
    assert table.keys() == {"fewstep-demo-causal"}
    assert table["fewstep-demo-causal"]["there"] == "yes (on the model)"


def test_the_demo_model_and_wan_do_not_lend_each_other_accelerators(tmp_path) -> None:
    model, _, _, _, latent, _ = FewStepDemo.execute("a red circle moving right", 17, "base").args
    of_demo = {id for id in table_of(run(model, latent, evaluation=0.1)[2]) if id in CATALOG}
    assert of_demo == {"fewstep-demo-4step", "fewstep-demo-lcm"}
    wan = load_model(write_wan(tmp_path / "wan.safetensors", "wan21_t2v"))
    # The demo's accelerators have no width of their own.
    assert of_demo.isdisjoint(table_of(run(wan, VIDEO, evaluation=0.1)[2]))


def test_the_demo_models_clip_plays_as_in_its_workflows() -> None:
    model, _, _, _, latent, _ = FewStepDemo.execute("a red circle moving right", 17, "base").args
    assert budget.work_of(look_at(model), latent).clip_seconds == pytest.approx(17 / 8)


def test_an_ordinary_lora_of_another_loader_changes_nothing_but_is_told(unets) -> None:
    model = unets["sd15"].clone()
    key = "diffusion_model.input_blocks.1.1.transformer_blocks.0.attn1.to_q.weight"
    weight = model.model.state_dict()[key]
    model.add_patches({key: ("diff", (torch.zeros_like(weight),))}, 1.0)
    report = run(model, IMAGE, evaluation=0.5)[2]
    assert "Taken for a model without an accelerator" in report


def test_a_wrong_declaration_is_read_and_warned_of_once(unets, models, caplog) -> None:
    path = models / "loras" / "broken.fewstep.json"
    path.write_text("{", encoding="utf-8")
    try:
        run(unets["sd15"], IMAGE, evaluation=0.5)
    finally:
        path.unlink()
    warnings = [record.getMessage() for record in caplog.records if record.levelname == "WARNING"]
    assert sum("broken.fewstep.json" in message for message in warnings) == 1


def test_a_forced_negative_branch_doubles_the_prediction(unets) -> None:
    model = with_record(unets["sdxl"].clone(), CATALOG["sdxl-lightning-4step-lora"])
    model.model_options["disable_cfg1_optimization"] = True
    data = run(model, IMAGE, evaluation=0.5)[-1]
    assert (data["evaluations"], data["predicted_seconds"]) == (8, 4.0)


def test_a_patch_that_needs_a_negative_prompt_is_measured_with_one(unets) -> None:
    from comfy_extras.nodes_sag import SelfAttentionGuidance

    made = SelfAttentionGuidance.execute(unets["sd15"], 0.5, 2.0).args[0]
    cost = measure.measure_cost(look_at(made), {"samples": torch.zeros(1, 4, 16, 16)})
    assert cost.guided_step == 2 * cost.evaluation > 0


def test_weights_are_measured_as_they_lie_in_memory(unets) -> None:
    assert measure.machine_of(unets["sd15"]).weight_bits == 32


def test_the_chart_draws_the_time_allowed_and_rings_the_choice(unets) -> None:
    _, choice, axes = chart(unets["sd15"], 6.0)
    # 30 steps made.
    assert (
        points_of(axes, "chosen: 50 steps, 6 s")
        == [(choice.way.evaluations, choice.way.seconds)]
        == [(60, 6.0)]
    )
    lines = {line.get_label(): line for line in axes.get_lines()}
    assert set(lines["allowed: 6 s"].get_ydata()) == {6.0}
    # One prompt's evaluations lie on the grey line.
    assert [
        y / x for x, y in lines["0.1 s an evaluation, one prompt"].get_xydata()
    ] == pytest.approx([0.1, 0.1])


def test_the_chart_has_a_point_for_every_way_and_for_the_choice(unets) -> None:
    ways, choice, axes = chart(unets["sd15"], 6.0)
    for route in (Route.FULL, Route.SKIP, Route.ACCELERATOR):
        drawn = sorted(
            {(way.evaluations, way.seconds) for way in [*ways, choice.way] if way.route is route}
        )
        assert drawn and points_of(axes, route.value) == drawn
    # The choice has a dot and a name of its own: it is neither the full run nor the one at 2x.
    names = [text.get_text() for text in axes.texts]
    assert names.count("full") == 1 and names.count("skip") == 1
    assert names.count("50 steps at 1.65x") == 1 and len(points_of(axes, Route.SKIP.value)) == 2
    counts = [int(name.split()[0]) for name in names if "accelerator" in name]
    assert sum(counts) == sum(way.route is Route.ACCELERATOR for way in ways)


def test_the_chart_says_when_any_time_is_allowed(unets) -> None:
    _, _, axes = chart(unets["sd15"], math.inf)
    legend = [text.get_text() for text in axes.get_legend().get_texts()]
    assert "allowed: any time" in legend
    assert "chosen: 50 steps, 10 s" in legend


def chart(model, allowance: float) -> tuple[list, Choice, object]:
    """(the ways, the choice among full runs, the axes) at 0.1 s an evaluation and 0.2 s a guided
    step.
    """
    subject, cost = budget.subject_of(model, IMAGE), Cost(0.1, 0.2)
    ways = budget.known_ways(
        subject.model.base, None, subject.full_run, subject.catalogue, cost, subject.work
    )
    choice = budget.choose(budget.candidates(None, subject.full_run, cost, subject.work), allowance)
    drawn = budget.chart_of(budget.Prediction(cost, choice, ways), subject.model.base)
    return ways, choice, draw_chart(drawn).axes[0]


def points_of(axes, label: str) -> list[tuple[float, float]]:
    """Where the dots with this name in the legend lie."""
    (dots,) = [collection for collection in axes.collections if collection.get_label() == label]
    return [(x, y) for x, y in dots.get_offsets().tolist()]
