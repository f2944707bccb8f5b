"""Model files that workflows name, as published, with their addresses and folders.

Files of accelerators come from the catalogue.
"""

from __future__ import annotations

from pack import CATALOG
from workflow_graph import Model

HUGGING_FACE = "https://huggingface.co"
WAN21 = "Comfy-Org/Wan_2.1_ComfyUI_repackaged"
FLUX_TEXT = "comfyanonymous/flux_text_encoders"
Z_IMAGE = "Comfy-Org/z_image_turbo"
QWEN = "Comfy-Org/Qwen-Image_ComfyUI"


def file(directory: str, repo: str, path: str) -> Model:
    """A file of a Hugging Face repository."""
    return Model(path.rsplit("/", 1)[-1], f"{HUGGING_FACE}/{repo}/resolve/main/{path}", directory)


def split_file(directory: str, repo: str, name: str) -> Model:
    """A file of a repository that Comfy-Org made from the publisher's, one part of a model each."""
    return file(directory, repo, f"split_files/{directory}/{name}.safetensors")


def accelerator_file(id: str, name: str | None = None, save_as: str | None = None) -> Model:
    """A catalogued accelerator's file: the first, or the one of this name.

    save_as: for a file whose published name says too little.
    """
    files = CATALOG[id].files
    published = files[0] if name is None else next(entry for entry in files if entry.name == name)
    return Model(save_as or published.name, published.url, published.folder)


DREAMSHAPER = file("checkpoints", "Lykon/DreamShaper", "DreamShaper_8_pruned.safetensors")
SDXL_BASE = file(
    "checkpoints", "stabilityai/stable-diffusion-xl-base-1.0", "sd_xl_base_1.0.safetensors"
)
WAN21_T2V = split_file("diffusion_models", WAN21, "wan2.1_t2v_14B_fp8_scaled")
UMT5 = split_file("text_encoders", WAN21, "umt5_xxl_fp8_e4m3fn_scaled")
WAN_VAE = split_file("vae", WAN21, "wan_2.1_vae")
CLIP_L = file("text_encoders", FLUX_TEXT, "clip_l.safetensors")
T5_XXL = file("text_encoders", FLUX_TEXT, "t5xxl_fp8_e4m3fn_scaled.safetensors")
FLUX_VAE = split_file("vae", Z_IMAGE, "ae")
QWEN3 = split_file("text_encoders", Z_IMAGE, "qwen_3_4b")
QWEN_VL = split_file("text_encoders", QWEN, "qwen_2.5_vl_7b_fp8_scaled")
