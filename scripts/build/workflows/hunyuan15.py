"""HunyuanVideo 1.5."""

from __future__ import annotations

from workflow_graph import Graph

from .files import QWEN_VL, accelerator_file, split_file
from .parts import WAN_PROMPT, accelerate, finish_video, prompt_box, sample
from .workflow import workflow

HUNYUAN15 = "Comfy-Org/HunyuanVideo_1.5_repackaged"
BYT5 = split_file("text_encoders", HUNYUAN15, "byt5_small_glyphxl_fp16")
VAE = split_file("vae", HUNYUAN15, "hunyuanvideo15_vae_fp16")


@workflow(
    "HunyuanVideo 1.5 T2V LightX2V 4 steps",
    "hunyuan15_t2v_lightx2v",
    """
    ## HunyuanVideo 1.5 text to video in 4 steps

    The model is distilled itself, so `lora_name` is **none** and `accelerator` says which model
    it is. Tencent's *cfg_distilled* files are not few-step models: they take no CFG but still
    many steps, and are refused.

    Made for 480p. **Length** counts video frames: 4 n + 1.

    **CFG is locked to 1.**
    """,
)
def text_to_video(graph: Graph) -> None:
    id = "hunyuan15-480p-t2v-lightx2v-4step"
    with graph.group("Models"):
        model = graph.node("UNETLoader", unet_name=accelerator_file(id))
        clip = graph.node(
            "DualCLIPLoader", clip_name1=QWEN_VL, clip_name2=BYT5, type="hunyuan_video_15"
        )
        vae = graph.node("VAELoader", vae_name=VAE)
    with graph.group("Accelerator"):
        fast = accelerate(graph, model, None, id)
    with graph.group("Prompt and size", below=True):
        positive = prompt_box(graph, clip["CLIP"], WAN_PROMPT)
        latent = graph.node(
            "EmptyHunyuanVideo15Latent", "Video size", width=848, height=480, length=81
        )
    sampled = sample(graph, fast, positive, latent["LATENT"])
    finish_video(graph, sampled, vae["VAE"], fps=24)


WORKFLOWS = (text_to_video,)
