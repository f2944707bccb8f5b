"""What only the graph knows: the loaders upstream of a node."""

from __future__ import annotations

import shutil
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from comfy_api.v0_0_2 import io
from comfy_extras.nodes_primitive import Int
from comfyui_fewstep.loras.catalog import CATALOG
from comfyui_fewstep.nodes import accelerator
from comfyui_fewstep.nodes.host.attach import with_accelerator
from comfyui_fewstep.nodes.host.model import look_at
from comfyui_fewstep.nodes.host.provenance import (
    leftover_noise_of,
    model_file,
    upstream_files,
)
from comfyui_fewstep.nodes.host.recognise import accelerated
from comfyui_fewstep.nodes.sampler import FewStepSampler, rows_on_experts
from comfyui_fewstep.samplers.plan import PlanError, make_expert_plan

import nodes as core
from prompts import accelerator as loader
from prompts import few_steps, node
from small_loras import write_lora
from small_models import conditioning, load_model, write_wan
from test_foreign_loader import core_loaded

LIGHTNING, LCM = "sdxl_lightning_4step_lora.safetensors", "lcm-lora-sdxl.safetensors"
GGUF = "Wan2.2-T2V-A14B-HighNoise-Q4_K_M.gguf"


def hidden(prompt, id="at"):
    return SimpleNamespace(prompt=prompt, unique_id=id)


def test_the_loaders_upstream_are_found_through_other_nodes_the_nearest_first():
    prompt = {
        "base": node("UnetLoaderGGUF", unet_name=GGUF),
        "clip": node("CLIPLoader", clip_name="umt5.safetensors"),
        "style": node(
            "LoraLoader",
            model=["base", 0],
            clip=["clip", 0],
            lora_name="style.safetensors",
            strength_model=0.6,
            strength_clip=1.0,
        ),
        "reroute": node("Reroute", any=["style", 0]),
        "switch": node("ComfySwitchNode", on_true=["reroute", 0], on_false=["reroute", 0]),
        "motion": node("SomeMotion", model=["switch", 0], motion_name="mm.safetensors"),
        "at": few_steps("motion"),
    }
    files = upstream_files(hidden(prompt), "model")
    assert [(file.name, file.is_lora, file.strength) for file in files] == [
        ("style.safetensors", True, 0.6),
        (GGUF, False, None),
    ]
    assert model_file(files) == GGUF


def test_the_rows_of_a_stack_of_loras_are_read_but_for_those_that_are_off():
    def row(name, on=True, strength=1.0):
        return {"on": on, "lora": name, "strength": strength}

    stack = node(
        "Power Lora Loader (rgthree)",
        model=["base", 0],
        PowerLoraLoaderHeaderWidget={"type": "PowerLoraLoaderHeaderWidget"},
        lora_1=row("a.safetensors", strength=0.7),
        lora_2=row("b.safetensors", on=False),
        lora_3=row("c.safetensors", strength=0),
    )
    prompt = {"base": node("UnetLoaderGGUF", unet_name=GGUF), "stack": stack}
    files = upstream_files(hidden({**prompt, "at": few_steps("stack")}), "model")
    assert [(file.name, file.strength) for file in files] == [("a.safetensors", 0.7), (GGUF, None)]


def test_of_two_models_neither_is_named_and_without_a_prompt_nothing_is():
    prompt = {
        "a": node("UNETLoader", unet_name="a.safetensors"),
        "b": node("UNETLoader", unet_name="b.safetensors"),
        "at": node("ComfySwitchNode", on_true=["a", 0], on_false=["b", 0]),
        "sampler": few_steps("at"),
    }
    assert model_file(upstream_files(hidden(prompt, "sampler"), "model")) == ""
    assert upstream_files(None, "model") == ()
    assert upstream_files(hidden(prompt, "7:2"), "model") == ()


def test_a_graph_that_runs_in_a_circle_ends():
    prompt = {"a": node("Reroute", any=["b", 0]), "b": node("Reroute", any=["a", 0])}
    prompt["at"] = few_steps("a")
    assert upstream_files(hidden(prompt), "model") == ()


