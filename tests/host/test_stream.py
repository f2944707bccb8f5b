"""The Streaming Sampler on a real causal Wan: equal to attention without any cache, to core's
sampler and to the whole decode.
"""

from __future__ import annotations

from types import SimpleNamespace

import comfy.ldm.flux.math
import comfy.ldm.wan.model
import comfy.model_management
import comfy.samplers
import comfy.sd
import comfy.supported_models
import comfy.utils
import numpy
import pytest
import torch
from comfyui_fewstep.loras.catalog import CATALOG
from comfyui_fewstep.nodes import accelerator, stream
from comfyui_fewstep.nodes.host import stream as stream_run
from comfyui_fewstep.nodes.host import stream_cache, stream_decode
from comfyui_fewstep.nodes.host.attach import with_record
from comfyui_fewstep.nodes.host.files import load_vae
from comfyui_fewstep.nodes.host.model import with_model_sampling
from comfyui_fewstep.nodes.host.server import version
from comfyui_fewstep.nodes.host.skip import SkipConfig, with_skip
from comfyui_fewstep.nodes.host.stream_decode import Room
from comfyui_fewstep.nodes.sampler import FewStepSampler
from comfyui_fewstep.nodes.stream import FewStepStream
from comfyui_fewstep.samplers.causal import Window, make_stream_plan, seeded_draw
from comfyui_fewstep.samplers.plan import PlanError
from comfyui_fewstep.samplers.skip.method import Settings
from thinning import corners, some_of, thorough
from torch import Tensor

import nodes as core
import small_models
from left_behind import live_bytes
from small_loras import write_lora

pytestmark = pytest.mark.skipif(
    not small_models.HAS_CAUSAL_WAN, reason="this ComfyUI has no causal Wan"
)

CHUNKS, FRAMES = CATALOG["self-forcing-dmd"], CATALOG["causal-forcing-framewise"]
ONE_STEP, CAUSVID = CATALOG["causal-forcing-plus-framewise-1step"], CATALOG["causvid-1-3b-causal"]
SIDE = 8


def with_settings(model, record):
    """The model as the loader leaves it. The small one is narrower than any release, which the
    record does not mind here.
    """
    return with_record(with_model_sampling(model, record), record)


@pytest.fixture(scope="module")
def causal(models):
    path = small_models.write_wan(
        models / "diffusion_models" / "causal.safetensors", "wan21_causal", seed=2
    )
    return small_models.load_model(path)


@pytest.fixture(scope="module")
def vae(models):
    return load_vae(str(small_models.write_wan_vae(models / "vae" / "wan_vae.safetensors")))


@pytest.fixture(scope="module")
def text():
    return small_models.conditioning(length=6)


def video(frames, batch=1, **more):
    return {"samples": torch.zeros(batch, 16, frames, SIDE, SIDE), **more}


def clip_of(frames, seed=0, batch=1):
    generator = torch.Generator().manual_seed(seed)
    return {"samples": torch.randn(batch, 16, frames, SIDE, SIDE, generator=generator)}


def run(model, text, latent, seed=3, block=0, window=0, sink=0, **more):
    """(latent tensor, images or what stands for them, report data)."""
    with torch.inference_mode():
        output = FewStepStream.execute(model, text, latent, seed, block, window, sink, **more)
    return output.args[0]["samples"], output.args[1], output.ui["fewstep_report"][0]


# ---------------------------------------------------------------- equal to attention without a cach


class Reference:
    """The causal network evaluated on the whole clip so far at once: every frame at its own noise
    level, block-causal attention by a mask, nothing remembered between evaluations.
    """

    def __init__(self, model, text, blocks, window=Window()):
        self.network = model.model.diffusion_model.float()
        self.context = self.network.text_embedding(text[0][0].float())
        self.blocks = blocks
        # For every frame the frames it sees: those of its own block, the latest before it and the
        # sinks. Given frames that the window has left behind are in no block; nothing sees them.
        self.seen = {frame: {frame} for frame in range(blocks[-1].end)}
        remembered: list[int] = []
        for block in blocks:
            gone = max(0, len(remembered) + block.frames - window.frames) if window.frames else 0
            remembered = (
                remembered[: window.sink] + remembered[window.sink + gone :] if gone else remembered
            )
            own = list(range(block.start, block.end))
            self.seen |= {frame: set(remembered + own) for frame in own}
            remembered = remembered + own

    def velocity(self, x: Tensor, sigmas: Tensor) -> Tensor:
        """x: (1, C, frames, H, W). sigmas: (frames,)."""
        network, frames = self.network, x.shape[2]
        tokens = network.patch_embedding(x)
        grid = tokens.shape[2:]
        tokens = tokens.flatten(2).transpose(1, 2)  # (1, frames · h · w, dim)
        per_frame = tokens.shape[1] // frames
        time = network.time_embedding(
            comfy.ldm.wan.model.sinusoidal_embedding_1d(network.freq_dim, sigmas * 1000)
        )[None]
        modulation = network.time_projection(time).unflatten(2, (6, network.dim))
        turns = network.rope_encode(*x.shape[2:], dtype=torch.float32)
        mask = torch.tensor(
            [[other in self.seen[frame] for other in range(frames)] for frame in range(frames)]
        )
        mask = mask.repeat_interleave(per_frame, 0).repeat_interleave(per_frame, 1)
        for layer in network.blocks:
            shift, scale, gate, shift2, scale2, gate2 = (
                (layer.modulation[:, None] + modulation)[:, :, n].repeat_interleave(per_frame, 1)
                for n in range(6)
            )
            tokens = tokens + gate * self.attention(
                layer.self_attn, layer.norm1(tokens) * (1 + scale) + shift, turns, mask
            )
            tokens = tokens + layer.cross_attn(layer.norm3(tokens), self.context)
            tokens = tokens + gate2 * layer.ffn(layer.norm2(tokens) * (1 + scale2) + shift2)
        return network.unpatchify(network.head(tokens, time), grid)

    def attention(self, layer, x: Tensor, turns: Tensor, mask: Tensor) -> Tensor:
        heads = [
            part.unflatten(2, (layer.num_heads, -1))
            for part in (layer.norm_q(layer.q(x)), layer.norm_k(layer.k(x)), layer.v(x))
        ]
        q, k = (comfy.ldm.flux.math.apply_rope1(part, turns) for part in heads[:2])
        q, k, v = (part.transpose(1, 2) for part in (q, k, heads[2]))
        return layer.o(
            torch.nn.functional.scaled_dot_product_attention(q, k, v, attn_mask=mask)
            .transpose(1, 2)
            .flatten(2)
        )

    def sample(self, draw, given: Tensor | None = None) -> Tensor:
        """The clip, (1, C, frames, H, W), in the model's own scale."""
        past = torch.zeros(1, 16, 0, SIDE, SIDE) if given is None else given
        for block in (block for block in self.blocks if not block.is_given):
            noise = draw(block)
            x = block.sigmas[0] * noise[0]
            for step, (sigma, sigma_next) in enumerate(zip(block.sigmas, block.sigmas[1:])):
                levels = torch.tensor([0.0] * past.shape[2] + [sigma] * block.frames)
                velocity = self.velocity(torch.cat([past, x], 2), levels)[:, :, -block.frames :]
                x = x - sigma * velocity
                if sigma_next:
                    x = (1 - sigma_next) * x + sigma_next * noise[step + 1]
            past = torch.cat([past, x], 2)
        return past


