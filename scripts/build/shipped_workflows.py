"""Every workflow that ships, as a short description. build_workflows.py makes the files.

Model files are named as their publishers name them, with the address and the folder they belong in;
accelerator files come from the catalogue itself.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from blueprint import Blueprint, Exposed
from node_schema import Schema
from pack import CATALOG
from workflow_graph import Converted, Graph, Model, Output, Placed

HUGGING_FACE = "https://huggingface.co"
WAN21 = "Comfy-Org/Wan_2.1_ComfyUI_repackaged"
WAN22 = "Comfy-Org/Wan_2.2_ComfyUI_Repackaged"


def file(directory: str, repo: str, path: str, name: str | None = None) -> Model:
    """A file of a Hugging Face repository. name: what to save it as, where the publisher's name
    says too little.
    """
    return Model(
        name or path.rsplit("/", 1)[-1], f"{HUGGING_FACE}/{repo}/resolve/main/{path}", directory
    )


def accelerator_file(id: str, name: str | None = None, save_as: str | None = None) -> Model:
    """A catalogued accelerator's file: the first, or the one of this name."""
    files = CATALOG[id].files
    published = files[0] if name is None else next(entry for entry in files if entry.name == name)
    return Model(save_as or published.name, published.url, published.folder)


DREAMSHAPER = file("checkpoints", "Lykon/DreamShaper", "DreamShaper_8_pruned.safetensors")
SDXL_BASE = file(
    "checkpoints", "stabilityai/stable-diffusion-xl-base-1.0", "sd_xl_base_1.0.safetensors"
)
UMT5 = file(
    "text_encoders", WAN21, "split_files/text_encoders/umt5_xxl_fp8_e4m3fn_scaled.safetensors"
)
WAN_VAE = file("vae", WAN21, "split_files/vae/wan_2.1_vae.safetensors")
WAN21_T2V = file(
    "diffusion_models", WAN21, "split_files/diffusion_models/wan2.1_t2v_14B_fp8_scaled.safetensors"
)
WAN21_I2V = file(
    "diffusion_models", WAN21, "split_files/diffusion_models/wan2.1_i2v_480p_14B_fp16.safetensors"
)
SELF_FORCING = Converted(
    "self_forcing_dmd.safetensors", CATALOG["self-forcing-dmd"].files[0].url, "diffusion_models"
)
CAUSAL_FORCING = accelerator_file(
    "causal-forcing-framewise", "causal_forcing-framewise.safetensors"
)
CLIP_VISION = file("clip_vision", WAN21, "split_files/clip_vision/clip_vision_h.safetensors")
CLIP_L = file("text_encoders", "comfyanonymous/flux_text_encoders", "clip_l.safetensors")
T5_XXL = file(
    "text_encoders", "comfyanonymous/flux_text_encoders", "t5xxl_fp8_e4m3fn_scaled.safetensors"
)
FLUX_VAE = file("vae", "Comfy-Org/z_image_turbo", "split_files/vae/ae.safetensors")
FLUX_DEV = file("diffusion_models", "Comfy-Org/flux1-dev", "flux1-dev.safetensors")
FLUX2_VAE = file("vae", "Comfy-Org/flux2-dev", "split_files/vae/flux2-vae.safetensors")
QWEN3 = file(
    "text_encoders", "Comfy-Org/z_image_turbo", "split_files/text_encoders/qwen_3_4b.safetensors"
)
QWEN_VL = file(
    "text_encoders",
    "Comfy-Org/Qwen-Image_ComfyUI",
    "split_files/text_encoders/qwen_2.5_vl_7b_fp8_scaled.safetensors",
)
QWEN_VAE = file("vae", "Comfy-Org/Qwen-Image_ComfyUI", "split_files/vae/qwen_image_vae.safetensors")
QWEN_IMAGE = file(
    "diffusion_models",
    "Comfy-Org/Qwen-Image_ComfyUI",
    "split_files/diffusion_models/qwen_image_fp8_e4m3fn.safetensors",
)
QWEN_EDIT = file(
    "diffusion_models",
    "Comfy-Org/Qwen-Image-Edit_ComfyUI",
    "split_files/diffusion_models/qwen_image_edit_2511_fp8mixed.safetensors",
)
GEMMA = file(
    "text_encoders",
    "Comfy-Org/ltx-2",
    "split_files/text_encoders/gemma_3_12B_it_fp4_mixed.safetensors",
)
HUNYUAN15 = "Comfy-Org/HunyuanVideo_1.5_repackaged"
BYT5 = file(
    "text_encoders", HUNYUAN15, "split_files/text_encoders/byt5_small_glyphxl_fp16.safetensors"
)
HUNYUAN15_VAE = file("vae", HUNYUAN15, "split_files/vae/hunyuanvideo15_vae_fp16.safetensors")

# Comes with the pack, so there is nothing to download.
DEMO_LORA = "fewstep_demo_lightx2v_4step.safetensors"
# Titles of the four ways that demo_compare shows; scripts/demo.py finds their nodes by these.
FULL, QUICK, PLAIN, GUIDED = (
    "50 steps, CFG 5",
    "4 steps accelerated",
    "4 steps plain",
    "4 steps accelerated, CFG 5",
)


def wan22(task: str, expert: str) -> Model:
    return file(
        "diffusion_models",
        WAN22,
        f"split_files/diffusion_models/wan2.2_{task}_{expert}_noise_14B_fp8_scaled.safetensors",
    )


WAN_PROMPT = (
    "A red fox trots along a snowy forest path at dawn, breath visible in the cold air, the camera"
    " follows at its height, soft golden light between the trees"
)
IMAGE_PROMPT = (
    "a lighthouse on a rocky coast at sunset, waves breaking, warm light in the windows, detailed,"
    " photograph"
)
NEXT_PROMPT = (
    "The red fox stops in a clearing, looks up and sits down in the snow, the camera comes to rest"
    " beside it"
)
MOTION_PROMPT = "The scene comes to life: gentle natural motion, the camera moves slowly forward"


# --------------------------------------------------------------------------------------------------


def prompt_box(graph: Graph, clip: Output, text: str, title: str = "Prompt") -> Output:
    return graph.node("CLIPTextEncode", title, clip=clip, text=text)["CONDITIONING"]


def show_report(graph: Graph, sampled: Placed) -> None:
    with graph.group("What was done", below=True):
        graph.node("PreviewAny", "Report", source=sampled["report"])


def save_image(graph: Graph, sampled: Placed, vae: Output) -> None:
    """Show the report under the sampler, decode and save."""
    show_report(graph, sampled)
    with graph.group("Picture"):
        decoded = graph.node("VAEDecode", samples=sampled["latent"], vae=vae)
        graph.node("SaveImage", images=decoded["IMAGE"], filename_prefix=f"few-step/{graph.slug}")


def save_video(graph: Graph, sampled: Placed, vae: Output, fps: float) -> None:
    """Show the report under the sampler, decode and save as MP4 with the workflow inside."""
    show_report(graph, sampled)
    with graph.group("Video"):
        decoded = graph.node("VAEDecode", samples=sampled["latent"], vae=vae)
        video = graph.node("CreateVideo", images=decoded["IMAGE"], fps=fps)
        graph.node("SaveVideo", video=video["VIDEO"], filename_prefix=f"few-step/{graph.slug}")


def accelerate(
    graph: Graph,
    model: Placed,
    accelerator: Model | str | None,
    record: str = "auto",
    title: str | None = None,
    output: str = "MODEL",
) -> Placed:
    """The accelerator loader; without a file the model itself is the distilled one and the record
    says which.
    """
    return graph.node(
        "FewStepAccelerator",
        title,
        model=model[output],
        lora_name=accelerator or "none",
        accelerator=record,
    )