@pytest.fixture(scope="module")
def wan(tmp_path_factory):
    """Wan's text-to-video as loaders of other packs hand it on: without a file name."""
    path = write_wan(tmp_path_factory.mktemp("wan") / "wan.safetensors", "wan21_t2v")
    patcher = load_model(path).clone()
    patcher.cached_patcher_init = None
    return patcher


@pytest.fixture
def wan_lora(models, wan):
    def write(name):
        write_lora(models / "loras" / name, wan, "native")
        return name

    return write


def gguf(name, **between):
    return {"base": node("UnetLoaderGGUF", unet_name=name), **between}


def test_crossed_experts_are_refused_by_the_name_that_the_graph_has(wan, wan_lora):
    name = wan_lora("wan2.2_t2v_lightx2v_4steps_lora_v1.1_low_noise.safetensors")
    prompt = gguf(GGUF, at=loader("base", name))
    with pytest.raises(ValueError, match=f"low-noise expert, and {GGUF} is the other one"):
        accelerator.attach_accelerator(wan, name, "auto", 1.0, hidden=hidden(prompt))
    # Without the graph there is no name, and nothing to say.
    accelerator.attach_accelerator(wan, name, "auto", 1.0)
    # Nor are the settings alone taken for the other one, or core's LoRA recognised on it.
    with pytest.raises(ValueError, match=f"low-noise expert, and {GGUF} is the other one"):
        accelerator.attach_distilled(wan, "wan22-t2v-lightning-low", hidden=hidden(prompt))
    prompt = gguf(GGUF, core=node("LoraLoaderModelOnly", model=["base", 0], lora_name=name))
    at = hidden({**prompt, "at": few_steps("core")})
    with pytest.raises(ValueError, match=f"{name} .* low-noise expert, and {GGUF} is the other"):
        accelerated(look_at(core_loaded(wan, name), at))


def test_a_single_models_accelerator_on_the_high_noise_expert_is_refused_with_the_recipes(wan):
    record = CATALOG["wan21-t2v-lightx2v-4step"]
    prompt = gguf(GGUF, load=loader("base"), at=few_steps("load"))
    latent = {"samples": torch.zeros(1, 16, 1, 8, 8)}
    with pytest.raises(PlanError) as refusal:
        run_in(prompt, with_accelerator(wan, record), latent)
    message = str(refusal.value)
    assert "never finishes a picture" in message
    assert "wan22-t2v-wan21-lora-high and wan22-t2v-wan21-lora-low" in message


def test_the_low_noise_expert_makes_stills_alone_and_is_told(wan):
    record = CATALOG["wan21-t2v-lightx2v-4step"]
    prompt = gguf(GGUF.replace("High", "Low"), at=few_steps("base"))
    latent = {"samples": torch.zeros(1, 16, 1, 8, 8)}
    output = run_in(prompt, with_accelerator(wan, record), latent)
    assert "by its name Wan 2.2's low-noise expert, and runs the whole" in output.args[1]


def run_in(prompt, model, latent):
    """The Few-Step Sampler as the host runs it in this graph."""
    prepared = FewStepSampler.PREPARE_CLASS_CLONE(
        {"hidden_inputs": {io.Hidden.unique_id: "at", io.Hidden.prompt: prompt}}
    )
    return prepared.execute(model, conditioning(width=4096, length=16), latent, 1, 0, 1.0)


# ---------------------------------------------------------------- the same accelerator twice


@pytest.fixture(scope="module")
def written(unets, tmp_path_factory) -> Path:
    """A folder with the two LoRAs."""
    folder = tmp_path_factory.mktemp("loras")
    for seed, name in ((0, LIGHTNING), (5, LCM)):
        write_lora(folder / name, unets["sdxl"], "kohya-diffusers", rank=64, seed=seed)
    return folder


def placed(name: str, written: Path, models: Path) -> str:
    """Anew for each test: those of other files may have written one of this name."""
    shutil.copyfile(written / name, models / "loras" / name)
    return name


@pytest.fixture
def lightning(models, written):
    return placed(LIGHTNING, written, models)


@pytest.fixture
def lcm(models, written):
    return placed(LCM, written, models)