def reference(model, text, record, frames, window=Window(), start=None, seed=3):
    plan = make_stream_plan(
        record, frames, lambda t: t / 1000, 0 if start is None else start.shape[2], window=window
    )
    draw = seeded_draw(seed, (1, 16, SIDE, SIDE), torch.device("cpu"))
    with torch.inference_mode():
        given = None if start is None else model.model.process_latent_in(start)
        latent = Reference(model, text, plan.blocks, window).sample(draw, given)
        return model.model.process_latent_out(latent)


@pytest.mark.parametrize(
    ("record", "frames"),
    [(CHUNKS, 9), (FRAMES, 5), (ONE_STEP, 5), (CAUSVID, 6)],
    ids=["chunks", "frames", "1step", "causvid"],
)
def test_equals_full_causal_attention_without_a_cache(causal, text, record, frames):
    latent, _, report = run(with_settings(causal, record), text, video(frames))
    assert torch.allclose(latent, reference(causal, text, record, frames), atol=1e-4)
    assert report["evaluations"] == make_stream_plan(record, frames, lambda t: t / 1000).evaluations


@corners()
@pytest.mark.parametrize(
    "window", [Window(4), Window(5, 1), Window(6, 2)], ids=["4", "5 with 1 sink", "6 with 2 sinks"]
)
@pytest.mark.parametrize("record", [CHUNKS, FRAMES], ids=["chunks", "frames"])
def test_a_window_equals_attention_through_the_same_window(causal, text, record, window):
    latent, _, _ = run(
        with_settings(causal, record), text, video(12), window=window.frames, sink=window.sink
    )
    assert torch.allclose(latent, reference(causal, text, record, 12, window), atol=1e-4)


def test_a_window_as_long_as_the_clip_changes_nothing_and_a_shorter_one_does(causal, text):
    model = with_settings(causal, FRAMES)
    whole, _, _ = run(model, text, video(5))
    assert torch.equal(whole, run(model, text, video(5), window=5)[0])
    assert not torch.allclose(whole, run(model, text, video(5), window=2)[0], atol=1e-2)


@pytest.mark.parametrize(
    ("record", "frames", "given", "window", "read"),
    [
        (CHUNKS, 7, 1, Window(), [1]),
        (CHUNKS, 9, 6, Window(), [3, 3]),
        # A frame over stands alone.
        (CHUNKS, 10, 4, Window(), [1, 3]),
        (FRAMES, 6, 3, Window(), [1, 1, 1]),
        # The block made and the sink leave room for two: frame 0, which is the sink, and frames 2
        # and 3 are read, frame 1 is not.
        (FRAMES, 8, 4, Window(4, 1), [1, 1, 1]),
        # Room for one block before the one made: of three given ones the last is read.
        (CHUNKS, 12, 9, Window(6), [3]),
    ],
)
def test_a_start_equals_attention_to_its_frames(causal, text, record, frames, given, window, read):
    start = clip_of(given, seed=5)
    latent, _, report = run(
        with_settings(causal, record),
        text,
        video(frames),
        window=window.frames,
        sink=window.sink,
        start_latent=start,
    )
    assert torch.allclose(
        latent, reference(causal, text, record, frames, window, start=start["samples"]), atol=1e-4
    )
    assert torch.allclose(latent[:, :, :given], start["samples"], atol=1e-5)
    plan = make_stream_plan(record, frames, lambda t: t / 1000, given, window=window)
    assert [block.frames for block in plan.blocks if block.is_given] == read
    # Every given block that is read once, every made one in four steps, and a context pass between
    # any two of those.
    made = (frames - given) // record.causal.frames_per_block
    assert (
        report["evaluations"] == len(read) + 4 * made + made - 1 and report["given_frames"] == given
    )


def test_positions_counted_anew_change_nothing(causal, text, monkeypatch):
    model = with_settings(causal, FRAMES)
    settings = {"window": 4, "sink": 1}
    before, _, _ = run(model, text, video(12), **settings)
    # As bfloat16 has it beyond frame 256, at frame 5 and 10.
    monkeypatch.setattr(stream_cache, "exact_integers", lambda dtype: 5)
    assert torch.allclose(before, run(model, text, video(12), **settings)[0], atol=1e-4)


