"""What the name of a file says."""

from __future__ import annotations

import pytest
from comfyui_fewstep.loras.accelerator import Expert
from comfyui_fewstep.loras.names import (
    experts_named,
    is_generic,
    short_name,
    stem_of,
    step_counts_in,
    words_of,
)
from processor_time import processor_seconds_below

HIGH, LOW = {Expert.HIGH_NOISE}, {Expert.LOW_NOISE}


@pytest.mark.parametrize(
    ("path", "experts"),
    [
        ("wan2.2_i2v_high_noise_14B_fp8_scaled.safetensors", HIGH),
        ("Wan2.2-I2V-A14B-HighNoise-Q4_K_M.gguf", HIGH),
        ("wan22_i2v_lownoise_14B.safetensors", LOW),
        ("smoothMixWan22I2V_v20High.safetensors", set()),  # glued, and not with noise
        ("wan22EnhancedLowNoise_v2.safetensors", LOW),
        ("Wan22-I2V-A14B-HIGH-rCM.safetensors", HIGH),
        ("wan22 i2v low noise.safetensors", LOW),
        ("Wan22_A14B_T2V_LOW_Lightning_4steps.safetensors", LOW),
        # What is said with "noise" is said of the experts, whatever else is high or low.
        ("wan22_high_noise_low_vram.safetensors", HIGH),
        ("wan22_lownoise_high_quality.safetensors", LOW),
        ("low_vram/wan22_i2v_highnoise_14B.safetensors", HIGH),
        ("low_vram/wan22_i2v_14B.safetensors", set()),
        ("high quality\\wan22_low_14B.safetensors", LOW),
        # A name that says nothing at all leaves it to its folder.
        ("low_vram/high_noise_model.safetensors", HIGH),
        ("Wan2.2 high noise/diffusion_pytorch_model.safetensors", HIGH),
        ("wan22/low/model.safetensors", LOW),
        ("wan2.1_t2v_14B.safetensors", set()),
        ("highlander.safetensors", set()),
        ("", set()),
    ],
)
def test_experts_are_named_by_the_file(path, experts):
    assert experts_named(path) == experts


@pytest.mark.parametrize(
    ("path", "experts"),
    [
        ("lora_low-rank.safetensors", set()),
        ("high_quality.safetensors", set()),
        ("style_high_noise.safetensors", HIGH),
        ("LOWNOISE_style.safetensors", LOW),
    ],
)
def test_the_bare_words_can_be_left_out(path, experts):
    assert experts_named(path, by_noise_alone=True) == experts


def test_words_and_counts_of_a_path():
    words = words_of("SDXL\\Lightning/sdxl_8 steps-HighNoise_v1.safetensors")
    assert words >= {"sdxl", "lightning", "8step", "highnoise", "high", "v1"}
    assert step_counts_in(words) == {8}


def test_words_of_other_scripts_are_words():
    assert words_of("加速lightning_快速.safetensors") >= {"加速", "lightning", "快速"}
    assert not is_generic("国风") and not is_generic("стиль_lora")


def test_a_word_that_a_name_denies_is_not_said():
    words = words_of("wan2.2_i2v_high_noise_14B_no_lightx2v_4step.safetensors")
    assert not words & {"lightx2v", "4step"} and words >= {"i2v", "high", "14b"}
    assert "lightning" not in words_of("qwen_image_edit_2511_bf16_no_lightning.safetensors")
    assert "lightning" in words_of("casino_lightning.safetensors")


def test_a_long_number_is_no_step_count_and_costs_nothing():
    name = "9" * 300_000
    with processor_seconds_below(2.0):
        assert step_counts_in(words_of(name)) == set()
    assert step_counts_in(words_of("9" * 5000 + "step")) == set()


def test_names_are_read_as_either_system_writes_them():
    assert short_name("a\\b/C.Safetensors") == "c.safetensors"
    assert stem_of("x/My.v1.GGUF") == "my.v1" and stem_of("x/My.v1") == "my.v1"


@pytest.mark.parametrize(
    ("stem", "generic"),
    [
        ("pytorch_lora_weights", True),
        ("high_noise_model", True),
        ("lownoise_model", True),
        ("diffusion_pytorch_model", True),
        ("lcm_lora", False),
        ("", True),
    ],
)
def test_generic_names_say_nothing(stem, generic):
    assert is_generic(stem) is generic
