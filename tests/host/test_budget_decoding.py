"""Step Budget with a VAE on the real host: what decoding takes, what the whole takes, and which
tiny VAE would help.
"""

from __future__ import annotations

import itertools
import json
import math
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import comfy.latent_formats
import comfy.model_management
import comfy.taesd.taehv
import comfy.taesd.taesd
import pytest
import torch
from comfyui_fewstep.loras.words import in_figures
from comfyui_fewstep.nodes import budget
from comfyui_fewstep.nodes.budget import FewStepBudget
from comfyui_fewstep.nodes.demo import FewStepDemo
from comfyui_fewstep.nodes.host import decoding, measure, stream_decode
from comfyui_fewstep.nodes.host.files import load_vae
from comfyui_fewstep.nodes.host.model import look_at
from comfyui_fewstep.quality.chart import draw_chart
from comfyui_fewstep.samplers.budget.cost import BudgetError, Cost, Overhead
from comfyui_fewstep.samplers.budget.decoding import TinyVae

import nodes as core
from prompts import node
from small_models import (
    HAS_CAUSAL_WAN,
    RandomWeights,
    load_model,
    save,
    shapes_of,
    write_wan,
    write_wan_vae,
)

VIDEO = {"samples": torch.zeros(1, 16, 3, 8, 8)}
IMAGE = {"samples": torch.zeros(1, 4, 8, 8)}
PROMPT = "a red circle moving right"


def run(model, latent, vae=None, experience="interactive", seconds=0.0, evaluation=0.0, price=0.0):
    """(steps, report, data in /history)"""
    output = FewStepBudget.execute(
        model,
        latent,
        experience,
        seconds,
        evaluation,
        price,
        **({} if vae is None else {"vae": vae}),
    )
    return output.args[0], output.args[2], output.ui["fewstep_report"][0]


@pytest.fixture(scope="module")
def wan(tmp_path_factory):
    return load_model(write_wan(tmp_path_factory.mktemp("wan") / "wan.safetensors", "wan21_t2v"))


@pytest.fixture
def vae(tmp_path):
    return load_vae(str(write_wan_vae(tmp_path / "vae.safetensors")))


class SlowDecoder:
    """A clock that only the VAE's decoder moves, a second for each picture that it makes."""

    def __init__(self, vae):
        self.now, self.pictures = 0.0, []
        vae.first_stage_model.decoder.register_forward_hook(self.after)

    def __call__(self) -> float:
        return self.now

    def after(self, module, args, made) -> None:
        parts = made if isinstance(made, list) else [made]
        self.pictures.append(sum(part.shape[2] for part in parts))
        self.now += self.pictures[-1]


# ---------------------------------------------------------------- measuring


def ticking(step: float):
    looks = itertools.count(step=step)
    return lambda: next(looks)


def test_a_slow_decoding_is_made_once_and_a_quick_one_four_times(vae, monkeypatch) -> None:
    shapes, decode = [], type(vae).decode

    def counted(self, samples, *args):
        shapes.append(tuple(samples.shape))
        return decode(self, samples, *args)

    monkeypatch.setattr(type(vae), "decode", counted)
    latent = torch.zeros(2, 16, 3, 8, 8)
    slow = decoding.measure_decoding(vae, latent, False, ticking(3.0))
    assert slow.seconds == 3.0 and shapes == [(2, 16, 3, 8, 8)]
    quick = decoding.measure_decoding(vae, latent, False, ticking(0.01))
    assert quick.seconds == pytest.approx(0.01) and len(shapes) == 1 + 4


def test_a_warm_up_is_not_in_the_seconds_of_a_quick_decoding(vae) -> None:
    looks = iter((0.0, 1.5, 2.0, 2.1, 3.0, 3.2, 4.0, 4.3))
    made = decoding.measure_decoding(vae, torch.zeros(1, 16, 1, 4, 4), False, lambda: next(looks))
    assert made.seconds == pytest.approx(0.2)  # of 0.1, 0.2 and 0.3