def checkpoint_image(
    graph: Graph,
    checkpoint: Model,
    accelerator: Model | None,
    size: tuple[int, int],
    record: str = "auto",
    steps: int = 0,
) -> None:
    """Text to image from one checkpoint file, and one accelerator LoRA unless the checkpoint is
    distilled itself.
    """
    with graph.group("Models"):
        loaded = graph.node("CheckpointLoaderSimple", ckpt_name=checkpoint)
        model = accelerate(graph, loaded, accelerator, record)
    with graph.group("Prompt and size"):
        positive = prompt_box(graph, loaded["CLIP"], IMAGE_PROMPT)
        latent = graph.node("EmptyLatentImage", width=size[0], height=size[1])
    with graph.group("Sampling"):
        sampled = graph.node(
            "FewStepSampler",
            model=model["model"],
            positive=positive,
            latent_image=latent["LATENT"],
            seed=1,
            steps=steps,
        )
    save_image(graph, sampled, loaded["VAE"])


def split_image(
    graph: Graph,
    files: tuple[Model, Model],
    clip: Mapping[str, Model | str],
    accelerator: Model | None,
    record: str,
    latent: str,
    size: tuple[int, int] = (1024, 1024),
    guidance: float | None = None,
) -> None:
    """Text to image from separate files: (model, VAE), the values of the text encoder's loader, and
    the node of the latent.
    """
    with graph.group("Models"):
        model = graph.node("UNETLoader", unet_name=files[0])
        text = graph.node("DualCLIPLoader" if "clip_name1" in clip else "CLIPLoader", **clip)
        vae = graph.node("VAELoader", vae_name=files[1])
    with graph.group("Accelerator"):
        fast = accelerate(graph, model, accelerator, record)
    with graph.group("Prompt and size", below=True):
        positive = prompt_box(graph, text["CLIP"], IMAGE_PROMPT)
        if guidance is not None:
            # Embedded guidance is an input of the model, not CFG: it stays.
            positive = graph.node(
                "FluxGuidance", "Embedded guidance", conditioning=positive, guidance=guidance
            )["CONDITIONING"]
        empty = graph.node(latent, "Picture size", width=size[0], height=size[1])
    with graph.group("Sampling"):
        sampled = graph.node(
            "FewStepSampler",
            model=fast["model"],
            positive=positive,
            latent_image=empty["LATENT"],
            seed=1,
        )
    save_image(graph, sampled, vae["VAE"])


def wan_text_and_vae(graph: Graph) -> tuple[Placed, Placed]:
    clip = graph.node("CLIPLoader", clip_name=UMT5, type="wan")
    return clip, graph.node("VAELoader", vae_name=WAN_VAE)


def wan22_experts(graph: Graph, task: str) -> tuple[Placed, Placed, Placed, Placed]:
    """(high-noise model, low-noise model, text encoder, VAE), each expert with its own Lightning
    LoRA.
    """
    version = "v1.1" if task == "t2v" else "v1"
    with graph.group("Models"):
        experts = {
            expert: graph.node(
                "UNETLoader", f"{expert.capitalize()}-noise expert", unet_name=wan22(task, expert)
            )
            for expert in ("high", "low")
        }
        clip, vae = wan_text_and_vae(graph)
    with graph.group("Accelerators"):
        high, low = (
            accelerate(
                graph,
                experts[expert],
                accelerator_file(
                    f"wan22-{task}-lightning-{expert}",
                    f"wan2.2_{task}_lightx2v_4steps_lora_{version}_{expert}_noise.safetensors",
                ),
                title=f"Accelerator, {expert} noise",
            )
            for expert in ("high", "low")
        )
    return high, low, clip, vae


# --------------------------------------------------------------------------------------------------


def sd15_lcm(schema: Schema) -> Graph:
    graph = Graph(
        schema,
        "SD 1.5 LCM",
        "sd15_lcm",
        """
## SD 1.5 in 4 steps with LCM

Any SD 1.5 checkpoint and the LCM LoRA: 4 evaluations instead of 50 or more.

**Files**: the publisher calls the LoRA `pytorch_lora_weights.safetensors`. Save it as `lcm-lora-sdv1-5.safetensors`, or choose \
the file you have; the loader checks its contents either way.

**Steps**: 0 means 4. LCM allows 2 to 8.

**CFG is locked to 1**, so there is no negative prompt.
""",
    )
    lora = accelerator_file("lcm-lora-sd15", save_as="lcm-lora-sdv1-5.safetensors")
    # Named, not auto: the file says little about itself, and many keep its published name.
    checkpoint_image(graph, DREAMSHAPER, lora, (512, 512), record="lcm-lora-sd15")
    return graph


def sdxl_lightning(schema: Schema) -> Graph:
    graph = Graph(
        schema,
        "SDXL Lightning 4 steps",
        "sdxl_lightning",
        """
## SDXL in 4 steps with Lightning

Works on any SDXL checkpoint. Each Lightning LoRA belongs to one step count: the 4-step file runs 4 steps and refuses others. \
For 2 or 8 steps choose that file.

**Steps**: leave at 0.

**CFG is locked to 1**: each step costs one evaluation and a negative prompt has no effect.
""",
    )
    checkpoint_image(graph, SDXL_BASE, accelerator_file("sdxl-lightning-4step-lora"), (1024, 1024))
    return graph


def sdxl_hyper(schema: Schema) -> Graph:
    graph = Graph(
        schema,
        "SDXL Hyper-SD 4 steps",
        "sdxl_hyper_sd",
        """
## SDXL in 4 steps with Hyper-SD

Works on any SDXL checkpoint. Hyper-SD has files for 2, 4 and 8 steps, and one "1step" file that runs 1 to 8.

**Steps**: leave at 0.

**CFG is locked to 1**. The files with CFG in their name are the exception: they run at CFG 5 and need a negative prompt.
""",
    )
    checkpoint_image(graph, SDXL_BASE, accelerator_file("hyper-sdxl-4step-lora"), (1024, 1024))
    return graph


def sdxl_hyper_one(schema: Schema) -> Graph:
    graph = Graph(
        schema,
        "SDXL Hyper-SD 1 step",
        "sdxl_hyper_sd_1step",
        """
## SDXL in one step with Hyper-SD

One evaluation for a whole picture. The same file also runs 2 to 8 steps: more steps, more detail.

It is a TCD model: the sampler takes the noise back in between steps by itself.

**CFG is locked to 1.**
""",
        steps=1,
    )
    checkpoint_image(
        graph, SDXL_BASE, accelerator_file("hyper-sdxl-1step-lora"), (1024, 1024), steps=1
    )
    return graph


def sdxl_dmd2(schema: Schema) -> Graph:
    graph = Graph(
        schema,
        "SDXL DMD2 4 steps",
        "sdxl_dmd2",
        """
## SDXL in 4 steps with DMD2

It renews the noise at every step, at its own timesteps (999, 749, 499, 249): the core \
LCM patch would move them, so it is left out.

**Licence**: the weights are for non-commercial use.

**CFG is locked to 1.**
""",
    )
    checkpoint_image(
        graph,
        SDXL_BASE,
        accelerator_file("dmd2-sdxl-4step-lora"),
        (1024, 1024),
        record="dmd2-sdxl-4step-lora",
    )
    return graph


def sdxl_turbo(schema: Schema) -> Graph:
    graph = Graph(
        schema,
        "SDXL Turbo",
        "sdxl_turbo",
        """
## SDXL Turbo, 1 to 4 steps

The checkpoint is distilled itself, so `lora_name` is **none** and `accelerator` says which model it is.

Made for 512 x 512. Set **steps** to 1 for the fastest picture.

**Licence**: non-commercial.

**CFG is locked to 1.**
""",
    )
    turbo = file("checkpoints", "stabilityai/sdxl-turbo", "sd_xl_turbo_1.0_fp16.safetensors")
    checkpoint_image(graph, turbo, None, (512, 512), record="sdxl-turbo")
    return graph