def test_the_same_file_by_cores_loader_and_by_ours_is_refused_by_its_tensors(unets, lightning):
    by_core = core_loaded(unets["sdxl"], lightning, 0.8)
    with pytest.raises(ValueError, match=r"is on this model already.*at strength 0\.8"):
        accelerator.attach_accelerator(by_core, lightning, "auto", 1.0)


def test_two_accelerators_are_refused_whoever_loaded_them_by_the_graphs_names(
    unets, lightning, lcm
):
    by_core = core_loaded(unets["sdxl"], lightning, 0.8)
    prompt = {
        "base": node("CheckpointLoaderSimple", ckpt_name="sdxl.safetensors"),
        "core": node(
            "LoraLoaderModelOnly", model=["base", 0], lora_name=lightning, strength_model=0.8
        ),
        "at": loader("core", lcm),
    }
    with pytest.raises(ValueError, match="already carries sdxl-lightning-4step-lora.*lcm-lora-sdx"):
        accelerator.attach_accelerator(by_core, lcm, "auto", 1.0, hidden=hidden(prompt))
    prompt["core"]["inputs"]["strength_model"] = 0.0
    accelerator.attach_accelerator(unets["sdxl"], lcm, "auto", 1.0, hidden=hidden(prompt))


def test_a_style_of_another_loader_stays_allowed(models, unets, lightning):
    style = "my_style.safetensors"
    write_lora(models / "loras" / style, unets["sdxl"], "kohya-diffusers", only="attn2", seed=9)
    prompt = {
        "base": node("CheckpointLoaderSimple", ckpt_name="sdxl.safetensors"),
        "core": node("LoraLoaderModelOnly", model=["base", 0], lora_name=style, strength_model=1.0),
        "at": loader("core", lightning),
    }
    styled = core_loaded(unets["sdxl"], style)
    _, report = accelerator.attach_accelerator(
        styled, lightning, "auto", 1.0, hidden=hidden(prompt)
    )
    assert report.data["accelerator"] == "sdxl-lightning-4step-lora"


def test_the_sampler_knows_cores_lora_by_the_file_that_the_graph_names(unets, lightning):
    by_core = core_loaded(unets["sdxl"], lightning)
    prompt = {
        "base": node("CheckpointLoaderSimple", ckpt_name="sdxl.safetensors"),
        "core": node(
            "LoraLoaderModelOnly", model=["base", 0], lora_name=lightning, strength_model=1.0
        ),
        "at": few_steps("core"),
    }
    models = accelerated(look_at(by_core, hidden(prompt)))
    assert models.records[0].id == "sdxl-lightning-4step-lora"
    assert LIGHTNING in " ".join(models.notes)


# ---------------------------------------------------------------- in the model already


def test_settings_alone_for_a_lora_that_is_in_the_model_already(unets):
    merged, report = accelerator.attach_distilled(unets["sdxl"], "sdxl-lightning-4step-lora")
    assert merged.patches.keys() == unets["sdxl"].patches.keys()
    assert accelerated(look_at(merged)).records[0].id == "sdxl-lightning-4step-lora"
    assert "settings alone: it is in the model already" in report.markdown
    assert "whether its weights are in it was not checked" in report.markdown
    assert report.data["layers_applied"] == 0


def test_settings_for_another_base_are_refused_all_the_same(unets):
    with pytest.raises(ValueError, match="is for SD 1.5"):
        accelerator.attach_distilled(unets["sdxl"], "lcm-lora-sd15")


def test_settings_alone_for_what_core_put_on_and_not_beside_another(unets, lightning):
    by_core = core_loaded(unets["sdxl"], lightning)
    prompt = {
        "core": node("LoraLoaderModelOnly", lora_name=lightning, strength_model=1.0),
        "at": loader("core"),
    }
    at = hidden(prompt)
    model, _ = accelerator.attach_distilled(by_core, "sdxl-lightning-4step-lora", hidden=at)
    # The sampler knows, too, that the LoRA of the other loader is the accelerator itself.
    graph = {**prompt, "sample": few_steps("at")}
    assert accelerated(look_at(model, hidden(graph, "sample"))).records[0].id == (
        "sdxl-lightning-4step-lora"
    )
    with pytest.raises(ValueError, match="already carries sdxl-lightning-4step-lora"):
        accelerator.attach_distilled(by_core, "lcm-lora-sdxl", hidden=at)