def test_a_stream_is_measured_by_its_first_frames(vae) -> None:
    clock = SlowDecoder(vae)
    made = decoding.measure_decoding(vae, torch.zeros(1, 16, 9, 4, 4), True, clock)
    # Five latent frames to warm up and five timed: one picture, then four for each.
    assert clock.pictures == 2 * [1, 4, 4, 4, 4]
    # 9 latent frames are 33 pictures.
    assert made.seconds == 33.0


@pytest.mark.parametrize("frames", [1, 2, 3])
def test_a_short_stream_is_measured_whole(vae, frames) -> None:
    made = decoding.measure_decoding(vae, torch.zeros(1, 16, frames, 4, 4), True, SlowDecoder(vae))
    assert made.seconds == 4 * frames - 3


def test_a_vae_that_cannot_decode_in_pieces_is_measured_whole_for_a_stream(models) -> None:
    tiny = write_taehv(models, "lighttaew2_1")
    try:
        (vae,) = core.VAELoader().load_vae(tiny.name)
        assert not stream_decode.can_decode_frames(vae)
        made = decoding.measure_decoding(vae, torch.zeros(1, 16, 3, 4, 4), True, ticking(3.0))
        assert made.seconds == 3.0
    finally:
        tiny.unlink()


def out_of_memory(*args, **options):
    raise torch.OutOfMemoryError("tried to allocate 20 GiB")


def test_where_the_host_decodes_in_tiles_that_is_what_is_measured(vae, monkeypatch) -> None:
    widths, decode = [], vae.first_stage_model.decode

    def no_room_for_all(z, *args, **options):
        widths.append(z.shape[-1])
        if z.shape[-1] > 32:
            out_of_memory()
        return decode(z, *args, **options)

    monkeypatch.setattr(vae.first_stage_model, "decode", no_room_for_all)
    made = decoding.measure_decoding(vae, torch.zeros(1, 16, 1, 40, 40), False, ticking(3.0))
    # The host's tiles for a video VAE: 256 pixels, 32 of a latent.
    assert made.seconds == 3.0 and made.note == ""
    assert widths[0] == 40 and len(widths) > 4 and set(widths[1:]) <= set(range(1, 33))


@pytest.mark.parametrize("is_stream", [False, True])
def test_no_memory_for_decoding_is_told_and_nothing_else_is_lost(
    wan, vae, monkeypatch, is_stream
) -> None:
    alone = run(wan, VIDEO, evaluation=0.5)
    if is_stream:
        monkeypatch.setattr(stream_decode.FrameDecoder, "_pictures", out_of_memory)
    monkeypatch.setattr(vae.first_stage_model, "decode", out_of_memory)
    made = decoding.measure_decoding(vae, VIDEO["samples"], is_stream)
    assert made.seconds is None and "VAE Decode (Tiled) needs less" in made.note
    steps, report, data = run(wan, VIDEO, vae, evaluation=0.5)
    assert (steps, data["predicted_seconds"]) == (alone[0], alone[2]["predicted_seconds"])
    assert "whole_seconds" not in data and made.note in report and made.note in data["notes"]
    assert "Text encoding and the VAE are not in these figures" in report


def test_pictures_beyond_the_free_memory_are_not_decoded(vae, monkeypatch) -> None:
    monkeypatch.setattr(comfy.model_management, "get_free_memory", lambda *_: 1000)
    monkeypatch.setattr(type(vae), "decode", lambda *_: pytest.fail("it was decoded"))
    made = decoding.measure_decoding(vae, VIDEO["samples"], False)
    assert made.seconds is None and "the pictures would take" in made.note


def test_another_error_of_the_vae_reaches_the_host(vae, monkeypatch) -> None:
    def broken(*args, **options):
        raise RuntimeError("the decoder broke")

    monkeypatch.setattr(vae.first_stage_model, "decode", broken)
    with pytest.raises(RuntimeError, match="the decoder broke"):
        decoding.measure_decoding(vae, VIDEO["samples"], False)