def flux_schnell(schema: Schema) -> Graph:
    graph = Graph(
        schema,
        "FLUX.1 schnell 4 steps",
        "flux1_schnell",
        """
## FLUX.1 schnell in 4 steps

The model is distilled itself, so `lora_name` is **none** and `accelerator` says which model it is. 1 to 4 steps.

**Licence**: Apache 2.0.

**CFG is locked to 1.** schnell has no embedded guidance either.
""",
    )
    files = (
        file("diffusion_models", "Comfy-Org/flux1-schnell", "flux1-schnell.safetensors"),
        FLUX_VAE,
    )
    clip = {"clip_name1": CLIP_L, "clip_name2": T5_XXL, "type": "flux"}
    split_image(graph, files, clip, None, "flux1-schnell", "EmptySD3LatentImage")
    return graph


def flux_hyper(schema: Schema) -> Graph:
    graph = Graph(
        schema,
        "FLUX.1 dev Hyper-SD 8 steps",
        "flux1_dev_hyper_sd",
        """
## FLUX.1 dev in 8 steps with Hyper-SD

The LoRA is released for strength 0.125. The loader knows that: leave `strength` at 1.

**Embedded guidance** (3.5) is an input of the model and stays. **CFG** is another knob and is locked to 1.

**Licence**: FLUX.1 dev is for non-commercial use.
""",
        steps=8,
    )
    clip = {"clip_name1": CLIP_L, "clip_name2": T5_XXL, "type": "flux"}
    lora = accelerator_file("hyper-flux-8step-lora")
    split_image(
        graph, (FLUX_DEV, FLUX_VAE), clip, lora, "auto", "EmptySD3LatentImage", guidance=3.5
    )
    return graph


def flux2_klein(schema: Schema) -> Graph:
    graph = Graph(
        schema,
        "FLUX.2 klein 4 steps",
        "flux2_klein",
        """
## FLUX.2 klein in 4 steps

The 4B model is distilled itself, so `lora_name` is **none** and `accelerator` says which model it is. The files with *base* in \
their name are not distilled and are refused.

Its noise levels depend on the picture's size; the sampler works them out.

**CFG is locked to 1.**
""",
    )
    files = (
        file(
            "diffusion_models",
            "Comfy-Org/flux2-klein",
            "split_files/diffusion_models/flux-2-klein-4b.safetensors",
        ),
        FLUX2_VAE,
    )
    clip = {"clip_name": QWEN3, "type": "flux2"}
    split_image(graph, files, clip, None, "flux2-klein-4b", "EmptyFlux2LatentImage")
    return graph


def qwen_image(schema: Schema) -> Graph:
    graph = Graph(
        schema,
        "Qwen-Image Lightning 4 steps",
        "qwen_image_lightning",
        """
## Qwen-Image in 4 steps with Lightning

The accelerator sets the shift it was trained at (3), not the model's own.

Each Lightning LoRA belongs to one release and one precision: this one to Qwen-Image in fp8. For the 16-bit file take \
`Qwen-Image-Lightning-4steps-V1.0`; mixed up, they leave a grid in the picture.

**CFG is locked to 1**: a negative prompt has no effect.
""",
    )
    lora = accelerator_file("qwen-image-lightning-fp8base-4step-lora")
    clip = {"clip_name": QWEN_VL, "type": "qwen_image"}
    split_image(
        graph, (QWEN_IMAGE, QWEN_VAE), clip, lora, "auto", "EmptySD3LatentImage", size=(1328, 1328)
    )
    return graph


def qwen_edit(schema: Schema) -> Graph:
    graph = Graph(
        schema,
        "Qwen-Image-Edit Lightning 4 steps",
        "qwen_image_edit_lightning",
        """
## Edit a picture in 4 steps with Qwen-Image-Edit

Choose a picture and say what to change.

Each Lightning LoRA belongs to one release of Qwen-Image-Edit: this one to 2511.

**CFG is locked to 1**: no second text encoding is needed.
""",
    )
    lora = accelerator_file(
        "qwen-image-edit-2511-lightning-4step-lora",
        "Qwen-Image-Edit-2511-Lightning-4steps-V1.0-bf16.safetensors",
    )
    with graph.group("Models"):
        model = graph.node("UNETLoader", unet_name=QWEN_EDIT)
        clip = graph.node("CLIPLoader", clip_name=QWEN_VL, type="qwen_image")
        vae = graph.node("VAELoader", vae_name=QWEN_VAE)
        fast = accelerate(graph, model, lora)
    with graph.group("Picture to edit"):
        picture = graph.node("LoadImage", image="example.png")
        scaled = graph.node(
            "FluxKontextImageScale", "Scale to about one megapixel", image=picture["IMAGE"]
        )
        source = graph.node("VAEEncode", pixels=scaled["IMAGE"], vae=vae["VAE"])
    with graph.group("What to change"):
        edit = graph.node(
            "TextEncodeQwenImageEditPlus",
            "Edit prompt",
            clip=clip["CLIP"],
            vae=vae["VAE"],
            image1=scaled["IMAGE"],
            prompt="Turn the drawing into a photograph, keep the pose and the colours",
        )
        method = graph.node(
            "FluxKontextMultiReferenceLatentMethod",
            conditioning=edit["CONDITIONING"],
            reference_latents_method="index_timestep_zero",
        )
    with graph.group("Sampling"):
        sampled = graph.node(
            "FewStepSampler",
            model=fast["model"],
            positive=method["CONDITIONING"],
            latent_image=source["LATENT"],
            seed=1,
        )
    save_image(graph, sampled, vae["VAE"])
    return graph


def z_image_turbo(schema: Schema) -> Graph:
    graph = Graph(
        schema,
        "Z-Image-Turbo 8 steps",
        "z_image_turbo",
        """
## Z-Image-Turbo in 8 steps

The model is distilled itself, so `lora_name` is **none** and `accelerator` says which model it is. The Z-Image base model is \
not distilled and is refused.

**Licence**: Apache 2.0.

**CFG is locked to 1.**
""",
        steps=8,
    )
    files = (
        file(
            "diffusion_models",
            "Comfy-Org/z_image_turbo",
            "split_files/diffusion_models/z_image_turbo_bf16.safetensors",
        ),
        FLUX_VAE,
    )
    split_image(
        graph,
        files,
        {"clip_name": QWEN3, "type": "lumina2"},
        None,
        "z-image-turbo",
        "EmptySD3LatentImage",
    )
    return graph


def sdxl_core_sampler(schema: Schema) -> Graph:
    graph = Graph(
        schema,
        "SDXL Lightning in a core sampler",
        "sdxl_core_sampler",
        """
## The exact schedule in another sampler

Few-Step Schedule hands out the accelerator's noise levels, sampler, CFG and step count. Connect **all of them**: the noise levels \
alone with another sampler, or with CFG above 1, give a washed-out picture.

Use it for samplers that take SIGMAS, such as SamplerCustom or those of multi-GPU packs.
""",
    )
    with graph.group("Models"):
        loaded = graph.node("CheckpointLoaderSimple", ckpt_name=SDXL_BASE)
        fast = accelerate(graph, loaded, accelerator_file("sdxl-lightning-4step-lora"))
    with graph.group("Prompt and size"):
        positive = prompt_box(graph, loaded["CLIP"], IMAGE_PROMPT)
        nothing = graph.node("ConditioningZeroOut", "No negative prompt", conditioning=positive)
        latent = graph.node("EmptyLatentImage", width=1024, height=1024)
    with graph.group("Sampling"):
        schedule = graph.node("FewStepSchedule", model=fast["model"])
        sampled = graph.node(
            "SamplerCustom",
            "Core sampler",
            model=fast["model"],
            positive=positive,
            negative=nothing["CONDITIONING"],
            sampler=schedule["sampler"],
            sigmas=schedule["sigmas"],
            cfg=schedule["cfg"],
            latent_image=latent["LATENT"],
            noise_seed=1,
        )
    with graph.group("Picture"):
        decoded = graph.node("VAEDecode", samples=sampled["output"], vae=loaded["VAE"])
        graph.node("SaveImage", images=decoded["IMAGE"], filename_prefix=f"few-step/{graph.slug}")
    return graph