def test_the_precision_bounds_how_far_positions_count():
    assert [stream_cache.exact_integers(dtype) for dtype in (torch.bfloat16, torch.float16)] == [
        256,
        2048,
    ]
    assert torch.tensor([256.0, 257.0]).bfloat16().tolist() == [256, 256]


# ---------------------------------------------------------------- equal to core's sampler


def core_ar_video(model, text, record, frames, monkeypatch, seed=3, start=None):
    """Core's ar_video sampler, given the noise of our run in place of its own."""
    given = 0 if start is None else start.shape[2]
    plan = make_stream_plan(record, frames, lambda t: t / 1000, given)
    draw = seeded_draw(seed, (1, 16, SIDE, SIDE), torch.device("cpu"))
    noise = [draw(block) for block in plan.made]
    fresh = iter([part for parts in noise for part in parts[1:]])
    first = torch.cat([torch.zeros(1, 16, given, SIDE, SIDE), *(parts[0] for parts in noise)], 2)
    options = {"num_frame_per_block": record.causal.frames_per_block}
    patched = model.clone()
    if start is not None:
        patched.model_options["transformer_options"]["ar_config"] = {"initial_latent": start}
    guider = comfy.samplers.CFGGuider(patched)
    guider.set_conds(text, text)
    guider.set_cfg(1.0)
    with monkeypatch.context() as patch, torch.inference_mode():
        patch.setattr(torch, "randn_like", lambda like: next(fresh))
        empty = torch.zeros(1, 16, frames, SIDE, SIDE)
        return guider.sample(
            first,
            empty,
            comfy.samplers.ksampler("ar_video", options),
            torch.tensor(plan.made[-1].sigmas),
            seed=seed,
            disable_pbar=True,
        )


@pytest.mark.parametrize(("record", "frames"), [(CHUNKS, 9), (FRAMES, 5)], ids=["chunks", "frames"])
def test_equals_cores_ar_video_at_the_same_noise(causal, text, record, frames, monkeypatch):
    model = with_settings(causal, record)
    assert torch.allclose(
        run(model, text, video(frames))[0],
        core_ar_video(model, text, record, frames, monkeypatch),
        atol=1e-4,
    )


def test_a_start_picture_equals_cores_image_to_video(causal, text, monkeypatch):
    model, start = with_settings(causal, FRAMES), clip_of(1, seed=5)["samples"]
    ours, _, _ = run(model, text, video(5), start_latent={"samples": start})
    assert torch.allclose(
        ours, core_ar_video(model, text, FRAMES, 5, monkeypatch, start=start), atol=1e-4
    )


@pytest.fixture
def with_picture(causal, vae):
    """What core's ARVideoI2V hands on: a frame-wise model that carries a start picture, and the
    empty latent of a clip.
    """
    node = getattr(pytest.importorskip("comfy_extras.nodes_ar_video"), "ARVideoI2V", None)
    if node is None:
        pytest.skip("this ComfyUI has no ARVideoI2V")
    image = torch.rand(1, 100, 80, 3, generator=torch.Generator().manual_seed(5))

    def execute(record=FRAMES, side=SIDE, length=17):
        return node.execute(
            with_settings(causal, record), vae, image, 8 * side, 8 * side, length, 1
        ).args

    return execute


def test_the_picture_of_cores_image_to_video_node_is_the_start(
    causal, text, with_picture, monkeypatch
):
    model, latent = with_picture()
    picture = model.model_options["transformer_options"]["ar_config"]["initial_latent"]
    ours, _, report = run(model, text, latent)
    # 17 frames are 5 latent ones, the picture among them, under both nodes.
    assert torch.allclose(
        ours, core_ar_video(model, text, FRAMES, 5, monkeypatch, start=picture), atol=1e-4
    )
    assert torch.equal(
        ours, run(with_settings(causal, FRAMES), text, latent, start_latent={"samples": picture})[0]
    )
    assert report["given_frames"] == 1 and report["notes"] == [
        "The clip starts with the picture that ARVideoI2V put on the model."
    ]


def test_a_start_latent_goes_before_the_picture_on_the_model_and_the_report_says_so(
    causal, text, with_picture
):
    (model, latent), start = with_picture(), clip_of(2)
    ours, _, report = run(model, text, latent, start_latent=start)
    assert torch.equal(
        ours, run(with_settings(causal, FRAMES), text, latent, start_latent=start)[0]
    )
    assert (
        report["given_frames"] == 2
        and "the picture that ARVideoI2V put on the model is left out" in report["notes"][0]
    )


def test_a_picture_on_the_model_that_does_not_fit_is_refused_in_words(text, with_picture):
    with pytest.raises(
        PlanError,
        match=(
            r"of ARVideoI2V is \[1, 16, 1, 4, 4\] and the clip \[1, 16, 5, 8, 8\].*LATENT to"
            r" latent_image"
        ),
    ):
        run(with_picture(side=4)[0], text, video(5))
    # 17 frames after a picture leave 4 latent ones, and this model makes 3 at a time.
    with pytest.raises(
        PlanError,
        match=(
            "4 latent frames to make after the 1 it starts with.* Set the video's length to 13"
            " or 25"
        ),
    ):
        run(with_picture(CHUNKS)[0], text, video(5))


# ---------------------------------------------------------------- seeds, batches, state


def test_a_seed_gives_one_clip_and_a_longer_one_begins_like_it(causal, text):
    model = with_settings(causal, FRAMES)
    state = torch.random.get_rng_state()
    short, long = run(model, text, video(3))[0], run(model, text, video(6))[0]
    assert torch.equal(torch.random.get_rng_state(), state)
    assert torch.allclose(short, long[:, :, :3], atol=1e-5)
    assert torch.equal(short, run(model, text, video(3))[0])
    assert not torch.allclose(short, run(model, text, video(3), seed=4)[0], atol=1e-2)