def test_a_vae_for_other_latents_is_refused_before_it_is_run(unets, vae) -> None:
    with pytest.raises(BudgetError, match="latents of 16 channels, and this model's have 4"):
        run(unets["sd15"], IMAGE, vae, evaluation=0.5)


def test_what_a_run_takes_once_is_measured_without_an_evaluation(unets) -> None:
    model, calls = unets["sd15"].clone(), []
    model.set_model_unet_function_wrapper(lambda apply, options: calls.append(options))
    state = torch.random.get_rng_state()
    assert measure.measure_once(look_at(model), IMAGE, ticking(0.25)) == 0.25
    assert calls == [] and torch.equal(state, torch.random.get_rng_state())


def test_decoding_leaves_nothing_on_the_vae_and_the_random_numbers_as_they_were(wan, vae) -> None:
    before = set(vars(vae)), set(vars(vae.first_stage_model))
    weights = {key: value.clone() for key, value in vae.get_sd().items()}
    state = torch.random.get_rng_state()
    for is_stream in (False, True):
        samples = decoding.latent_to_decode(look_at(wan), VIDEO)
        decoding.measure_decoding(vae, samples, is_stream)
    assert (set(vars(vae)), set(vars(vae.first_stage_model))) == before
    assert all(torch.equal(value, weights[key]) for key, value in vae.get_sd().items())
    assert torch.equal(state, torch.random.get_rng_state())
    assert not VIDEO["samples"].any()


# ---------------------------------------------------------------- the node


def rows_of(report: str) -> dict[str, str]:
    lines = report.split("\n\n")[1].splitlines()
    return dict(line.removeprefix("- ").split(": ", 1) for line in lines)


def test_the_whole_is_sampling_decoding_and_what_a_run_takes_once() -> None:
    model, _, _, vae, latent, _ = FewStepDemo.execute(PROMPT, 17, "base").args
    _, report, data = run(model, latent, vae, "batch", price=3.6)
    parts = [data[name] for name in ("predicted_seconds", "decoding_seconds", "once_seconds")]
    assert all(part > 0 for part in parts)
    assert data["whole_seconds"] == pytest.approx(sum(parts))
    assert data["price"] == pytest.approx(data["whole_seconds"] / 1000)
    whole = rows_of(report)["whole"]
    shares = [int(part.partition("%")[0]) for part in whole.split("(")[1:]]
    assert sum(shares) == pytest.approx(100, abs=1.5) and 0 not in shares
    assert whole.startswith(in_figures(data["whole_seconds"])) and ": sampling " in whole
    assert ", decoding " in whole
    assert ("once for each run" in whole) == (parts[2] / data["whole_seconds"] >= 0.005)
    assert "about" in data["summary"] and "with decoding" in data["summary"]
    # What Speed-Quality Compare reads is the sampler's alone, and its price with it.
    assert rows_of(report)["seconds"].endswith("(predicted, sampling alone)")
    assert rows_of(report)["price"].endswith("for each clip, sampling alone")
    assert "keeps the result for as long as the prompt stays" in report
    json.dumps(data)


def test_without_a_vae_the_report_is_as_it_was(wan) -> None:
    _, report, data = run(wan, VIDEO, evaluation=0.5, price=1.0)
    assert "whole" not in rows_of(report) and "| seconds |" in report
    assert rows_of(report)["seconds"].endswith("(predicted)")
    assert "Text encoding and the VAE are not in these figures, nor is loading" in report
    assert not {"whole_seconds", "decoding_seconds", "tiny_vae"} & data.keys()
    assert not any("whole_seconds" in way for way in data["ways"])


def of_pictures() -> SimpleNamespace:
    """What is asked of a VAE for SDXL where its decoding is not run."""
    return SimpleNamespace(
        latent_dim=2,
        latent_channels=4,
        first_stage_model=torch.nn.Identity(),
        throw_exception_if_invalid=lambda: None,
    )


def decodes_in(monkeypatch, seconds: float) -> None:
    """Let every decoding take so long."""
    made = decoding.Decoding(seconds)
    monkeypatch.setattr(budget, "measure_decoding", lambda *args, **options: made)
    monkeypatch.setattr(decoding, "measure_decoding", lambda *args, **options: made)