def wan21_t2v(schema: Schema) -> Graph:
    graph = Graph(
        schema,
        "Wan 2.1 T2V LightX2V 4 steps",
        "wan21_t2v_lightx2v",
        """
## Wan 2.1 text to video in 4 steps

The 14B model with the LightX2V LoRA: 4 evaluations instead of 100.

The accelerator sets the shift it was trained at (5); no ModelSampling node is needed.

**Length** counts video frames: 4 n + 1, 81 is five seconds at 16 frames a second.

**CFG is locked to 1**: a negative prompt has no effect.
""",
    )
    lora = accelerator_file(
        "wan21-t2v-lightx2v-4step",
        "Wan21_T2V_14B_lightx2v_cfg_step_distill_lora_rank32.safetensors",
    )
    with graph.group("Models"):
        model = graph.node("UNETLoader", unet_name=WAN21_T2V)
        clip, vae = wan_text_and_vae(graph)
    with graph.group("Accelerator"):
        fast = accelerate(graph, model, lora)
    with graph.group("Prompt and size", below=True):
        positive = prompt_box(graph, clip["CLIP"], WAN_PROMPT)
        latent = graph.node(
            "EmptyHunyuanLatentVideo", "Video size", width=832, height=480, length=81
        )
    with graph.group("Sampling"):
        sampled = graph.node(
            "FewStepSampler",
            model=fast["model"],
            positive=positive,
            latent_image=latent["LATENT"],
            seed=1,
        )
    save_video(graph, sampled, vae["VAE"], fps=16)
    return graph


def wan21_i2v(schema: Schema) -> Graph:
    graph = Graph(
        schema,
        "Wan 2.1 I2V LightX2V 4 steps",
        "wan21_i2v_lightx2v",
        """
## Wan 2.1 image to video in 4 steps

Choose a start picture and say how it should move.

The I2V model needs the **I2V** LoRA: the text-to-video one is refused.

**CFG is locked to 1**: Wan Image to Video wants a negative prompt, so it gets an empty one that is never evaluated.
""",
    )
    lora = accelerator_file(
        "wan21-i2v-lightx2v-4step", "lightx2v_I2V_14B_480p_cfg_step_distill_rank64_bf16.safetensors"
    )
    with graph.group("Models"):
        model = graph.node("UNETLoader", unet_name=WAN21_I2V)
        clip, vae = wan_text_and_vae(graph)
        vision = graph.node("CLIPVisionLoader", clip_name=CLIP_VISION)
    with graph.group("Accelerator"):
        fast = accelerate(graph, model, lora)
    with graph.group("Start picture and prompt"):
        picture = graph.node("LoadImage", "Start picture", image="example.png")
        seen = graph.node(
            "CLIPVisionEncode",
            clip_vision=vision["CLIP_VISION"],
            image=picture["IMAGE"],
            crop="none",
        )
        positive = prompt_box(graph, clip["CLIP"], MOTION_PROMPT)
        nothing = graph.node("ConditioningZeroOut", "No negative prompt", conditioning=positive)
    with graph.group("Sampling"):
        start = graph.node(
            "WanImageToVideo",
            "Wan Image to Video",
            positive=positive,
            negative=nothing["CONDITIONING"],
            vae=vae["VAE"],
            clip_vision_output=seen["CLIP_VISION_OUTPUT"],
            start_image=picture["IMAGE"],
            width=832,
            height=480,
            length=81,
        )
        sampled = graph.node(
            "FewStepSampler",
            model=fast["model"],
            positive=start["positive"],
            latent_image=start["latent"],
            seed=1,
        )
    save_video(graph, sampled, vae["VAE"], fps=16)
    return graph


def wan22_t2v(schema: Schema) -> Graph:
    graph = Graph(
        schema,
        "Wan 2.2 T2V Lightning 4 steps",
        "wan22_t2v_lightning",
        """
## Wan 2.2 text to video in 4 steps

Wan 2.2 has two experts. One sampler runs both: `model` is the high-noise expert, `model_low_noise` the low-noise one, and it \
changes over where the accelerator was trained to (after step 2).

Each expert needs **its own** LoRA: high on high, low on low. Mixed up, the loader or the sampler says so.

Less motion than the full model comes from the high-noise LoRA; a lower `strength` there gives some of it back.

**CFG is locked to 1**: a negative prompt has no effect.
""",
    )
    high, low, clip, vae = wan22_experts(graph, "t2v")
    with graph.group("Prompt and size"):
        positive = prompt_box(graph, clip["CLIP"], WAN_PROMPT)
        latent = graph.node(
            "EmptyHunyuanLatentVideo", "Video size", width=832, height=480, length=81
        )
    with graph.group("Sampling"):
        sampled = graph.node(
            "FewStepSampler",
            model=high["model"],
            model_low_noise=low["model"],
            positive=positive,
            latent_image=latent["LATENT"],
            seed=1,
        )
    save_video(graph, sampled, vae["VAE"], fps=16)
    return graph


def wan22_i2v(schema: Schema) -> Graph:
    graph = Graph(
        schema,
        "Wan 2.2 I2V Lightning 4 steps",
        "wan22_i2v_lightning",
        """
## Wan 2.2 image to video in 4 steps

Choose a start picture and say how it should move.

One sampler runs both experts: `model` is the high-noise expert, `model_low_noise` the low-noise one, each with **its own** LoRA. \
It changes over where the accelerator was trained to.

**CFG is locked to 1**: Wan Image to Video wants a negative prompt, so it gets an empty one that is never evaluated.
""",
    )
    high, low, clip, vae = wan22_experts(graph, "i2v")
    with graph.group("Start picture and prompt"):
        picture = graph.node("LoadImage", "Start picture", image="example.png")
        positive = prompt_box(graph, clip["CLIP"], MOTION_PROMPT)
        nothing = graph.node("ConditioningZeroOut", "No negative prompt", conditioning=positive)
    with graph.group("Sampling"):
        start = graph.node(
            "WanImageToVideo",
            "Wan Image to Video",
            positive=positive,
            negative=nothing["CONDITIONING"],
            vae=vae["VAE"],
            start_image=picture["IMAGE"],
            width=832,
            height=480,
            length=81,
        )
        sampled = graph.node(
            "FewStepSampler",
            model=high["model"],
            model_low_noise=low["model"],
            positive=start["positive"],
            latent_image=start["latent"],
            seed=1,
        )
    save_video(graph, sampled, vae["VAE"], fps=16)
    return graph


def wan22_first_last(schema: Schema) -> Graph:
    graph = Graph(
        schema,
        "Wan 2.2 first and last frame 4 steps",
        "wan22_flf2v_lightning",
        """
## Wan 2.2 from a first to a last picture in 4 steps

Choose the first and the last frame and say what happens between them. It uses the image-to-video experts, each with **its own** \
LoRA.

**CFG is locked to 1**: a negative prompt has no effect.
""",
    )
    high, low, clip, vae = wan22_experts(graph, "i2v")
    with graph.group("Pictures and prompt"):
        first = graph.node("LoadImage", "First frame", image="example.png")
        last = graph.node("LoadImage", "Last frame", image="example.png")
        positive = prompt_box(graph, clip["CLIP"], MOTION_PROMPT)
        nothing = graph.node("ConditioningZeroOut", "No negative prompt", conditioning=positive)
    with graph.group("Sampling"):
        start = graph.node(
            "WanFirstLastFrameToVideo",
            "Wan First and Last Frame to Video",
            positive=positive,
            negative=nothing["CONDITIONING"],
            vae=vae["VAE"],
            start_image=first["IMAGE"],
            end_image=last["IMAGE"],
            width=832,
            height=480,
            length=81,
        )
        sampled = graph.node(
            "FewStepSampler",
            model=high["model"],
            model_low_noise=low["model"],
            positive=start["positive"],
            latent_image=start["latent"],
            seed=1,
        )
    save_video(graph, sampled, vae["VAE"], fps=16)
    return graph