# ---------------------------------------------------------------- the loader's news


def test_the_samplers_report_has_what_the_loader_had_to_tell(unets, lightning):
    model, loaded = accelerator.attach_accelerator(unets["sdxl"], lightning, "auto", 0.0)
    text = conditioning(unets["sdxl"])
    output = FewStepSampler.execute(model, text, {"samples": torch.zeros(1, 4, 8, 8)}, 1, 0, 1.0)
    report = output.args[1]
    assert f"- Accelerator Loader: {loaded.summary}" in report
    assert "- licence: " in report
    assert all(f"- {note}" in report for note in loaded.notes)
    assert "strength is 0" in report


# ---------------------------------------------------------------- which way was taken


def switched(between, **ways):
    """A plain model, LCM's LoRA of core behind one way of a node, and a loader of ours behind it.

    ways: the node's inputs that lead past that LoRA or through it, by "plain" and "core".
    """
    links = {name: [way, 0] if isinstance(way, str) else way for name, way in ways.items()}
    return {
        "plain": node("CheckpointLoaderSimple", ckpt_name="sdxl.safetensors"),
        "core": node(
            "LoraLoaderModelOnly",
            model=["plain", 0],
            lora_name="lcm-lora-sdxl.safetensors",
            strength_model=1.0,
        ),
        "between": node(between, **links),
        "at": loader("between", LIGHTNING),
    }


NOT_TAKEN = (
    switched("ComfySwitchNode", switch=False, on_false="plain", on_true="core"),
    switched("ComfySwitchNode", switch=["flag", 0], on_false="plain", on_true="core"),
    switched("ImpactSwitch", select=1, input1="plain", input2="core"),
)


@pytest.mark.parametrize("prompt", NOT_TAKEN, ids=("widget", "linked", "another pack's"))
def test_an_accelerator_behind_the_other_way_of_a_switch_refuses_nothing(
    unets, lightning, lcm, prompt
):
    prompt = {**prompt, "flag": node("PrimitiveBoolean", value=False)}
    _, report = accelerator.attach_accelerator(
        unets["sdxl"], lightning, "auto", 1.0, hidden=hidden(prompt)
    )
    assert report.data["accelerator"] == "sdxl-lightning-4step-lora"
    assert "several ways" not in report.markdown, "nothing of it is on the model"


@pytest.mark.parametrize("prompt", NOT_TAKEN, ids=("widget", "linked", "another pack's"))
def test_a_damaged_file_behind_the_other_way_refuses_nothing(models, unets, lightning, lcm, prompt):
    (models / "loras" / lcm).write_bytes(b"<!DOCTYPE html>")
    accelerator.attach_accelerator(unets["sdxl"], lightning, "auto", 1.0, hidden=hidden(prompt))


@pytest.mark.parametrize(
    "prompt",
    [
        switched("ComfySwitchNode", switch=True, on_false="plain", on_true="core"),
        switched("ImpactSwitch", select=1, input1="core", input2="core"),
        switched("ModelMergeSimple", model1="plain", model2="core", ratio=0.5),
        switched("PatchModelAddDownscale", model="core"),
        switched("ComfySoftSwitchNode", switch=False, on_true="core"),
    ],
    ids=("widget", "both ways", "merge", "one way", "the only way"),
)
def test_an_accelerator_that_every_way_leads_through_is_refused(unets, lightning, lcm, prompt):
    with pytest.raises(ValueError, match="already carries lcm-lora-sdxl.*two accelerators|Two"):
        accelerator.attach_accelerator(unets["sdxl"], lightning, "auto", 1.0, hidden=hidden(prompt))


def test_a_lora_of_that_rank_behind_a_switch_is_told_and_not_refused(unets, lightning, lcm):
    prompt = NOT_TAKEN[2]
    # By its contents alone, nothing but its rank speaks for LCM.
    by_core = core_loaded(unets["sdxl"], lcm)
    _, report = accelerator.attach_accelerator(
        by_core, lightning, "auto", 1.0, hidden=hidden(prompt)
    )
    told = "lcm-lora-sdxl.safetensors (lcm-lora-sdxl) lies on one of several ways in the graph"
    assert told in report.markdown


