"""What looks like an accelerator and is not one here, and why.

Look-alikes are refused; releases are left out.
"""

from __future__ import annotations

from dataclasses import dataclass

from ..bases import Base


@dataclass(frozen=True)
class LookAlike:
    """A model that still needs its many steps. name_words and name_excludes: as in Accelerator."""

    id: str
    bases: tuple[Base, ...]
    name_words: tuple[str, ...]
    name_excludes: tuple[str, ...]
    reason: str


LOOK_ALIKES = (
    LookAlike(
        "hunyuan15-cfg-distilled",
        (Base.HUNYUAN15,),
        ("distilled",),
        ("step", "sr", "lightx2v"),
        "its guidance is distilled and its steps are not: it takes 50 steps at CFG 1. The"
        " step_distilled file is the few-step one",
    ),
    LookAlike(
        "flux2-klein-base",
        (Base.FLUX2,),
        ("klein", "base"),
        (),
        "the klein base files are not distilled: 20 to 50 steps at CFG 4 to 5. The file without"
        " base in its name is",
    ),
    LookAlike(
        "flux3-klein-base",
        (Base.FLUX3,),
        ("klein", "base"),
        (),
        "the klein base file is not distilled: 50 steps at CFG 3.5 to 4. The file without base in"
        " its name is",
    ),
    LookAlike(
        "qwen-image-21-base",
        (Base.QWEN_IMAGE21,),
        ("qwen",),
        ("turbo", "viggle", "lightning", "distill", "distilled"),
        "Qwen-Image 2.1 is not distilled: 40 steps with guidance. Qwen-Image-2.1-Turbo is, or put a"
        " Turbo LoRA on it",
    ),
    LookAlike(
        "z-image-base",
        (Base.Z_IMAGE,),
        ("z|zimage", "image|zimage"),
        ("turbo", "deturbo", "distill", "distilled"),
        "Z-Image is not distilled; Z-Image-Turbo is, or put a distillation LoRA on it",
    ),
    LookAlike(
        "z-image-de-turbo",
        (Base.Z_IMAGE,),
        ("turbo|deturbo", "de|deturbo"),
        (),
        "its distillation was undone, for training: it takes 20 steps and more with guidance."
        " Z-Image-Turbo is the few-step one",
    ),
    LookAlike(
        "krea2-raw",
        (Base.KREA2,),
        ("raw",),
        (),
        "Krea-2 Raw is not distilled; Krea-2 Turbo is, or put the Turbo LoRA on it",
    ),
)


# github thu-ml/Causal-Forcing, long_video/: README and pipeline/rolling_forcing_inference.py.
ROLLING = (
    "Causal Forcing's long video model: trained for Rolling Forcing, which denoises several blocks"
    " together, each at a noise level of its own, and not one block after the other"
)

NO_PICTURE = (
    "a few-step model for core's KSampler, with the settings of its template; this pack makes"
    " pictures and videos"
)
SHAPES = f"{NO_PICTURE}: shapes in three dimensions"
ESTIMATES = (
    "it estimates depth, normals or colours of a picture in one step and makes none: run it in"
    " core's sampler, with the settings of its template"
)
SEEDVR2 = (
    "an upscaler with nodes of its own: one step of euler at CFG 1 in core's KSampler, by the"
    " official templates"
)

# Releases that cannot be run here as they were distilled, by file name, and why.
LEFT_OUT = {
    "longvideo.pt": ROLLING,
    "longvideo.safetensors": ROLLING,
    "pdm_stochastic_shift3.safetensors": "PCM for SD3, stochastic: its step count is not published",
    "MiniMax-H3-FL2VA-Acc-8Step.safetensors": (
        "parallel decoding distillation: needs its own loader, it is no plain LoRA"
    ),
    "AnimateLCM_sd15_t2v_lora.safetensors": (
        "AnimateLCM's image LoRA, no accelerator by itself: load it with core's Load LoRA, then"
        " AnimateLCM with the Motion Module Loader"
    ),
    "stable_audio_3_medium.safetensors": (
        f"{NO_PICTURE}: sound, 8 steps of lcm on the simple schedule at CFG 1, by the official"
        " template"
    ),
    "seedvr2_3b_int8_convrot.safetensors": SEEDVR2,
    "seedvr2_7b_int8_convrot.safetensors": SEEDVR2,
    "hunyuan3d-dit-v2-mv-turbo_fp16.safetensors": SHAPES,
    "pixal3d_int8_convrot.safetensors": SHAPES,
    "pixal3d_multiview_int8_convrot.safetensors": SHAPES,
    "trellis_2_int8_convrot.safetensors": SHAPES,
    "lotus-depth-d-v1-1.safetensors": ESTIMATES,
    "marigold_v2_albedo.safetensors": ESTIMATES,
    "marigold_v2_depth_log_stage2.safetensors": ESTIMATES,
    "marigold_v2_normals.safetensors": ESTIMATES,
    "fibo_2.0_turbo_lora_avg_rank_270_bf16.safetensors": (
        "for FIBO 2 dev, which needs ComfyUI 0.43 or newer and whose layers are not known here:"
        " load it with core's Load LoRA and run 4 steps of euler on the simple schedule at CFG 1 in"
        " core's KSampler, or take the model fibo2_edit_turbo"
    ),
    "LongCat_distill_lora_alpha64_bf16.safetensors": (
        "for LongCat-Video, which runs in WanVideoWrapper alone: ComfyUI has no class for it"
    ),
    # No file name is known of these, so their lines are for the reader alone.
    "(TwinFlow Z-Image-Turbo)": "it is sampled by a solver of its own, which ComfyUI lacks",
    "(LightLingBot-Video)": "ComfyUI has no class for its model",
    "(FastVideo A14B Self-Forcing)": (
        "repository, files and whether its list is shifted are not published"
    ),
}