def ltx2(schema: Schema) -> Graph:
    graph = Graph(
        schema,
        "LTX-2 distilled 8 steps",
        "ltx2_distilled",
        """
## LTX-2 video with sound in 8 steps

The checkpoint is distilled itself, so `lora_name` is **none** and `accelerator` says which model it is. Picture and sound are \
sampled together.

**Length** counts video frames: 8 n + 1, 121 is five seconds at 24 frames a second.

**CFG is locked to 1**: a negative prompt has no effect.
""",
        steps=8,
    )
    checkpoint = accelerator_file("ltx2-19b-distilled")
    frames, rate = 121, 24.0
    with graph.group("Models"):
        loaded = graph.node("CheckpointLoaderSimple", ckpt_name=checkpoint)
        text = graph.node("LTXAVTextEncoderLoader", text_encoder=GEMMA, ckpt_name=checkpoint)
        audio_vae = graph.node("LTXVAudioVAELoader", ckpt_name=checkpoint)
        fast = accelerate(graph, loaded, None, "ltx2-19b-distilled")
    with graph.group("Prompt and size"):
        prompt = prompt_box(
            graph, text["CLIP"], WAN_PROMPT + ". Crunching snow, a distant bird call"
        )
        nothing = graph.node("ConditioningZeroOut", "No negative prompt", conditioning=prompt)
        conditioned = graph.node(
            "LTXVConditioning",
            "LTXV Conditioning",
            positive=prompt,
            negative=nothing["CONDITIONING"],
            frame_rate=rate,
        )
        video = graph.node(
            "EmptyLTXVLatentVideo", "Video size", width=960, height=544, length=frames
        )
        audio = graph.node(
            "LTXVEmptyLatentAudio",
            "Sound length",
            audio_vae=audio_vae["Audio VAE"],
            frames_number=frames,
            frame_rate=rate,
        )
    with graph.group("Sampling"):
        both = graph.node(
            "LTXVConcatAVLatent",
            "Picture and sound",
            video_latent=video["LATENT"],
            audio_latent=audio["Latent"],
        )
        sampled = graph.node(
            "FewStepSampler",
            model=fast["model"],
            positive=conditioned["positive"],
            latent_image=both["latent"],
            seed=1,
        )
        apart = graph.node("LTXVSeparateAVLatent", "Picture, sound", av_latent=sampled["latent"])
    show_report(graph, sampled)
    with graph.group("Video"):
        decoded = graph.node("VAEDecodeTiled", samples=apart["video_latent"], vae=loaded["VAE"])
        sound = graph.node(
            "LTXVAudioVAEDecode", samples=apart["audio_latent"], audio_vae=audio_vae["Audio VAE"]
        )
        made = graph.node("CreateVideo", images=decoded["IMAGE"], audio=sound["Audio"], fps=rate)
        graph.node("SaveVideo", video=made["VIDEO"], filename_prefix=f"few-step/{graph.slug}")
    return graph


def hunyuan15(schema: Schema) -> Graph:
    graph = Graph(
        schema,
        "HunyuanVideo 1.5 T2V LightX2V 4 steps",
        "hunyuan15_t2v_lightx2v",
        """
## HunyuanVideo 1.5 text to video in 4 steps

The model is distilled itself, so `lora_name` is **none** and `accelerator` says which model it is. Tencent's *cfg_distilled* files \
are not few-step models: they take no CFG but still many steps, and are refused.

Made for 480p. **Length** counts video frames: 4 n + 1.

**CFG is locked to 1.**
""",
    )
    with graph.group("Models"):
        model = graph.node(
            "UNETLoader", unet_name=accelerator_file("hunyuan15-480p-t2v-lightx2v-4step")
        )
        clip = graph.node(
            "DualCLIPLoader", clip_name1=QWEN_VL, clip_name2=BYT5, type="hunyuan_video_15"
        )
        vae = graph.node("VAELoader", vae_name=HUNYUAN15_VAE)
    with graph.group("Accelerator"):
        fast = accelerate(graph, model, None, "hunyuan15-480p-t2v-lightx2v-4step")
    with graph.group("Prompt and size", below=True):
        positive = prompt_box(graph, clip["CLIP"], WAN_PROMPT)
        latent = graph.node(
            "EmptyHunyuanVideo15Latent", "Video size", width=848, height=480, length=81
        )
    with graph.group("Sampling"):
        sampled = graph.node(
            "FewStepSampler",
            model=fast["model"],
            positive=positive,
            latent_image=latent["LATENT"],
            seed=1,
        )
    save_video(graph, sampled, vae["VAE"], fps=24)
    return graph


def animatediff(schema: Schema) -> Graph:
    graph = Graph(
        schema,
        "AnimateDiff-Lightning 4 steps",
        "animatediff_lightning",
        """
## A moving picture in any SD 1.5 style in 4 steps

The Motion Module Loader puts AnimateDiff-Lightning on an SD 1.5 checkpoint. Nothing else needs to be installed.

**batch_size** of the empty latent is the number of frames; set `frames` to the same. The modules were made on 16.

There are files for 1, 2, 4 and 8 steps; each runs its own number.

**CFG is locked to 1.**
""",
    )
    frames = 16
    with graph.group("Models"):
        loaded = graph.node("CheckpointLoaderSimple", ckpt_name=DREAMSHAPER)
        moving = graph.node(
            "FewStepMotion",
            model=loaded["MODEL"],
            motion_name=accelerator_file("animatediff-lightning-4step"),
            frames=frames,
        )
    with graph.group("Prompt and size"):
        positive = prompt_box(
            graph,
            loaded["CLIP"],
            "a sailing boat on a stormy sea, waves, clouds moving fast, cinematic",
        )
        latent = graph.node(
            "EmptyLatentImage", "Size and frames", width=512, height=512, batch_size=frames
        )
    with graph.group("Sampling"):
        sampled = graph.node(
            "FewStepSampler",
            model=moving["model"],
            positive=positive,
            latent_image=latent["LATENT"],
            seed=1,
        )
    save_video(graph, sampled, loaded["VAE"], fps=8)
    return graph


def sdxl_skip(schema: Schema) -> Graph:
    graph = Graph(
        schema,
        "SDXL full steps with Step Skip",
        "sdxl_step_skip",
        """
## The full model, with some evaluations left out

No accelerator: the model takes its 30 steps with guidance, and Step Skip forecasts some of them from the others. Right when the \
look of the full model matters more than the last factor of speed.

**target_speedup** 1.5 is nearly the same picture. Higher is faster and less faithful.

Below 10 steps it changes nothing: then an accelerator is the better way.
""",
        steps=30,
    )
    with graph.group("Model"):
        loaded = graph.node("CheckpointLoaderSimple", ckpt_name=SDXL_BASE)
        skipping = graph.node("FewStepSkip", model=loaded["MODEL"])
    with graph.group("Prompts and size"):
        positive = prompt_box(graph, loaded["CLIP"], IMAGE_PROMPT)
        negative = prompt_box(graph, loaded["CLIP"], "blurry, low quality, text", "Negative prompt")
        latent = graph.node("EmptyLatentImage", width=1024, height=1024)
    with graph.group("Sampling"):
        sampled = graph.node(
            "KSampler",
            model=skipping["model"],
            positive=positive,
            negative=negative,
            latent_image=latent["LATENT"],
            seed=1,
            steps=30,
            cfg=6.0,
            sampler_name="dpmpp_2m",
            scheduler="karras",
        )
    with graph.group("Picture"):
        decoded = graph.node("VAEDecode", samples=sampled["LATENT"], vae=loaded["VAE"])
        graph.node("SaveImage", images=decoded["IMAGE"], filename_prefix=f"few-step/{graph.slug}")
    return graph