def test_behind_a_switch_no_model_is_named_unless_both_ways_come_from_it(monkeypatch):
    # A server knows core's extra nodes by itself; what they hand on says which links are ways.
    monkeypatch.setitem(core.NODE_CLASS_MAPPINGS, "PrimitiveInt", Int)
    prompt = {
        "a": node("UNETLoader", unet_name="a.safetensors"),
        "b": node("FewStepDemo"),
        "lora": node("LoraLoaderModelOnly", model=["a", 0], lora_name="x.safetensors"),
        "one": node("ImpactSwitch", select=["number", 0], input1=["a", 0], input2=["b", 0]),
        "two": node("ImpactSwitch", select=["number", 0], input1=["a", 0], input2=["lora", 0]),
        "number": node("PrimitiveInt", value=1),
    }
    for at, name in (("one", ""), ("two", "a.safetensors")):
        files = upstream_files(hidden({**prompt, "at": few_steps(at)}), "model")
        assert model_file(files) == name


def test_what_a_node_takes_beside_its_model_is_not_behind_it():
    prompt = {
        "base": node("UNETLoader", unet_name="qwen.safetensors"),
        "patch": node("ModelPatchLoader", name="depth.safetensors"),
        "control": node(
            "QwenImageDiffsynthControlnet", model=["base", 0], model_patch=["patch", 0]
        ),
        "at": few_steps("control"),
    }
    assert model_file(upstream_files(hidden(prompt), "model")) == "qwen.safetensors"


# ---------------------------------------------------------------- merges, by their names

MERGE = "juggernautXL_v9Rdphoto2Lightning.safetensors"


def merge_in(node_at):
    return hidden({"base": node("CheckpointLoaderSimple", ckpt_name=MERGE), "at": node_at})


def test_a_merge_alone_is_refused_with_what_to_choose(unets):
    with pytest.raises(ValueError) as refusal:
        accelerator.attach_distilled(unets["sdxl"], "auto", hidden=merge_in(loader("base")))
    assert str(refusal.value) == (
        f"lora_name is none, and {MERGE} is probably distilled: its name says Lightning. To run it,"
        " choose in accelerator which one it has in it, as its page says:"
        " sdxl-lightning-2step-lora, sdxl-lightning-4step-lora, sdxl-lightning-8step-lora,"
        " sdxl-lightning-1step-x0. Only the settings are taken, no weights."
    )
    _, report = accelerator.attach_distilled(
        unets["sdxl"], "sdxl-lightning-4step-lora", hidden=merge_in(loader("base"))
    )
    assert report.data["accelerator"] == "sdxl-lightning-4step-lora"


def test_a_lora_on_top_of_a_merge_is_attached_and_told(unets, lightning):
    _, report = accelerator.attach_accelerator(
        unets["sdxl"], lightning, "auto", 1.0, hidden=merge_in(loader("base", lightning))
    )
    assert f"{MERGE} is probably distilled already: its name says Lightning" in report.markdown


def test_the_sampler_says_that_a_merge_is_probably_distilled(unets, models):
    for model in (unets["sdxl"], core_loaded(unets["sdxl"], style_in(models, unets["sdxl"]))):
        with pytest.raises(ValueError) as refusal:
            accelerated(look_at(model, merge_in(few_steps("base"))))
        assert str(refusal.value).startswith(
            f"No accelerator is attached, and {MERGE} is probably distilled: its name says"
            " Lightning. Put an Accelerator Loader in front of this node, set lora_name to none"
        )


def style_in(models, model):
    write_lora(models / "loras" / "style.safetensors", model, "kohya-diffusers", only="attn2")
    return "style.safetensors"


def test_cores_lora_on_top_of_a_merge_runs_and_is_told(unets, lightning):
    prompt = {
        "base": node("CheckpointLoaderSimple", ckpt_name=MERGE),
        "core": node(
            "LoraLoaderModelOnly", model=["base", 0], lora_name=lightning, strength_model=1.0
        ),
        "at": few_steps("core"),
    }
    models = accelerated(look_at(core_loaded(unets["sdxl"], lightning), hidden(prompt)))
    assert models.records[0].id == "sdxl-lightning-4step-lora"
    assert f"{MERGE} is probably distilled already" in " ".join(models.notes)