def test_a_batch_of_clips_takes_one_start_or_one_each(causal, text):
    model, one = with_settings(causal, FRAMES), clip_of(1)
    latent, _, report = run(model, text, video(3, batch=2), start_latent=one)
    assert latent.shape == (2, 16, 3, SIDE, SIDE) and torch.allclose(
        latent[0, :, 0], latent[1, :, 0]
    )
    assert (
        not torch.allclose(latent[0], latent[1], atol=1e-2)
        and report["evaluations"] == 1 + 4 + 1 + 4
    )
    assert run(model, text, video(3, batch=2), start_latent=clip_of(1, batch=2))[0].shape[0] == 2


def test_a_run_leaves_nothing_on_the_model_or_the_vae(causal, text, vae):
    model = with_settings(causal, FRAMES)
    options, attributes = (
        repr(model.model_options),
        set(vars(vae.first_stage_model)) | set(vars(model.model.diffusion_model)),
    )
    run(model, text, video(3), vae=vae)
    assert repr(model.model_options) == options and not model.additional_models
    assert set(vars(vae.first_stage_model)) | set(vars(model.model.diffusion_model)) == attributes


def test_the_cache_is_of_the_precision_of_the_arithmetic(causal, text):
    # Weights stored in 8 bits: the host computes in another dtype.
    path = causal.cached_patcher_init[1][0]
    stored = comfy.sd.load_diffusion_model(path, model_options={"dtype": torch.float8_e4m3fn})
    assert stored.model.get_dtype() is torch.float8_e4m3fn
    latent, _, report = run(with_settings(stored, FRAMES), text, video(3))
    assert torch.isfinite(latent).all()
    # 4 layers of keys and values, 3 frames of 16 tokens, 256 wide.
    assert (
        report["cache_bytes"] == 4 * 2 * 3 * 16 * 256 * stored.model.get_dtype_inference().itemsize
    )


# ---------------------------------------------------------------- memory


@thorough
def test_memory_of_the_cache_is_flat_in_length_with_a_window(causal, text):
    model = with_settings(causal, FRAMES)
    short, long = (run(model, text, video(frames), window=4, sink=1)[2] for frames in (6, 24))
    assert short["cache_bytes"] == long["cache_bytes"] == 4 * 2 * 4 * 16 * 256 * 4
    assert run(model, text, video(24))[2]["cache_bytes"] == 6 * long["cache_bytes"]