def wan21_skip(schema: Schema) -> Graph:
    graph = Graph(
        schema,
        "Wan 2.1 T2V full steps with Step Skip",
        "wan21_t2v_step_skip",
        """
## Wan 2.1 without an accelerator, with some evaluations left out

The model takes its 30 steps with guidance, and Step Skip forecasts some of them from the others: full motion and detail, in less \
time.

**target_speedup** 1.5 is nearly the same video. Higher is faster and less faithful.

For 4 steps take the LightX2V workflow; the two do not stack.
""",
        steps=30,
    )
    with graph.group("Models"):
        model = graph.node("UNETLoader", unet_name=WAN21_T2V)
        clip, vae = wan_text_and_vae(graph)
        shifted = graph.node("ModelSamplingSD3", "Shift", model=model["MODEL"], shift=8.0)
    with graph.group("Prompts and size"):
        positive = prompt_box(graph, clip["CLIP"], WAN_PROMPT)
        negative = prompt_box(
            graph, clip["CLIP"], "static, blurry, low quality, subtitles", "Negative prompt"
        )
        latent = graph.node(
            "EmptyHunyuanLatentVideo", "Video size", width=832, height=480, length=81
        )
    with graph.group("Sampling"):
        skipping = graph.node("FewStepSkip", model=shifted["MODEL"])
        sampled = graph.node(
            "KSampler",
            model=skipping["model"],
            positive=positive,
            negative=negative,
            latent_image=latent["LATENT"],
            seed=1,
            steps=30,
            cfg=6.0,
            sampler_name="uni_pc",
            scheduler="simple",
        )
    with graph.group("Video"):
        decoded = graph.node("VAEDecode", samples=sampled["LATENT"], vae=vae["VAE"])
        video = graph.node("CreateVideo", images=decoded["IMAGE"], fps=16)
        graph.node("SaveVideo", video=video["VIDEO"], filename_prefix=f"few-step/{graph.slug}")
    return graph


def sdxl_budget(schema: Schema) -> Graph:
    graph = Graph(
        schema,
        "SDXL LCM with a step budget",
        "sdxl_step_budget",
        """
## As many steps as the time allows

Step Budget measures what one evaluation costs on this machine, at this size, and sets the sampler's steps: as many as fit into \
**seconds**, and always a number the accelerator was distilled for (LCM: 2 to 8).

**seconds** 0 takes the experience's own: a few for *interactive*, one for *live*, no limit for *batch*.

Its report lists every way to run the model, with seconds, price and licence.

**Files**: save the LoRA as `lcm-lora-sdxl.safetensors`.
""",
    )
    lora = accelerator_file("lcm-lora-sdxl", save_as="lcm-lora-sdxl.safetensors")
    with graph.group("Models"):
        loaded = graph.node("CheckpointLoaderSimple", ckpt_name=SDXL_BASE)
        fast = accelerate(graph, loaded, lora, "lcm-lora-sdxl")
    with graph.group("Prompt and size", below=True):
        positive = prompt_box(graph, loaded["CLIP"], IMAGE_PROMPT)
        latent = graph.node("EmptyLatentImage", width=1024, height=1024)
    with graph.group("Budget"):
        budget = graph.node(
            "FewStepBudget",
            model=fast["model"],
            latent_image=latent["LATENT"],
            experience="interactive",
        )
        graph.node("PreviewAny", "Ways to run it", source=budget["report"])
        graph.node("PreviewImage", "Seconds and steps", images=budget["chart"])
    with graph.group("Sampling"):
        sampled = graph.node(
            "FewStepSampler",
            model=fast["model"],
            positive=positive,
            latent_image=latent["LATENT"],
            seed=1,
            steps=budget["steps"],
        )
    save_image(graph, sampled, loaded["VAE"])
    return graph


def save_small_square(graph: Graph, frames: Output) -> None:
    """Save the demo model's frames as MP4, large enough to look at."""
    larger = graph.node(
        "ImageScaleBy", "Larger", image=frames, upscale_method="nearest-exact", scale_by=6.0
    )
    video = graph.node("CreateVideo", images=larger["IMAGE"], fps=8)
    saved = graph.node("SaveVideo", video=video["VIDEO"], filename_prefix=f"few-step/{graph.slug}")
    # Square frames stand higher in the node than those of a usual clip.
    saved.size = (saved.size[0], saved.size[1] + 90)


def demo(schema: Schema) -> Graph:
    graph = Graph(
        schema,
        "Demo, runs on any computer",
        "demo",
        """
## Try it without downloading anything

A tiny video model that comes with this pack: coloured shapes that move. It runs in seconds, on a CPU too.

The accelerator makes the clip in 4 evaluations; the model alone needs 50 steps with guidance, 100 evaluations.

**Prompt**: for example *a big blue square moving up on a striped background*. Words it does not know are refused with the list of \
those it knows.
""",
    )
    with graph.group("Demo model"):
        model = graph.node("FewStepDemo")
        fast = accelerate(graph, model, DEMO_LORA, output="model")
    with graph.group("Sampling"):
        sampled = graph.node(
            "FewStepSampler",
            model=fast["model"],
            positive=model["positive"],
            latent_image=model["latent"],
            seed=1,
        )
    show_report(graph, sampled)
    with graph.group("Video"):
        decoded = graph.node("VAEDecode", samples=sampled["latent"], vae=model["vae"])
        save_small_square(graph, decoded["IMAGE"])
    return graph


def sdxl_compare(schema: Schema) -> Graph:
    graph = Graph(
        schema,
        "SDXL compare 8 steps and 1 step",
        "sdxl_compare",
        """
## What do fewer steps cost?

One Hyper-SD file runs 1 to 8 steps. The same prompt and the same seed, once in 8 steps and once in one, side by side: the \
difference, PSNR, SSIM, and both times.

Use **one seed for both**: with two seeds two different pictures are compared.

A distilled model may paint the same prompt well and otherwise. Look at the sheet, not only at the figures.
""",
        steps=8,
        seeds="fixed",
    )
    with graph.group("Models"):
        loaded = graph.node("CheckpointLoaderSimple", ckpt_name=SDXL_BASE)
        fast = accelerate(graph, loaded, accelerator_file("hyper-sdxl-1step-lora"))
    with graph.group("Prompt and size", below=True):
        positive = prompt_box(graph, loaded["CLIP"], IMAGE_PROMPT)
        latent = graph.node("EmptyLatentImage", width=1024, height=1024)
    shared = {
        "model": fast["model"],
        "positive": positive,
        "latent_image": latent["LATENT"],
        "seed": 1,
    }
    with graph.group("Eight steps"):
        slow = graph.node("FewStepSampler", "8 steps", steps=8, **shared)
        slow_picture = graph.node("VAEDecode", samples=slow["latent"], vae=loaded["VAE"])
    with graph.group("One step", below=True):
        quick = graph.node("FewStepSampler", "1 step", steps=1, **shared)
        quick_picture = graph.node("VAEDecode", samples=quick["latent"], vae=loaded["VAE"])
    with graph.group("Compare"):
        compared = graph.node(
            "FewStepCompare",
            reference=slow_picture["IMAGE"],
            candidate=quick_picture["IMAGE"],
            reference_report=slow["report"],
            candidate_report=quick["report"],
        )
        graph.node("PreviewAny", "Report", source=compared["report"])
    with graph.group("Both pictures"):
        graph.node("SaveImage", images=compared["sheet"], filename_prefix=f"few-step/{graph.slug}")
    return graph