def test_the_steps_leave_time_for_decoding(wan, vae, monkeypatch) -> None:
    # Guided steps of a second, 30 at least of which Step Skip makes half: 40 s are 40 made.
    steps, speedup, *_ = FewStepBudget.execute(wan, VIDEO, "batch", 40.0, 0.5, 0.0).args
    assert (steps, speedup) == (50, 1.25)
    decodes_in(monkeypatch, 10.0)
    output = FewStepBudget.execute(wan, VIDEO, "batch", 40.0, 0.5, 0.0, vae)
    data = output.ui["fewstep_report"][0]
    # 30 s are left: at 1.65x 30 steps are made.
    assert output.args[:2] == (50, 1.65)
    assert data["whole_seconds"] == data["predicted_seconds"] + 10.0 == 40.0
    assert data["misses"] == 0.0 and data["once_seconds"] == 0.0  # not measured: seconds were given
    late = FewStepBudget.execute(wan, VIDEO, "live", 5.0, 0.5, 0.0, vae).ui["fewstep_report"][0]
    assert late["misses"] == pytest.approx(late["whole_seconds"] - 5.0) and late["misses"] > 5.0


def test_the_table_has_sampling_and_the_whole_of_every_way(unets, monkeypatch) -> None:
    decodes_in(monkeypatch, 10.0)
    report = run(unets["sdxl"], IMAGE, of_pictures(), seconds=30.0, evaluation=0.5)[1]
    lines = report.partition("Every way to run this model:")[2].split("\n\n")[1].splitlines()
    head, _, *rows = [[cell.strip() for cell in line.strip("|").split(" | ")] for line in lines]
    at = {name: head.index(name) for name in ("sampling", "whole", "factor", "fits")}
    full = float(rows[0][at["whole"]])
    assert len(rows) > 5 and {row[at["fits"]] for row in rows} == {"yes", "no"}
    for row in rows:
        whole = float(row[at["whole"]])
        assert whole == pytest.approx(float(row[at["sampling"]]) + 10.0)
        assert row[at["factor"]] == f"{full / whole:.1f}x"
        assert row[at["fits"]] == ("yes" if whole <= 30.0 else "no")


@pytest.mark.skipif(not HAS_CAUSAL_WAN, reason="this host has no causal Wan")
def test_the_demo_models_stream_counts_decoding_block_by_block(monkeypatch) -> None:
    model, _, _, vae, latent, _ = FewStepDemo.execute(PROMPT, 17, "causal").args
    monkeypatch.setattr(type(vae), "decode", lambda *_: pytest.fail("it was decoded whole"))
    _, report, data = run(model, latent, vae, "live", evaluation=0.01)
    assert data["decoding_seconds"] > 0
    assert "first block of the stream" in rows_of(report)


def test_the_chart_stands_on_the_decoding(unets) -> None:
    cost = Cost(0.1, 0.2, overhead=Overhead(2.0, 0.5))
    subject = budget.subject_of(unets["sd15"], IMAGE)
    prediction = budget.predict(subject, cost, 8.5)
    axes = draw_chart(budget.chart_of(prediction, subject.model.base)).axes[0]
    lines = {line.get_label(): line for line in axes.get_lines()}
    assert set(lines["decoding, however many steps: 2.5 s"].get_ydata()) == {2.5}
    slope = lines["0.1 s an evaluation, one prompt"].get_xydata()
    assert len(slope) > 10  # it bends
    assert [(y - 2.5) / x for x, y in slope] == pytest.approx([0.1] * len(slope))
    assert "decoding included" in axes.get_ylabel()
    # 30 steps made: 6 s and 2.5 s.
    way = prediction.choice.way
    (ring,) = [dots for dots in axes.collections if "chosen" in str(dots.get_label())]
    assert ring.get_offsets().tolist() == [[way.evaluations, way.whole]] == [[60, 8.5]]


# ---------------------------------------------------------------- tiny VAEs


