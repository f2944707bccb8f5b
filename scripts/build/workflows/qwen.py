"""Qwen-Image and Qwen-Image-Edit."""

from __future__ import annotations

from workflow_graph import Graph

from .files import QWEN, QWEN_VL, accelerator_file, split_file
from .parts import accelerate, finish_image, sample, split_image
from .workflow import workflow

QWEN_EDIT = split_file(
    "diffusion_models", "Comfy-Org/Qwen-Image-Edit_ComfyUI", "qwen_image_edit_2511_fp8mixed"
)
QWEN_IMAGE = split_file("diffusion_models", QWEN, "qwen_image_fp8_e4m3fn")
QWEN_VAE = split_file("vae", QWEN, "qwen_image_vae")
TEXT = {"clip_name": QWEN_VL, "type": "qwen_image"}


@workflow(
    "Qwen-Image Lightning 4 steps",
    "qwen_image_lightning",
    """
    ## Qwen-Image in 4 steps with Lightning

    The accelerator sets the shift it was trained at (3), not the model's own.

    Each Lightning LoRA belongs to one release and one precision: this one to Qwen-Image in fp8.
    For the 16-bit file take `Qwen-Image-Lightning-4steps-V1.0`; mixed up, they leave a grid in
    the picture.

    **CFG is locked to 1**: a negative prompt has no effect.
    """,
)
def text_to_image(graph: Graph) -> None:
    lora = accelerator_file("qwen-image-lightning-fp8base-4step-lora")
    split_image(graph, (QWEN_IMAGE, QWEN_VAE), TEXT, lora, size=(1328, 1328))


@workflow(
    "Qwen-Image-Edit Lightning 4 steps",
    "qwen_image_edit_lightning",
    """
    ## Edit a picture in 4 steps with Qwen-Image-Edit

    Choose a picture and say what to change.

    Each Lightning LoRA belongs to one release of Qwen-Image-Edit: this one to 2511.

    **CFG is locked to 1**: no second text encoding is needed.
    """,
)
def edit(graph: Graph) -> None:
    lora = accelerator_file(
        "qwen-image-edit-2511-lightning-4step-lora",
        "Qwen-Image-Edit-2511-Lightning-4steps-V1.0-bf16.safetensors",
    )
    with graph.group("Models"):
        model = graph.node("UNETLoader", unet_name=QWEN_EDIT)
        fast = accelerate(graph, model, lora)
        clip = graph.node("CLIPLoader", **TEXT)
        vae = graph.node("VAELoader", vae_name=QWEN_VAE)
    with graph.group("Picture to edit"):
        picture = graph.node("LoadImage", image="example.png")
        scaled = graph.node(
            "FluxKontextImageScale", "Scale to about one megapixel", image=picture["IMAGE"]
        )
        source = graph.node("VAEEncode", pixels=scaled["IMAGE"], vae=vae["VAE"])
    with graph.group("What to change"):
        prompt = graph.node(
            "TextEncodeQwenImageEditPlus",
            "Edit prompt",
            clip=clip["CLIP"],
            vae=vae["VAE"],
            image1=scaled["IMAGE"],
            prompt="Turn the drawing into a photograph, keep the pose and the colours",
        )
        positive = graph.node(
            "FluxKontextMultiReferenceLatentMethod",
            conditioning=prompt["CONDITIONING"],
            reference_latents_method="index_timestep_zero",
        )
    sampled = sample(graph, fast, positive["CONDITIONING"], source["LATENT"])
    finish_image(graph, sampled, vae["VAE"])


WORKFLOWS = (text_to_image, edit)