def demo_compare(schema: Schema) -> Graph:
    graph = Graph(
        schema,
        "Demo, 100 evaluations and 4",
        "demo_compare",
        """
## What acceleration costs, seen on any computer

The tiny model that comes with this pack, four times with the same seed, side by side from left to right:

1. as it was trained: 50 steps with guidance, which is 100 evaluations
2. with its accelerator: 4 evaluations
3. without the accelerator in 4 steps: why it takes one
4. with the accelerator, but CFG left at 5: what guidance does to a model that has it built in

The sheet shows the first two, the difference, and the figures; the reports below say how far each of the others is from the first.
KSampler has no report of its own: Step Budget's stands for the first, with the seconds it predicts for 50 steps with guidance.
""",
        seeds="fixed",
    )
    with graph.group("Demo model"):
        model = graph.node("FewStepDemo")
        fast = accelerate(graph, model, DEMO_LORA, output="model")
    clip = {"positive": model["positive"], "latent_image": model["latent"], "seed": 1}
    core = {**clip, "negative": model["negative"], "sampler_name": "euler", "scheduler": "simple"}
    with graph.group("50 steps with guidance"):
        full = graph.node("KSampler", FULL, model=model["model"], steps=50, cfg=5.0, **core)
        full_frames = graph.node("VAEDecode", samples=full["LATENT"], vae=model["vae"])
    with graph.group("4 steps accelerated", below=True):
        quick = graph.node("FewStepSampler", QUICK, model=fast["model"], **clip)
        quick_frames = graph.node("VAEDecode", samples=quick["latent"], vae=model["vae"])
    with graph.group("4 steps without the accelerator"):
        plain = graph.node("KSampler", PLAIN, model=model["model"], steps=4, cfg=1.0, **core)
        plain_frames = graph.node("VAEDecode", samples=plain["LATENT"], vae=model["vae"])
    with graph.group("4 steps accelerated, CFG left at 5", below=True):
        guided = graph.node("KSampler", GUIDED, model=fast["model"], steps=4, cfg=5.0, **core)
        guided_frames = graph.node("VAEDecode", samples=guided["LATENT"], vae=model["vae"])
    with graph.group("What the 50 steps cost"):
        budget = graph.node(
            "FewStepBudget", model=model["model"], latent_image=model["latent"], experience="batch"
        )
    reference = {"reference": full_frames["IMAGE"], "reference_report": budget["report"]}
    with graph.group("Compare"):
        compared = graph.node(
            "FewStepCompare",
            QUICK,
            **reference,
            candidate=quick_frames["IMAGE"],
            candidate_report=quick["report"],
        )
        graph.node("PreviewAny", "Report", source=compared["report"])
    with graph.group("Compare the others", below=True):
        for title, frames in ((PLAIN, plain_frames), (GUIDED, guided_frames)):
            other = graph.node("FewStepCompare", title, **reference, candidate=frames["IMAGE"])
            graph.node("PreviewAny", "Report", source=other["report"])
    with graph.group("Sheet"):
        graph.node("SaveImage", images=compared["sheet"], filename_prefix=f"few-step/{graph.slug}")
    with graph.group("Side by side", below=True):
        strip = full_frames
        for frames in (quick_frames, plain_frames, guided_frames):
            strip = graph.node(
                "ImageStitch",
                image1=strip["IMAGE"],
                image2=frames["IMAGE"],
                direction="right",
                match_image_size=False,
            )
        larger = graph.node(
            "ImageScaleBy",
            "Larger",
            image=strip["IMAGE"],
            upscale_method="nearest-exact",
            scale_by=3.0,
        )
        graph.node(
            "SaveAnimatedWEBP",
            images=larger["IMAGE"],
            filename_prefix=f"few-step/{graph.slug}",
            fps=8.0,
        )
    return graph


def causal_models(
    graph: Graph, file: Model = CAUSAL_FORCING, record: str = "causal-forcing-framewise"
) -> tuple[Placed, Placed, Placed]:
    """(model with its record, text encoder, VAE), by default of the one causal release that is
    published as ComfyUI loads it.
    """
    with graph.group("Models"):
        model = graph.node("UNETLoader", unet_name=file)
        clip, vae = wan_text_and_vae(graph)
    with graph.group("Accelerator"):
        fast = accelerate(graph, model, None, record)
    return fast, clip, vae


def video_size(graph: Graph, length: int = 81) -> Output:
    return graph.node(
        "EmptyHunyuanLatentVideo", "Video size", width=832, height=480, length=length
    )["LATENT"]


def stream(
    graph: Graph, model: Placed, positive: Output, size: Output, vae: Placed, **more: Any
) -> Placed:
    """A clip that is shown while it is made."""
    return graph.node(
        "FewStepStream",
        model=model["model"],
        positive=positive,
        latent_image=size,
        vae=vae["VAE"],
        seed=1,
        **more,
    )


def save_streamed(graph: Graph, streamed: Placed) -> None:
    with graph.group("Video"):
        video = graph.node("CreateVideo", images=streamed["images"], fps=16)
        graph.node("SaveVideo", video=video["VIDEO"], filename_prefix=f"few-step/{graph.slug}")


def stream_video(
    graph: Graph, model: Placed, positive: Output, size: Output, vae: Placed, **more: Output
) -> None:
    """Make, show and save a clip."""
    with graph.group("Streaming"):
        streamed = stream(graph, model, positive, size, vae, **more)
    show_report(graph, streamed)
    save_streamed(graph, streamed)


def prompt_to_stream(graph: Graph, fast: Placed, clip: Placed, vae: Placed) -> None:
    """A clip of five seconds from a prompt alone."""
    with graph.group("Prompt and size", below=True):
        positive = prompt_box(graph, clip["CLIP"], WAN_PROMPT)
        size = video_size(graph)
    stream_video(graph, fast, positive, size, vae)


def causal_stream(schema: Schema) -> Graph:
    graph = Graph(
        schema,
        "Causal Forcing T2V stream",
        "causal_forcing_stream",
        """
## Video that is shown while it is made

A causal Wan model makes a clip from its first frame to its last. With the VAE connected, each finished block is decoded and shown on \
the sampler at once.

**Longer clips**: set `window_frames` to 21 or less, and memory stays the same however long the clip is. `sink_frames` keeps the first \
frames in view for good.

**Interrupt** keeps the blocks that are finished.

**Self Forcing** has a workflow of its own; the other models run in this graph. Convert their .pt file with `scripts/mark_causal.py` of \
this pack's repository, load it, and set `accelerator` to auto.

The model is distilled itself, so `lora_name` is **none**. 4 steps for each frame, **CFG locked to 1**.
""",
    )
    prompt_to_stream(graph, *causal_models(graph))
    return graph


def causal_from_picture(schema: Schema) -> Graph:
    graph = Graph(
        schema,
        "Causal Forcing I2V stream",
        "causal_forcing_i2v_stream",
        """
## A picture that goes on, shown while it is made

The start picture becomes the first frame, and the causal model goes on from it, frame after frame.

**start_latent** may also be the latent of an earlier clip: then the new one continues it. `length` counts its frames too.

**Size**: the picture is scaled and cropped to the video's.

The model is distilled itself, so `lora_name` is **none**. 4 steps for each frame, **CFG locked to 1**.
""",
    )
    fast, clip, vae = causal_models(graph)
    with graph.group("Start picture, prompt and size"):
        picture = graph.node("LoadImage", "Start picture", image="example.png")
        sized = graph.node(
            "ImageScale",
            "To the video's size",
            image=picture["IMAGE"],
            upscale_method="lanczos",
            width=832,
            height=480,
            crop="center",
        )
        start = graph.node("VAEEncode", pixels=sized["IMAGE"], vae=vae["VAE"])
        positive = prompt_box(graph, clip["CLIP"], MOTION_PROMPT)
        size = video_size(graph)
    stream_video(graph, fast, positive, size, vae, start_latent=start["LATENT"])
    return graph