def write_taehv(models: Path, name: str, ending: str = ".safetensors", channels: int = 16) -> Path:
    """A tiny VAE for clips of random weights, where core's Load VAE lists it."""
    with torch.device("meta"):
        shapes = shapes_of(comfy.taesd.taehv.TAEHV(latent_channels=channels))
    return save(models / "vae_approx" / f"{name}{ending}", RandomWeights(0).fill(shapes))


def write_taesd(models: Path, name: str, channels: int = 4) -> list[Path]:
    """Both halves of a tiny VAE for pictures."""
    with torch.device("meta"):
        tiny = comfy.taesd.taesd.TAESD(latent_channels=channels)
    halves = {"encoder": tiny.taesd_encoder, "decoder": tiny.taesd_decoder}
    return [
        save(
            models / "vae_approx" / f"{name}_{half}.safetensors",
            RandomWeights(0).fill(shapes_of(module)),
        )
        for half, module in halves.items()
    ]


def test_a_long_decoding_is_told_with_the_tiny_vae_to_get(wan, vae, models) -> None:
    # A millisecond an evaluation: whatever the decoding takes here, it is more than a fifth.
    _, report, data = run(wan, VIDEO, vae, evaluation=1e-6)
    assert data["tiny_vae"]["option"] == "" and data["tiny_vae"]["seconds"] is None
    assert (
        "1. Decode: " in report and "put lighttaew2_1.safetensors into models/vae_approx" in report
    )


def test_a_short_decoding_is_not_worth_a_word(wan, vae, monkeypatch) -> None:
    decodes_in(monkeypatch, 0.1)
    _, report, data = run(wan, VIDEO, vae, evaluation=0.5)
    assert "Decode: " not in report and "tiny_vae" not in data and "whole" in rows_of(report)


def test_a_tiny_vae_that_is_there_is_measured_as_core_loads_it(wan, vae, models) -> None:
    path = write_taehv(models, "lighttaew2_1")
    try:
        assert path.name in core.VAELoader.vae_list(core.VAELoader)
        _, report, data = run(wan, VIDEO, vae, evaluation=1e-6)
        assert data["tiny_vae"]["option"] == path.name and data["tiny_vae"]["seconds"] > 0
        assert f"{path.name}, " in report
    finally:
        path.unlink()


def test_the_halves_of_a_tiny_vae_for_pictures_are_one_in_load_vae(unets, models) -> None:
    model, latent = look_at(unets["sdxl"]), torch.zeros(1, 4, 8, 8)
    connected = core.VAELoader().load_vae("pixel_space")[0]  # any that is not tiny
    paths = write_taesd(models, "taesdxl")
    try:
        tiny = decoding.tiny_vae(model, connected, latent, ticking(3.0))
        assert "taesdxl" in core.VAELoader.vae_list(core.VAELoader)
        assert (tiny.option, tiny.seconds, tiny.problem) == ("taesdxl", 3.0, "")
        assert tiny.files == tuple(path.name for path in paths)
        paths.pop().unlink()  # without its decoder it is not listed
        half = decoding.tiny_vae(model, connected, latent)
        assert half == TinyVae(tiny.files)
    finally:
        for path in paths:
            path.unlink()
    # Another model's is not this one's.
    assert (
        decoding.tiny_vae(look_at(unets["sd15"]), connected, latent).files[0].startswith("taesd_")
    )


def test_only_safetensors_are_opened(wan, vae, models, monkeypatch) -> None:
    path = models / "vae_approx" / "lighttaew2_1.pth"
    path.write_bytes(b"not looked at")
    monkeypatch.setattr(core.VAELoader, "load_vae", lambda *_: pytest.fail("it was opened"))
    try:
        tiny = decoding.tiny_vae(look_at(wan), vae, VIDEO["samples"])
        assert tiny.option == path.name and tiny.seconds is None
        assert "opens .safetensors files alone" in tiny.problem
    finally:
        path.unlink()