# ---------------------------------------------------------------- noise that is left in a latent


def advanced(**more):
    inputs = {
        "model": ["base", 0],
        "latent_image": ["size", 0],
        "steps": 8,
        "start_at_step": 0,
        "end_at_step": 4,
        "return_with_leftover_noise": "enable",
    }
    return node("KSamplerAdvanced", **(inputs | more))


def split(slot=0, output=0, by="SplitSigmas", **more):
    """A sampler on one part of a schedule, and what hands on its latent."""
    return {
        "sigmas": node("BasicScheduler", model=["base", 0]),
        "split": node(by, sigmas=["sigmas", 0], step=2, **more),
        "first": node(
            "SamplerCustom", model=["base", 0], latent_image=["size", 0], sigmas=["split", slot]
        ),
        "pass": node("SetLatentNoiseMask", samples=["first", output], mask=["mask", 0]),
    }


EXPERTS = {"model": ["base", 0], "model_low_noise": ["base", 0]}


@pytest.mark.parametrize(
    ("between", "at", "sampler"),
    [
        ({"first": advanced()}, "first", "KSamplerAdvanced"),
        ({"first": advanced(end_at_step=10000)}, "first", ""),
        ({"first": advanced(steps=["number", 0], end_at_step=10000)}, "first", ""),
        ({"first": advanced(steps=["number", 0])}, "first", "KSamplerAdvanced"),
        ({"first": advanced(return_with_leftover_noise="disable")}, "first", ""),
        (
            {"first": advanced(), "pass": node("LatentUpscaleBy", samples=["first", 0])},
            "pass",
            "KSamplerAdvanced",
        ),
        # The second stage runs to the end.
        (
            {"first": advanced(), "second": advanced(latent_image=["first", 0], end_at_step=8)},
            "second",
            "",
        ),
        (
            {"first": advanced(), "second": node("KSampler", model=[], latent_image=["first", 0])},
            "second",
            "",
        ),
        (split(), "pass", "SamplerCustom"),
        (split(by="FewStepSchedule", **EXPERTS), "pass", "SamplerCustom"),
        (split(by="FewStepSchedule", model=["base", 0]), "pass", ""),
        (split(slot=1), "pass", ""),
        # The second output is the denoised latent.
        (split(output=1), "pass", ""),
        ({"first": node("VAEEncode", pixels=["image", 0], vae=["vae", 0])}, "first", ""),
        # Only one of a switch's ways has it.
        (
            {
                "first": advanced(),
                "switch": node("ComfySwitchNode", on_true=["first", 0], on_false=["size", 0]),
            },
            "switch",
            "",
        ),
    ],
)
def test_noise_that_a_stage_before_left_in_the_latent_is_told(wan, between, at, sampler):
    prompt = {
        "base": node("UnetLoaderGGUF", unet_name="wan.gguf"),
        "size": node("EmptyHunyuanLatentVideo"),
        **between,
        "at": few_steps("base", latent_image=[at, 0]),
    }
    assert leftover_noise_of(hidden(prompt), "latent_image") == sampler
    record = CATALOG["wan21-t2v-lightx2v-4step"]
    latent = {"samples": torch.zeros(1, 16, 1, 8, 8)}
    report = run_in(prompt, with_accelerator(wan, record), latent).args[1]
    told = f"latent_image comes from {sampler} with noise left in it"
    assert ("with noise left in it" in report) == bool(sampler)
    assert not sampler or told in report


def test_without_a_graph_no_noise_is_left():
    assert leftover_noise_of(None, "latent_image") == ""
    circle = {"a": node("Reroute", any=["b", 0]), "b": node("Reroute", any=["a", 0])}
    circle["at"] = few_steps("x", latent_image=["a", 0])
    assert leftover_noise_of(hidden(circle), "latent_image") == ""


def test_an_expert_without_steps_is_not_named():
    plan = make_expert_plan(
        CATALOG["wan22-t2v-lightning-high"], CATALOG["wan22-t2v-lightning-low"], 4, 0.5, float
    )
    assert plan.switch_step == 0
    assert rows_on_experts(plan) == (("experts", f"low-noise for steps 1 to {plan.steps}"),)