def self_forcing_stream(schema: Schema) -> Graph:
    graph = Graph(
        schema,
        "Self Forcing T2V stream",
        "self_forcing_stream",
        """
## Video that is shown while it is made, three latent frames at a time

Self Forcing is a causal Wan model. With the VAE connected, each finished block of three latent frames (12 of video) is decoded and shown \
on the sampler at once.

**The model** is published as `self_forcing_dmd.pt`, which ComfyUI cannot load as a causal model. Convert it once, with ComfyUI's Python: \
`python mark_causal.py self_forcing_dmd.pt self_forcing_dmd.safetensors`. The script is in `scripts/` of this pack's repository.

**Length**: 9, 21, 33, ..., 81 frames, whole blocks. Beyond that set `window_frames` to 21 or less.

**Interrupt** keeps the blocks that are finished.

**Licence**: the weights are CC BY-NC-SA 4.0, for non-commercial use.

The model is distilled itself, so `lora_name` is **none**. 4 steps for each block, **CFG locked to 1**.
""",
    )
    prompt_to_stream(graph, *causal_models(graph, SELF_FORCING, "self-forcing-dmd"))
    return graph


def causal_continued(schema: Schema) -> Graph:
    graph = Graph(
        schema,
        "Causal Forcing continued clip",
        "causal_forcing_continued",
        """
## A clip that goes on with another prompt

The first sampler makes five seconds; the second one reads them as `start_latent` and makes five more, with a prompt of its own. Its \
latent and its images are the whole clip.

**length** of the second video size counts the first clip's frames too: 161 are 81 and 80 new ones.

**window_frames** is 21, as many latent frames as the model was trained on, and `sink_frames` 1. With this window you may go on as often \
as you like: another sampler, or the saved latent of this one.

The model is distilled itself, so `lora_name` is **none**. 4 steps for each frame, **CFG locked to 1**.
""",
    )
    fast, clip, vae = causal_models(graph)
    with graph.group("First five seconds"):
        positive = prompt_box(graph, clip["CLIP"], WAN_PROMPT)
        first = stream(graph, fast, positive, video_size(graph), vae)
    with graph.group("Five more"):
        positive = prompt_box(graph, clip["CLIP"], NEXT_PROMPT)
        size = video_size(graph, 161)
        streamed = stream(
            graph,
            fast,
            positive,
            size,
            vae,
            start_latent=first["latent"],
            window_frames=21,
            sink_frames=1,
        )
    save_streamed(graph, streamed)
    # Under the sampler and its frames it would be out of view.
    show_report(graph, streamed)
    return graph


def demo_stream(schema: Schema) -> Graph:
    graph = Graph(
        schema,
        "Demo, streamed frame by frame",
        "demo_stream",
        """
## Video that is shown while it is made, on any computer

The causal one of the tiny models that come with this pack. Each latent frame takes 4 evaluations, the first one 8, and one more to be \
remembered; it is decoded and shown on the sampler before the next one is begun.

`window_frames` is 7 and `sink_frames` 1: the model sees seven latent frames at once, the first one of the clip always among them, so a \
clip may be as long as you like. It was trained on clips of 33 frames and is right nine times of ten at 129.

**Interrupt** keeps what is finished.
""",
        steps=4,
    )
    with graph.group("Demo model"):
        model = graph.node("FewStepDemo", variant="causal", frames=33)
    with graph.group("Streaming"):
        streamed = graph.node(
            "FewStepStream",
            model=model["model"],
            positive=model["positive"],
            latent_image=model["latent"],
            vae=model["vae"],
            window_frames=7,
            sink_frames=1,
            seed=1,
        )
    show_report(graph, streamed)
    with graph.group("Video"):
        save_small_square(graph, streamed["images"])
    return graph


WORKFLOWS: tuple[Callable[[Schema], Graph], ...] = (
    sd15_lcm,
    sdxl_lightning,
    sdxl_hyper,
    sdxl_hyper_one,
    sdxl_dmd2,
    sdxl_turbo,
    sdxl_core_sampler,
    flux_schnell,
    flux_hyper,
    flux2_klein,
    qwen_image,
    qwen_edit,
    z_image_turbo,
    wan21_t2v,
    wan21_i2v,
    wan22_t2v,
    wan22_i2v,
    wan22_first_last,
    causal_stream,
    causal_from_picture,
    causal_continued,
    self_forcing_stream,
    ltx2,
    hunyuan15,
    animatediff,
    sdxl_skip,
    wan21_skip,
    sdxl_budget,
    sdxl_compare,
    demo,
    demo_compare,
    demo_stream,
)


def all_graphs(schema: Schema) -> Mapping[str, Graph]:
    """Every workflow by its slug. Raises ValueError where a title or slug is used twice."""
    graphs = [describe(schema) for describe in WORKFLOWS]
    for names in ([graph.slug for graph in graphs], [graph.title for graph in graphs]):
        if len(set(names)) != len(names):
            raise ValueError(f"a workflow name is used twice: {sorted(names)}")
    return {graph.slug: graph for graph in graphs}


def blueprints(schema: Schema) -> list[Blueprint]:
    """The two commonest graphs as single nodes."""
    image, video = sdxl_lightning(schema), wan22_t2v(schema)
    aliases = ("lightning", "lcm", "hyper-sd", "lightx2v", "turbo", "4 step", "few step", "fast")
    return [
        Blueprint(
            image,
            "Few-Step Text to Image",
            "A picture in the few steps that the accelerator was distilled for: SD 1.5, SDXL and"
            " other checkpoints with LCM, Lightning, Hyper-SD, DMD2.",
            aliases,
            (
                Exposed("Prompt", "text", "prompt"),
                Exposed("EmptyLatentImage", "width", "width"),
                Exposed("EmptyLatentImage", "height", "height"),
                Exposed("FewStepSampler", "seed", "seed"),
                Exposed("FewStepSampler", "steps", "steps"),
                Exposed("CheckpointLoaderSimple", "ckpt_name", "ckpt_name"),
                Exposed("FewStepAccelerator", "lora_name", "lora_name"),
                Exposed("FewStepAccelerator", "accelerator", "accelerator"),
            ),
            {"IMAGE": ("VAEDecode", "IMAGE"), "report": ("FewStepSampler", "report")},
        ),
        Blueprint(
            video,
            "Few-Step Text to Video (Wan 2.2)",
            "Wan 2.2 text to video in 4 steps: both experts with their Lightning LoRAs in one"
            " sampler.",
            aliases,
            (
                Exposed("Prompt", "text", "prompt"),
                Exposed("Video size", "width", "width"),
                Exposed("Video size", "height", "height"),
                Exposed("Video size", "length", "length"),
                Exposed("FewStepSampler", "seed", "seed"),
                Exposed("High-noise expert", "unet_name", "high_noise_model"),
                Exposed("Accelerator, high noise", "lora_name", "high_noise_lora"),
                Exposed("Low-noise expert", "unet_name", "low_noise_model"),
                Exposed("Accelerator, low noise", "lora_name", "low_noise_lora"),
                Exposed("CLIPLoader", "clip_name", "clip_name"),
                Exposed("VAELoader", "vae_name", "vae_name"),
            ),
            {"VIDEO": ("CreateVideo", "VIDEO"), "report": ("FewStepSampler", "report")},
        ),
    ]