def test_of_two_files_the_safe_one_is_measured(wan, vae, models) -> None:
    pickled = models / "vae_approx" / "lighttaew2_1.pth"
    pickled.write_bytes(b"not looked at")
    safe = write_taehv(models, "lighttaew2_1")
    try:
        tiny = decoding.tiny_vae(look_at(wan), vae, VIDEO["samples"], ticking(3.0))
        assert (tiny.option, tiny.seconds) == (safe.name, 3.0)
    finally:
        pickled.unlink()
        safe.unlink()


@pytest.mark.parametrize("kind", ["cut off", "another model's", "no VAE"])
def test_a_wrong_file_of_that_name_is_told_and_ends_nothing(wan, vae, models, kind) -> None:
    path = write_taehv(models, "lighttaew2_1", channels=48 if kind == "another model's" else 16)
    if kind == "cut off":
        path.write_bytes(path.read_bytes()[:-1000])
    if kind == "no VAE":
        save(path, {"some.weight": torch.zeros(2, 2)})
    try:
        steps, report, data = run(wan, VIDEO, vae, evaluation=1e-6)
        assert steps and data["tiny_vae"]["seconds"] is None
        assert "it could not be measured: " in data["tiny_vae"]["problem"]
        assert "could not be measured" in report
    finally:
        path.unlink()


def test_a_connected_tiny_vae_is_known_as_one(wan, models) -> None:
    path = write_taehv(models, "lighttaew2_1")
    try:
        (vae,) = core.VAELoader().load_vae(path.name)
    finally:
        path.unlink()
    _, report, data = run(wan, VIDEO, vae, evaluation=1e-6)
    assert data["tiny_vae"]["is_connected"] and "is a tiny one already" in report


def test_the_demo_models_latents_are_its_own() -> None:
    model, _, _, vae, latent, _ = FewStepDemo.execute(PROMPT, 17, "base").args
    assert decoding.tiny_vae(look_at(model), vae, latent["samples"]) == TinyVae()


def formats() -> list[type]:
    everything = vars(comfy.latent_formats).values()
    kind = comfy.latent_formats.LatentFormat
    return [each for each in everything if isinstance(each, type) and issubclass(each, kind)]


@pytest.mark.parametrize("latent_format", formats(), ids=lambda each: each.__name__)
def test_what_is_named_is_what_core_loads(wan, latent_format) -> None:
    """Of every latent format of this host: nothing, or what its Load VAE takes by that name."""
    model = wan.clone()
    model.add_object_patch("latent_format", latent_format())
    name = decoding._name_of(replace(look_at(wan), patcher=model))
    loader = core.VAELoader
    assert name == "" or name in (*loader.image_taes, *loader.video_taes)
    if latent_format.__name__ in ("SD15", "SDXL", "SD3", "Flux", "Wan21", "Wan22", "LTXAV"):
        expected = {
            "SD15": "taesd",
            "SDXL": "taesdxl",
            "SD3": "taesd3",
            "Flux": "taef1",
            "Wan21": "lighttaew2_1",
            "Wan22": "lighttaew2_2",
            "LTXAV": "taeltx_2",
        }
        assert name == expected[latent_format.__name__]


# ---------------------------------------------------------------- over HTTP


def test_over_http_the_whole_is_predicted_and_run(server) -> None:
    graph = {
        "demo": node("FewStepDemo", prompt=PROMPT, frames=5, variant="base"),
        "budget": node(
            "FewStepBudget",
            model=["demo", 0],
            latent_image=["demo", 4],
            experience="interactive",
            seconds=0.0,
            seconds_per_evaluation=0.0,
            price_per_hour=0.0,
            vae=["demo", 3],
        ),
        "show": node("PreviewAny", source=["budget", 2]),
    }
    entry = server.client.run(graph)
    (report,) = entry["outputs"]["budget"]["fewstep_report"]
    assert math.isclose(
        report["whole_seconds"],
        report["predicted_seconds"] + report["decoding_seconds"] + report["once_seconds"],
    )
    assert report["decoding_seconds"] > 0 and "with decoding" in report["summary"]