@pytest.mark.parametrize("length", some_of([24, 48, 120], 24))
def test_all_memory_of_a_run_is_flat_in_length_with_a_window(causal, text, monkeypatch, length):
    """Every tensor there is beyond those before the run, the frames made so far not counted: they
    are the result.
    """
    model = with_settings(causal, FRAMES)
    after = stream_run.Screen.after_block

    def most_held(frames, **window):
        latent, held = video(frames), []
        before = live_bytes()

        def count(self, run, made, seconds):
            if run.blocks % (frames // 4) == 0:
                held.append(live_bytes() - before - made * 16 * SIDE * SIDE * 4)
            after(self, run, made, seconds)

        with monkeypatch.context() as patch:
            patch.setattr(stream_run.Screen, "after_block", count)
            run(model, text, latent, **window)
        assert len(held) == 4
        return max(held)

    run(model, text, video(1))  # the host keeps the model it has loaded
    short, long = (most_held(frames, window=4, sink=1) for frames in (12, length))
    # 4 layers of keys and values, 4 frames of 16 tokens, 256 wide, float32.
    assert short > 4 * 2 * 4 * 16 * 256 * 4, "the cache is among it"
    assert long == pytest.approx(short, rel=0.05)
    assert most_held(32) > 5 * short, "without a window it grows"


def test_a_cache_that_finds_no_room_is_told_in_words(causal, text, monkeypatch):
    def full(*args):
        raise RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 9")

    monkeypatch.setattr(type(causal.model.diffusion_model), "init_kv_caches", full)
    with pytest.raises(PlanError, match="values of 6 latent frames do not fit.* window_frames"):
        run(with_settings(causal, FRAMES), text, video(6))
    with pytest.raises(PlanError, match="values of 4 latent frames do not fit"):
        run(with_settings(causal, FRAMES), text, video(6), window=4)


def test_peak_memory_is_told_where_the_device_counts_it(causal, text):
    _, _, report = run(with_settings(causal, FRAMES), text, video(2))
    if causal.load_device.type == "cuda":
        assert report["peak_bytes"] > report["cache_bytes"]
    else:
        assert report["peak_bytes"] is None


def test_the_host_is_asked_for_room_for_the_cache_and_for_decoding(causal, text, vae, monkeypatch):
    asked = []
    load = comfy.model_management.load_models_gpu

    def ask(models, **more):
        asked.append((models, more))
        return load(models, **more)

    monkeypatch.setattr(comfy.model_management, "load_models_gpu", ask)
    _, _, report = run(with_settings(causal, FRAMES), text, video(6), vae=vae)
    models, more = asked[-1]
    assert vae.patcher in models
    block = causal.model.memory_required([1, 16, 1, SIDE, SIDE])
    assert more["minimum_memory_required"] >= block + report[
        "cache_bytes"
    ] + vae.memory_used_decode((1, 16, 1, SIDE, SIDE), vae.vae_dtype)


# ---------------------------------------------------------------- longer than the training

WITHOUT_SINKS = "A window without sinks, in a clip longer than the 21 latent frames"
AT_ONCE = "24 latent frames are more than the 21 these models were trained on, all of them seen"


@pytest.mark.parametrize(
    ("record", "frames", "window", "sink", "words"),
    [
        (CHUNKS, 24, 0, 0, (AT_ONCE, "window_frames to 21 or less, and sink_frames to 3")),
        (CHUNKS, 24, 24, 0, (AT_ONCE, "and sink_frames to 3")),
        (CHUNKS, 24, 24, 3, (AT_ONCE, "Set window_frames to 21 or less.")),
        (CHUNKS, 24, 6, 0, (WITHOUT_SINKS, "Set sink_frames to 3; they count")),
        (FRAMES, 24, 4, 0, (WITHOUT_SINKS, "Set sink_frames to 1; they count")),
        (CHUNKS, 24, 6, 3, ()),
        (CHUNKS, 21, 0, 0, ()),
        (CHUNKS, 21, 6, 0, ()),
    ],
)
def test_clips_longer_than_the_training_are_told_and_no_note_leads_to_flicker(
    causal, text, record, frames, window, sink, words
):
    _, _, report = run(with_settings(causal, record), text, video(frames), window=window, sink=sink)
    assert len(report["notes"]) == bool(words)
    for part in words:
        assert part in report["notes"][0]
    # A window is never advised without sinks to one who has none.
    advised = [note for note in report["notes"] if "Set window_frames" in note]
    assert all(sink or "sink_frames" in note for note in advised)


# ---------------------------------------------------------------- decoding


@pytest.mark.parametrize(
    ("record", "frames"), [(CHUNKS, 9), (FRAMES, 6), (FRAMES, 1)], ids=["chunks", "frames", "one"]
)
def test_decoding_block_by_block_equals_decoding_the_whole(causal, text, vae, record, frames):
    latent, images, report = run(
        with_settings(causal, record), text, video(frames, batch=2), vae=vae
    )
    with torch.inference_mode():
        whole = vae.decode(latent)
    assert images.shape == (2 * (4 * frames - 3), 8 * SIDE, 8 * SIDE, 3)
    assert torch.allclose(images, whole.flatten(0, 1), atol=1e-4)
    assert report["decoded"] == "block by block" and report["frames"] == 4 * frames - 3


def test_a_start_is_decoded_with_the_clip(causal, text, vae):
    latent, images, _ = run(
        with_settings(causal, FRAMES), text, video(5), vae=vae, start_latent=clip_of(2)
    )
    with torch.inference_mode():
        assert torch.allclose(images, vae.decode(latent).flatten(0, 1), atol=1e-4)


def test_a_vae_that_cannot_decode_in_pieces_decodes_at_the_end_and_says_so(causal, text):
    class Whole:
        latent_dim, latent_channels, first_stage_model = 3, 16, torch.nn.Identity()
        upscale_ratio, output_device = (lambda frames: frames, 1, 1), torch.device("cpu")

        def throw_exception_if_invalid(self):
            pass

        def decode(self, samples):
            return samples.movedim(1, -1)[..., :3]

    _, images, report = run(with_settings(causal, FRAMES), text, video(3), vae=Whole())
    assert images.shape == (3, SIDE, SIDE, 3) and report["decoded"] == "whole, at the end"
    assert "Identity cannot decode a clip in pieces" in report["notes"][0]


def test_where_decoding_does_not_fit_beside_the_model_the_clip_is_decoded_at_the_end(
    causal, text, vae, monkeypatch
):
    def out_of_memory(self, latent):
        raise comfy.model_management.OOM_EXCEPTION("none left")

    monkeypatch.setattr(stream_run.FrameDecoder, "_pictures", out_of_memory)
    latent, images, report = run(with_settings(causal, FRAMES), text, video(3), vae=vae)
    with torch.inference_mode():
        assert torch.allclose(images, vae.decode(latent).flatten(0, 1), atol=1e-4)
    assert (
        report["decoded"] == "whole, at the end" and "did not fit into memory" in report["notes"][0]
    )


TOO_MUCH = "can't allocate memory: you tried to allocate 99999999 bytes"  # of the CPU, torch's own


@pytest.mark.parametrize(
    "error",
    [RuntimeError(f"DefaultCPUAllocator: {TOO_MUCH}"), MemoryError()],
    ids=["RuntimeError", "MemoryError"],
)
def test_pictures_that_find_no_room_are_shown_and_the_latent_is_kept(
    causal, text, vae, monkeypatch, shown, error
):
    model = with_settings(causal, FRAMES)
    whole, _, _ = run(model, text, video(3), vae=vae)
    shown.clear()

    # What a computer without the memory does with the one allocation for all pictures.
    def full(size, *args, empty=torch.empty, **more):
        if size == (1, 9, 8 * SIDE, 8 * SIDE, 3):
            raise error
        return empty(size, *args, **more)

    monkeypatch.setattr(torch, "empty", full)
    latent, images, report = run(model, text, video(3), vae=vae)
    assert torch.equal(latent, whole)
    assert report["decoded"] == "block by block, shown and not kept"
    assert report["notes"][-1].startswith("The pictures of the clip did not fit into memory")
    assert images.message == report["notes"][-1]
    # One picture, four of the second block, the first and the last of the third.
    assert len([preview for _, _, preview in shown if preview is not None]) == 1 + 4 + 2


def test_a_decode_at_the_end_that_finds_no_room_leaves_the_latent(causal, text, vae, monkeypatch):
    def out_of_memory(self, latent):
        raise comfy.model_management.OOM_EXCEPTION("none left")

    def full(self, samples):
        raise RuntimeError(TOO_MUCH)

    monkeypatch.setattr(stream_run.FrameDecoder, "_pictures", out_of_memory)
    monkeypatch.setattr(type(vae), "decode", full)
    latent, images, report = run(with_settings(causal, FRAMES), text, video(3), vae=vae)
    assert latent.shape[2] == 3 and torch.isfinite(latent).all()
    assert report["decoded"] == "not" and "The latent is whole" in images.message


@pytest.mark.parametrize("words", ["mat1 and mat2 shapes cannot be multiplied", "no such layer"])
def test_another_error_of_the_vae_is_not_taken_for_a_lack_of_memory(
    causal, text, vae, monkeypatch, words
):
    def broken(self, latent):
        raise RuntimeError(words)

    monkeypatch.setattr(stream_run.FrameDecoder, "_pictures", broken)
    with pytest.raises(RuntimeError, match=words):
        run(with_settings(causal, FRAMES), text, video(3), vae=vae)


def test_pictures_beyond_the_free_memory_are_refused_before_sampling_where_they_are_asked_for(
    causal, text, vae
):
    free = comfy.model_management.get_free_memory(torch.device("cpu"))
    # A latent frame is four pictures of 64 x 64 pixels of three floats; a tenth more than there is.
    frames = round(1.1 * free / (4 * 64 * 64 * 3 * 4))
    latent = {"samples": torch.zeros(1, 1, 1, SIDE, SIDE).expand(1, 16, frames, SIDE, SIDE)}
    prompt = {"1": {"inputs": {}}, "2": {"inputs": {"images": ["1", 1]}}}
    hidden = SimpleNamespace(unique_id="1", prompt=prompt, extra_pnginfo=None)
    stream = type("Asked", (FewStepStream,), {"hidden": hidden})
    with pytest.raises(PlanError) as error:
        stream.execute(with_settings(causal, FRAMES), text, latent, 1, 0, 21, 1, vae=vae)
    message = str(error.value)
    assert (
        f"The {4 * frames - 3} pictures of this clip take {1.1 * free / 2**30:.3g} GiB" in message
    )
    assert "GiB are free. Make it in parts" in message


def test_pictures_beyond_the_free_memory_are_shown_and_not_kept_where_nobody_asks(
    causal, text, vae, monkeypatch
):
    needed = 9 * 64 * 64 * 3 * 4  # 3 latent frames: 9 pictures
    frames_of = stream_decode.room_for_pictures(vae, torch.Size([1, 16, 3, SIDE, SIDE]))
    assert frames_of.needed == needed and frames_of.is_enough
    monkeypatch.setattr(stream_run, "room_for_pictures", lambda *_: Room(needed, needed))
    latent, images, report = run(with_settings(causal, FRAMES), text, video(3), vae=vae)
    assert latent.shape[2] == 3 and report["decoded"] == "block by block, shown and not kept"
    assert "take 0.000412 GiB of memory, all at once, and 0.000412 GiB are free" in images.message


def test_without_a_vae_images_say_why_they_are_missing(causal, text):
    _, images, report = run(with_settings(causal, FRAMES), text, video(3))
    assert "has no VAE" in images.message and report["decoded"] == "no VAE connected"


# ---------------------------------------------------------------- what is shown


@pytest.fixture
def shown(monkeypatch):
    """Every (value, total, preview) that goes to the host's progress hook."""
    seen = []
    monkeypatch.setattr(
        comfy.utils,
        "PROGRESS_BAR_HOOK",
        lambda value, total, preview, node_id=None: seen.append((value, total, preview)),
    )
    return seen


@pytest.mark.parametrize(
    ("record", "frames", "expected"),
    [
        # Four evaluations, and the first of nine pictures at once; in the context pass and the four
        # steps of the next block what is due of the others, 9/5 of a picture each. The last block
        # has none behind it: its first picture and its last.
        (
            CHUNKS,
            6,
            [(4, 0), (5, 1), (6, 3), (7, 5), (8, 7), (9, 8), (9, 9), (9, 20)],
        ),
        # A picture, then four to a block in five evaluations.
        (
            FRAMES,
            4,
            [
                *[(4, 0), (9, 1), (11, 2), (12, 3), (13, 4)],
                *[(14, 5), (16, 6), (17, 7), (18, 8), (19, 9), (19, 12)],
            ],
        ),
        (FRAMES, 1, [(4, 0)]),
    ],
    ids=["chunks", "frames", "one"],
)
def test_pictures_are_shown_while_the_next_block_is_made_and_not_at_once(
    causal, text, vae, shown, record, frames, expected
):
    """expected: (evaluations done, picture)."""
    _, images, _ = run(with_settings(causal, record), text, video(frames), vae=vae)
    previews = [(value, preview) for value, _, preview in shown if preview is not None]
    assert len({total for _, total, _ in shown}) == 1
    kind, picture, _ = previews[-1][1]
    assert kind == "JPEG" and picture.size == (8 * SIDE, 8 * SIDE)
    pictures = (images * 255).to(torch.uint8)
    seen = [torch.from_numpy(numpy.array(image)) for _, (_, image, _) in previews]
    assert [value for value, _ in previews] == [value for value, _ in expected]
    for image, (_, number) in zip(seen, expected):
        assert torch.equal(image, pictures[number])


def test_a_start_is_shown_while_it_is_decoded(causal, text, vae, shown):
    _, images, _ = run(
        with_settings(causal, FRAMES), text, video(4), vae=vae, start_latent=clip_of(3)
    )
    previews = [preview for _, _, preview in shown if preview is not None]
    seen = [torch.from_numpy(numpy.array(image)) for _, image, _ in previews]
    pictures = (images * 255).to(torch.uint8)
    # The last of each latent frame given, the first and the last of the block made.
    assert len(seen) == 5
    for image, number in zip(seen, (0, 4, 8, 9, 12)):
        assert torch.equal(image, pictures[number])


def test_without_a_vae_progress_is_the_samplers(causal, text, shown):
    run(with_settings(causal, FRAMES), text, video(3))
    assert shown[-1][:2] == (14, 14)


# ---------------------------------------------------------------- interruption


def interrupt_at(monkeypatch, evaluation):
    """Have the user press Cancel during this evaluation, counted from 1."""
    seen = []
    after = stream_run.Screen.after_evaluation

    def press(self, *args):
        seen.append(0)
        if len(seen) == evaluation:
            core.interrupt_processing(True)
        after(self, *args)

    monkeypatch.setattr(stream_run.Screen, "after_evaluation", press)


def test_an_interruption_keeps_the_finished_blocks(causal, text, vae, monkeypatch):
    model = with_settings(causal, CHUNKS)
    whole, pictures, _ = run(model, text, video(12), vae=vae)
    # Each block takes five evaluations: the twelfth is in the third.
    with monkeypatch.context() as patch:
        interrupt_at(patch, 12)
        latent, images, report = run(model, text, video(12), vae=vae)
    assert latent.shape[2] == 6 and torch.equal(latent, whole[:, :, :6])
    assert images.shape[0] == 21 and torch.equal(images, pictures[:21])
    assert (
        report["interrupted"]
        and "2 of 4 blocks" in report["notes"][0]
        and "after 2 of 4 blocks" in report["summary"]
    )
    assert torch.equal(run(model, text, video(12), vae=vae)[0], whole)


def test_an_interruption_while_a_block_is_decoded_is_obeyed_before_its_next_frame(
    causal, text, vae, monkeypatch
):
    decode, seen = stream_run.FrameDecoder._pictures, []

    def press(self, latent):
        seen.append(0)
        if len(seen) == 4:  # the first frame of the second block of three
            core.interrupt_processing(True)
        return decode(self, latent)

    model = with_settings(causal, CHUNKS)
    whole, pictures, _ = run(model, text, video(9), vae=vae)
    monkeypatch.setattr(stream_run.FrameDecoder, "_pictures", press)
    latent, images, report = run(model, text, video(9), vae=vae)
    assert len(seen) == 4 and report["interrupted"] and report["blocks"] == 1
    assert torch.equal(latent, whole[:, :, :3]) and torch.equal(images, pictures[:9])


def test_an_interruption_before_the_first_block_ends_the_run(causal, text, monkeypatch):
    model = with_settings(causal, CHUNKS)
    with monkeypatch.context() as patch:
        interrupt_at(patch, 2)
        with pytest.raises(comfy.model_management.InterruptProcessingException):
            run(model, text, video(6), start_latent=clip_of(3))
    assert run(model, text, video(6))[0].shape[2] == 6


# ---------------------------------------------------------------- other nodes on the model


def test_the_pace_is_that_of_the_frames_that_were_made() -> None:
    # 21 latent frames given and one block of 3 made in 12 s: 12 pictures of 93.
    given = make_stream_plan(CATALOG["self-forcing-dmd"], 24, lambda t: t / 1000, given=21)
    latent = torch.zeros(1, 16, 24, 8, 8)
    run = stream_run.StreamRun(latent, seconds=12.0, first_seconds=12.0, first_frames=93, blocks=1)
    report = stream.report_on_stream(given, run)
    assert report.data["frames_per_second"] == pytest.approx(1.0)
    assert "1 frames per second" in dict(report.rows)["seconds per frame"]
    assert report.summary.endswith("then 1 a second")
    (published,) = report.publish(None)["fewstep_report"]
    assert published["seconds_per_frame"] == pytest.approx(1.0)
    # Nothing given: its 93 pictures in 12 s.
    alone = make_stream_plan(CATALOG["self-forcing-dmd"], 24, lambda t: t / 1000)
    report = stream.report_on_stream(alone, run)
    assert report.data["frames_per_second"] == pytest.approx(93 / 12)
    # Behind the first block its pace is that of the others: 24 latent frames given, two blocks
    # made.
    later = stream_run.StreamRun(
        torch.zeros(1, 16, 30, 8, 8), seconds=16.0, first_seconds=12.0, first_frames=105, blocks=2
    )
    assert stream.report_on_stream(
        make_stream_plan(CATALOG["self-forcing-dmd"], 30, lambda t: t / 1000, given=24), later
    ).data["frames_per_second"] == pytest.approx(3.0)


def test_step_skip_passes_through(causal, text):
    model = with_settings(causal, FRAMES)
    skipping = with_skip(model, SkipConfig("forecast", Settings(2.0, 0.2, 3), 0.0, 1.0, "auto"))
    latent, _, report = run(skipping, text, video(3))
    assert torch.equal(latent, run(model, text, video(3))[0])
    assert "key-value caches" in report["entries"][0]["passed_through"]


def test_nag_is_told_that_it_does_nothing_in_a_stream(causal, text):
    nag = pytest.importorskip("comfy_extras.nodes_nag").NAGuidance
    model = with_settings(causal, CHUNKS)
    plain, _, report = run(model, text, video(6))
    assert not any("negative" in note for note in report["notes"])
    patched = nag.execute(model, 5.0, 0.5, 1.5).args[0]
    latent, _, report = run(patched, text, video(6))
    assert torch.equal(latent, plain), "so it is said"
    assert any("asks for a negative prompt (as NAG does)" in note for note in report["notes"])


def test_core_easycache_and_context_windows_are_refused(causal, text):
    from comfy_extras.nodes_context_windows import WanContextWindowsManualNode
    from comfy_extras.nodes_easycache import EasyCacheNode

    model = with_settings(causal, FRAMES)
    cached = EasyCacheNode.execute(model, 0.2, 0.15, 0.95, False).args[0]
    with pytest.raises(PlanError, match="skips evaluations with .*EasyCache"):
        run(cached, text, video(3))
    windows = model.clone()
    windows.model_options["context_handler"] = WanContextWindowsManualNode
    with pytest.raises(PlanError, match="context windows"):
        run(windows, text, video(3))


# ---------------------------------------------------------------- what is refused


def changed(text, **more):
    return [[text[0][0], {**text[0][1], **more}]]


@pytest.mark.parametrize(
    ("inputs", "message"),
    [
        ({"latent": {"samples": torch.zeros(3, 16, SIDE, SIDE)}}, "a tensor of 4 dimensions"),
        ({"latent": video(4)}, "not a whole number of blocks of 3"),
        ({"latent": video(6, noise_mask=torch.ones(1, 1, SIDE, SIDE))}, "noise mask"),
        (
            {"latent": {"samples": torch.zeros(1, 16, 6, 7, 8)}},
            "is 64 x 56 pixels, .* patches of 16 x 16. Set the height to 48 or 64",
        ),
        (
            {"latent": {"samples": torch.zeros(1, 16, 6, 8, 9)}},
            "is 72 x 64 pixels, .* Set the width to 64 or 80",
        ),
        (
            {"latent": clip_of(6)},
            (
                "latent_image is not empty, .* Frames to keep go into the Streaming Sampler's"
                " start_latent"
            ),
        ),
        ({"window": 2}, "window_frames is 2; it must hold the block"),
        ({"sink": 1}, "sink_frames is 1 and window_frames is 0"),
        ({"block": 1}, "distilled to make 3 latent frames at a time, not 1"),
        ({"start_latent": clip_of(6)}, "nothing is left to make"),
        (
            {"start_latent": {"samples": torch.zeros(1, 16, 3, 4, 4)}},
            r"start_latent is \[1, 16, 3, 4, 4\] and the clip \[1, 16, 6, 8, 8\]",
        ),
        ({"start_latent": clip_of(3, batch=2)}, "or its batch be 1"),
        (
            {"start_latent": {"samples": torch.zeros(1, 16, SIDE, SIDE)}},
            "all but the frames must agree",
        ),
    ],
)
def test_bad_input_is_refused_in_words(causal, text, inputs, message):
    inputs = {"latent": video(6), **inputs}
    with pytest.raises(PlanError, match=message):
        run(with_settings(causal, CHUNKS), text, inputs.pop("latent"), **inputs)


@pytest.mark.parametrize(
    ("more", "message"),
    [
        ({"area": (4, 4, 0, 0)}, "an area"),
        ({"mask": torch.ones(1, 8, 8)}, "a mask"),
        ({"start_percent": 0.1}, "a start and end"),
        ({"concat_latent_image": torch.zeros(1)}, "connect it to start_latent"),
    ],
)
def test_a_prompt_that_changes_from_place_to_place_is_refused(causal, text, more, message):
    with pytest.raises(PlanError, match=message):
        run(with_settings(causal, CHUNKS), changed(text, **more), video(6))


def test_combined_prompts_are_refused(causal, text):
    with pytest.raises(PlanError, match="holds 2 prompts"):
        run(with_settings(causal, CHUNKS), text + text, video(6))


def test_a_vae_for_pictures_is_refused(causal, text):
    vae = SimpleNamespace(latent_dim=2, latent_channels=4, throw_exception_if_invalid=lambda: None)
    with pytest.raises(PlanError, match="one for pictures with 4 latent channels"):
        run(with_settings(causal, CHUNKS), text, video(6), vae=vae)


def test_an_ordinary_wan_is_refused_and_the_message_says_how_to_load_a_causal_one(models, text):
    ordinary = small_models.load_model(
        small_models.write_wan(models / "diffusion_models" / "ordinary.safetensors")
    )
    with pytest.raises(
        PlanError, match="loaded as Wan 2.1/2.2 text-to-video.*Few-Step Sampler.*mark_causal.py"
    ):
        run(with_settings(ordinary, CATALOG["wan21-t2v-lightx2v-4step"]), text, video(6))


def test_a_causal_model_without_an_accelerator_is_refused(causal, text):
    with pytest.raises(PlanError, match="No accelerator is attached to model"):
        run(causal, text, video(6))


def test_a_host_without_causal_wan_is_named(causal, text, monkeypatch):
    monkeypatch.delattr(comfy.supported_models, "WAN21_CausalAR_T2V")
    with pytest.raises(PlanError, match=f"This ComfyUI \\({version()}\\) has no causal Wan models"):
        run(with_settings(causal, CHUNKS), text, video(6))


def test_the_few_step_sampler_points_here(causal, text):
    with pytest.raises(PlanError, match="Use the Streaming Sampler"):
        FewStepSampler.execute(with_settings(causal, CHUNKS), text, video(6), 3, 0, 1.0)


# ---------------------------------------------------------------- LoRAs for ordinary Wan


@pytest.mark.parametrize(
    ("name", "id"),
    [
        ("Wan21_CausVid_14B_T2V_lora_rank32.safetensors", "causvid-14b-8step-lora"),
        ("Wan21_CausVid_bidirect2_T2V_1_3B_lora_rank32.safetensors", "causvid-1-3b-8step-lora"),
    ],
)
def test_a_causvid_lora_runs_on_ordinary_wan_under_the_few_step_sampler(models, text, name, id):
    ordinary = small_models.load_model(
        small_models.write_wan(models / "diffusion_models" / "ordinary.safetensors")
    )
    write_lora(models / "loras" / name, ordinary, "native", rank=4)
    fast, _ = accelerator.attach_accelerator(ordinary, name, accelerator.AUTO, 1.0)
    output = FewStepSampler.execute(fast, text, video(3), 1, 0, 1.0)
    report = output.ui["fewstep_report"][0]
    assert (report["accelerators"], report["sampler"], report["evaluations"]) == ([id], "uni_pc", 8)
    assert torch.isfinite(output.args[0]["samples"]).all()


# ---------------------------------------------------------------- files


def test_a_causal_file_without_the_mark_is_named_and_runs_once_marked(models, text):
    import mark_causal

    plain = small_models.write_wan(models / "diffusion_models" / "self_forcing_dmd.safetensors")
    for choice in ("auto", "self-forcing-dmd"):
        with pytest.raises(
            ValueError,
            match=(
                "loaded as Wan 2.1/2.2 text-to-video, and self-forcing-dmd is a causal"
                " model.*mark_causal.py"
            ),
        ):
            accelerator.attach_distilled(small_models.load_model(plain), choice)
    marked = models / "diffusion_models" / "self_forcing_dmd_marked.safetensors"
    mark_causal.mark(plain, marked)
    attached, report = accelerator.attach_distilled(small_models.load_model(marked), "auto")
    assert report.data["accelerator"] == "self-forcing-dmd"
    assert run(attached, text, video(3))[0].shape[2] == 3
