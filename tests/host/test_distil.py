"""Distil Accelerator on the real host: what it writes and what that does, what it leaves behind,
what it refuses.
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import SimpleNamespace

import comfy.lora
import comfy.model_management
import comfy.samplers
import comfy.sd
import folder_paths
import pytest
import torch
from comfyui_fewstep.loras.accelerator import Solver
from comfyui_fewstep.loras.bases import Base
from comfyui_fewstep.loras.catalog import CATALOG
from comfyui_fewstep.loras.header import read_header
from comfyui_fewstep.loras.schedules import ShiftedFlow, Trailing
from comfyui_fewstep.nodes import accelerator, demo, distil
from comfyui_fewstep.nodes.distil import FewStepDistill
from comfyui_fewstep.nodes.host import distil as host_distil
from comfyui_fewstep.nodes.host import distil_files, distil_memory
from comfyui_fewstep.nodes.host.attach import attach_lora, with_record
from comfyui_fewstep.nodes.host.declared import known_accelerators
from comfyui_fewstep.nodes.host.distil_files import DistilFiles
from comfyui_fewstep.nodes.host.files import load_tensors
from comfyui_fewstep.nodes.host.model import accelerator_of, with_shift
from comfyui_fewstep.nodes.negative import FewStepNegative
from comfyui_fewstep.nodes.sampler import FewStepSampler
from comfyui_fewstep.nodes.skip import FewStepSkip
from comfyui_fewstep.samplers.distil import Muon
from thinning import thorough
from torch import Tensor

import small_models
from left_behind import footprint, live_bytes

FAILURE = "the network broke"


@dataclass
class Asked:
    """Inputs of the node, as it gets them but for the lists."""

    model: object
    positive: list
    negative: list
    shape: tuple[int, ...]
    changes: dict = field(default_factory=dict)

    def execute(self, **changes):
        """A run within inference mode, as the host makes it."""
        settings = {
            "steps": 4,
            "cfg": 3.0,
            "iterations": 6,
            "minutes": 0.0,
            "rank": 2,
            "learning_rate": 0.02,
            "seed": 7,
            "file_name": "made_here",
            "teacher_steps": 8,
        }
        settings |= self.changes | changes
        with torch.inference_mode():
            return FewStepDistill.execute(
                model=[self.model],
                positive=self.positive,
                negative=[self.negative],
                latent_image=[{"samples": torch.zeros(self.shape)}],
                **{name: [value] for name, value in settings.items()},
            )


def asked_of(name: str, folder: Path) -> Asked:
    """A small model of random weights with two prompts: wan, sd15 or sdxl."""
    if name == "wan":
        with torch.inference_mode():
            path = folder / "diffusion_models" / "distil_wan.safetensors"
            model = with_shift(small_models.load_model(small_models.write_wan(path)), 3.0)
        texts, shape = [small_models.conditioning(seed=seed, length=6) for seed in range(3)], 16
        return Asked(model, texts[:2], texts[2], (2, shape, 1, 4, 4))
    model = small_models.unet_patcher(name)
    texts = [small_models.conditioning(model, seed=seed) for seed in range(3)]
    return Asked(model, texts[:2], texts[2], (2, 4, 8, 8))


@pytest.fixture
def loras(models, tmp_path) -> Path:
    """An empty folder that the host takes for its first of LoRAs."""
    folders = folder_paths.folder_names_and_paths["loras"][0]
    folders.insert(0, str(tmp_path))
    yield tmp_path
    for kind in ("loras", "fewstep"):
        known = folder_paths.folder_names_and_paths.get(kind, ([],))[0]
        known[:] = [folder for folder in known if folder != str(tmp_path)]


def made_files(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir())}


# ---------------------------------------------------------------- what is made


@pytest.mark.parametrize(
    ("name", "base", "schedule"),
    [
        ("wan", Base.WAN_T2V, ShiftedFlow(3.0)),
        pytest.param("sd15", Base.SD15, Trailing(), marks=thorough),
        pytest.param("sdxl", Base.SDXL, Trailing(), marks=thorough),
    ],
)
def test_what_is_made_is_known_to_the_loader_at_once_and_runs(models, loras, name, base, schedule):
    asked = asked_of(name, models)
    lora_name = asked.execute(iterations=3).args[0]
    assert lora_name == "made_here.safetensors"
    fast, report = accelerator.attach_accelerator(asked.model, lora_name, "auto", 1.0)
    record = accelerator_of(fast)
    assert (record.id, record.bases, record.steps) == ("made-here", (base,), (4,))
    assert (record.schedule, record.solver, record.cfg) == (schedule, Solver.EULER, 1.0)
    assert "lost" not in report.markdown and not report.data.get("lost")
    sampled = FewStepSampler.execute(
        fast, asked.positive[0], {"samples": torch.zeros(asked.shape)}, 1, 0, 1.0
    )
    assert sampled.ui["fewstep_report"][0]["evaluations"] == 4
    assert torch.isfinite(sampled.args[0]["samples"]).all()


@pytest.mark.parametrize(
    ("name", "layer"),
    [
        ("wan", "diffusion_model.blocks.0.self_attn.q"),
        ("sd15", "lora_unet_down_blocks_0_attentions_0_transformer_blocks_0_attn1_to_q"),
        pytest.param(
            "sdxl",
            "lora_unet_mid_block_attentions_0_transformer_blocks_0_attn2_to_k",
            marks=thorough,
        ),
    ],
)
def test_layers_are_named_as_published_files_name_them(models, loras, name, layer):
    asked = asked_of(name, models)
    asked.execute(iterations=1)
    header = read_header(loras / "made_here.safetensors")
    assert {f"{layer}.lora_down.weight", f"{layer}.lora_up.weight", f"{layer}.alpha"} <= set(
        header.shapes
    )
    places = comfy.lora.model_lora_keys_unet(asked.model.model, {})
    layers = {key.rpartition(".lora_down")[0] for key in header.shapes if ".lora_down" in key}
    assert layers <= set(places)
    weights = {place for layer, place in places.items() if layer in layers}
    linear = {
        f"{path}.weight"
        for path, module in asked.model.model.named_modules()
        if isinstance(module, torch.nn.Linear | torch.nn.Conv2d | torch.nn.Conv3d)
    }
    # Every matrix and convolution once, but for those that no LoRA file has a name for.
    assert weights == linear & set(places.values()) and len(weights) == len(layers)


@thorough
def test_a_kernels_factors_have_the_shape_of_kohyas(models, loras):
    asked = asked_of("sd15", models)
    asked.execute(iterations=1)
    shapes = read_header(loras / "made_here.safetensors").shapes
    layer = "lora_unet_down_blocks_0_resnets_0_conv1"
    assert shapes[f"{layer}.lora_down.weight"] == (2, 32, 3, 3)
    assert shapes[f"{layer}.lora_up.weight"] == (32, 2, 1, 1)


def test_the_file_says_what_made_it_and_the_declaration_how_it_runs(models, loras):
    asked = asked_of("wan", models)
    asked.execute(iterations=2)
    facts = json.loads(read_header(loras / "made_here.safetensors").metadata["fewstep_distilled"])
    assert facts["iterations"] == 2 and facts["cfg"] == 3.0 and facts["teacher_steps"] == 8
    assert facts["class"] == "WAN21_T2V" and facts["latent"] == [2, 16, 1, 4, 4]
    declared = json.loads((loras / "made_here.fewstep.json").read_text(encoding="utf-8"))
    assert declared["steps"] == [4] and declared["schedule"] == {"type": "shifted", "shift": 3.0}
    assert "made-here" in [record.id for record in known_accelerators().own]


@torch.no_grad()
def denoised_by(model, x: Tensor, sigma: float, text, cfg: float, negative) -> Tensor:
    """What the host's own guider makes of x at one noise level."""
    seen = []

    def evaluate(denoise, noise, sigmas, extra_args=None, **options):
        seen.append(denoise(x, sigmas[:1].expand(len(x)), **(extra_args or {})))
        return noise

    guider = comfy.samplers.CFGGuider(model)
    guider.set_conds(text, negative)
    guider.set_cfg(cfg)
    sampler = comfy.samplers.KSAMPLER(evaluate)
    sigmas = torch.tensor([sigma, 0.0])
    guider.sample(torch.zeros_like(x), torch.zeros_like(x), sampler, sigmas, disable_pbar=True)
    return seen[0]


@pytest.mark.parametrize(
    ("name", "sigma"), [("wan", 0.8), pytest.param("sd15", 2.0, marks=thorough)]
)
def test_in_a_run_the_teacher_is_the_hosts_guided_model_and_the_student_the_file(
    models, loras, monkeypatch, name, sigma
):
    """The teacher at CFG 3, and the student as the file on the model at CFG 1, but for bfloat16 in
    the one and half precision in the other.
    """
    asked, seen = asked_of(name, models), {}
    x = torch.randn(asked.shape, generator=torch.Generator().manual_seed(3))
    finish = host_distil.Session._save

    def look(session, run, is_finished=False):
        finish(session, run, is_finished)
        network, level = seen["network"], torch.full((2,), sigma)
        with torch.no_grad():
            seen["teacher"] = network.teacher(x, level, [0, 1])
            seen["student"] = network.student(x, level, [0, 1])

    make = host_distil.Network.__init__

    def remember(network, *arguments):
        make(network, *arguments)
        seen["network"] = network

    monkeypatch.setattr(host_distil.Session, "_save", look)
    monkeypatch.setattr(host_distil.Network, "__init__", remember)
    asked.execute(iterations=8)
    fast, _ = attach_lora(asked.model, load_tensors(str(loras / "made_here.safetensors"))[0], 1.0)
    for who, model, cfg in (("teacher", asked.model, 3.0), ("student", fast, 1.0)):
        rows = [
            denoised_by(model, x[row : row + 1], sigma, text, cfg, asked.negative)
            for row, text in enumerate(asked.positive)
        ]
        size = (torch.cat(rows) - x).norm()
        assert (seen[who] - torch.cat(rows)).norm() / size < 0.06, who
    assert (seen["teacher"] - seen["student"]).norm() / size > 0.2, "the two are not the same"


def test_a_batch_has_a_prompt_of_its_own_in_each_row(models, loras):
    asked = asked_of("wan", models)
    widths = []

    def before(module, args, options):
        widths.append(options["context"].shape[0] if "context" in options else args[2].shape[0])

    handle = asked.model.model.diffusion_model.register_forward_pre_hook(before, with_kwargs=True)
    try:
        asked.execute(iterations=2)
    finally:
        handle.remove()
    # A teacher's evaluation has both prompts of both rows in one batch.
    assert set(widths) == {1, 2, 4}


@thorough
def test_prompts_of_lengths_that_do_not_fit_one_batch_are_learned_apart(models, loras):
    asked = asked_of("wan", models)
    asked.positive = [small_models.conditioning(seed=1, length=length) for length in (5, 7, 5)]
    report = asked.execute(iterations=4).ui["fewstep_report"][0]
    assert report["iterations"] == 4


@thorough
def test_a_student_comes_much_nearer_to_its_teacher(models, loras):
    asked = asked_of("wan", models)
    asked.shape = (4, 16, 1, 4, 4)
    report = asked.execute(iterations=40, rank=8, learning_rate=0.01).ui["fewstep_report"][0]
    checks = [distance for _, distance in report["checks"]]
    assert checks[-1] < 0.7 * checks[0], checks


def test_the_demos_prompts_are_all_different_and_of_its_world(loras):
    with torch.inference_mode():
        prompts = demo.FewStepDemoPrompts.execute(40).args[0]
        known = demo.FewStepDemo.execute(demo.SENTENCES[7], 1, "base").args[1][0][0]
    texts = [text for text, _ in prompts]
    assert len(texts) == 40 and all(text.shape == known.shape for text in texts)
    assert len({tuple(text.flatten().tolist()) for text in texts}) == 40
    assert len(set(demo.SENTENCES)) == 1890


# ---------------------------------------------------------------- what is left behind


def test_nothing_is_left_on_the_model_or_in_memory(models, loras):
    asked = asked_of("wan", models)
    asked.execute(iterations=2, file_name="first")
    before, held = footprint(asked.model), live_bytes()
    asked.execute(iterations=2, file_name="second")
    assert footprint(asked.model) == before and live_bytes() == held
    assert comfy.model_management.in_training is False


@thorough
def test_the_same_seed_makes_the_same_file_to_the_bit(models, loras):
    asked = asked_of("wan", models)
    for seed, name in ((7, "one"), (7, "two"), (8, "three")):
        asked.execute(seed=seed, file_name=name)
    files = made_files(loras)
    assert files["one.safetensors"] == files["two.safetensors"]
    assert files["one.safetensors"] != files["three.safetensors"]


@contextlib.contextmanager
def interrupted_in_the_third_iteration(asked: Asked) -> Iterator[None]:
    """Within it a run of the node's usual size in these tests is stopped there."""
    evaluations = []

    def before(module, args):
        evaluations.append(1)
        # One to reckon memory by, five walks of 8, and two iterations of 1 with checks of 4.
        if len(evaluations) == 1 + 5 * 8 + 2 * (1 + 4) + 1:
            comfy.model_management.interrupt_current_processing()

    handle = asked.model.model.diffusion_model.register_forward_pre_hook(before)
    try:
        yield
    finally:
        handle.remove()


def test_an_interrupted_run_keeps_what_was_learned_and_goes_on_to_the_same_bits(models, loras):
    asked = asked_of("wan", models)
    asked.execute(file_name="whole")
    with interrupted_in_the_third_iteration(asked):
        output = asked.execute(file_name="broken")
    report = output.ui["fewstep_report"][0]
    assert report["interrupted"] and 0 < report["iterations"] < 6
    assert f"Interrupted after {report['iterations']} of 6 iterations" in output.args[1]
    assert (loras / "broken.safetensors").exists()
    again = asked.execute(file_name="broken", resume=True).ui["fewstep_report"][0]
    assert again["iterations"] == 6 and again["resumed_at"] == report["iterations"]
    files = made_files(loras)
    assert files["broken.safetensors"] == files["whole.safetensors"]


@thorough
def test_a_killed_run_goes_on_from_its_checkpoint_to_the_same_bits(models, loras, monkeypatch):
    """Killed in its fifth iteration, after a checkpoint behind every one: what is on disk is all
    that the next run has.
    """
    monkeypatch.setattr(host_distil, "SAVE_EVERY", 0.0)
    monkeypatch.setattr(host_distil, "BETWEEN_SAVES", 0)
    asked = asked_of("wan", models)
    losses = {"whole": asked.execute(file_name="whole").ui["fewstep_report"][0]["losses"]}
    learn = host_distil.Distillation.go_on

    def killed(run, *arguments):
        if run.iteration == 4:
            raise RuntimeError(FAILURE)
        return learn(run, *arguments)

    with monkeypatch.context() as patch:
        patch.setattr(host_distil.Distillation, "go_on", killed)
        with pytest.raises(RuntimeError, match=FAILURE):
            asked.execute(file_name="killed")
    losses["killed"] = asked.execute(file_name="killed", resume=True).ui["fewstep_report"][0][
        "losses"
    ]
    assert losses["killed"] == losses["whole"]
    files = made_files(loras)
    assert files["killed.safetensors"] == files["whole.safetensors"]
    assert not [name for name in files if name.endswith(".new")]


@thorough
def test_a_finished_run_is_not_run_again_and_more_iterations_go_on(models, loras):
    asked = asked_of("wan", models)
    asked.execute()
    before = (loras / "made_here.safetensors").read_bytes()
    again = asked.execute(resume=True).ui["fewstep_report"][0]
    assert again["evaluations"] == 0
    assert (loras / "made_here.safetensors").read_bytes() == before
    more = asked.execute(resume=True, iterations=9).ui["fewstep_report"][0]
    assert (more["resumed_at"], more["iterations"]) == (6, 9)
    assert (loras / "made_here.safetensors").read_bytes() != before


def test_minutes_end_a_run_before_its_iterations(models, loras):
    asked = asked_of("wan", models)
    report = asked.execute(iterations=100_000, minutes=0.02).ui["fewstep_report"][0]
    assert 0 < report["iterations"] < 1000 and not report["interrupted"]
    # Its chart has distances, the last of the very end.
    iterations = [iteration for iteration, _ in report["checks"]]
    assert 1 <= len(iterations) <= 20 and iterations[-1] == report["iterations"]


def test_with_other_prompts_a_run_goes_on_along_new_paths(models, loras):
    asked = asked_of("wan", models)
    with interrupted_in_the_third_iteration(asked):
        asked.execute()
    begun = DistilFiles(loras, "made_here").begun
    assert begun["paths"]
    asked.positive = asked.positive[:1]  # the second's number is none any more
    output = asked.execute(resume=True)
    assert "prompts are not those of the earlier run" in output.args[1]
    report = output.ui["fewstep_report"][0]
    assert (report["resumed_at"], report["iterations"]) == (2, 6)


def test_a_run_that_diverges_says_so_and_what_was_saved_stays(models, loras, monkeypatch):
    asked = asked_of("wan", models)
    asked.execute(iterations=2)
    before = made_files(loras)
    step = Muon.step

    def diverge(optimizer, rate):
        for weight in optimizer.weights.values():
            weight.grad *= float("nan")
        step(optimizer, rate)

    monkeypatch.setattr(Muon, "step", diverge)
    with pytest.raises(ArithmeticError, match="Lower learning_rate"):
        asked.execute(resume=True, iterations=4)
    assert made_files(loras) == before


def test_a_write_that_fails_leaves_nothing_half_and_what_was_there(loras, monkeypatch):
    path = loras / "made.safetensors"
    path.write_bytes(b"before")

    def refuse(source, target):
        raise PermissionError(13, "Access is denied")

    monkeypatch.setattr(distil_files.os, "replace", refuse)
    with pytest.raises(PermissionError, match="made.safetensors in .* resume on"):
        distil_files.write_tensors(path, {"weight": torch.ones(2)}, {})
    assert made_files(loras) == {"made.safetensors": b"before"}


# ---------------------------------------------------------------- memory


def kept_for_backward(session, network, rows: int) -> int:
    """Bytes of all tensors that autograd keeps of one evaluation, but for weights."""
    x = torch.randn(rows, *session.assignment.shape)
    level = torch.full((rows,), session.assignment.course.levels[0])
    seen: dict[int, Tensor] = {}

    def keep(tensor: Tensor) -> Tensor:
        seen[tensor.untyped_storage().data_ptr()] = tensor
        return tensor

    network_weights = network.guider.model_patcher.model.parameters()
    weights = {each.untyped_storage().data_ptr() for each in network_weights}
    weights |= {each.untyped_storage().data_ptr() for each in session.lora.weights.values()}
    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        network.student(x, level, [0] * rows)
    return sum(
        tensor.untyped_storage().nbytes() for place, tensor in seen.items() if place not in weights
    )


def test_the_reckoned_activations_are_near_those_that_are_kept(models, loras, monkeypatch):
    """On a small Wan, of a batch of 8."""
    asked, seen = asked_of("wan", models), {}
    asked.shape = (8, 16, 2, 8, 8)
    refuse = host_distil.refuse_too_little
    teach = host_distil.Session.teach

    def remember(reckoning):
        seen["reckoned"] = reckoning.activations
        refuse(reckoning)

    def look(session, network):
        seen["kept"] = kept_for_backward(session, network, 8)
        teach(session, network)

    monkeypatch.setattr(host_distil, "refuse_too_little", remember)
    monkeypatch.setattr(host_distil.Session, "teach", look)
    asked.execute(iterations=1, gradient_checkpointing=False)
    assert 0.7 < seen["reckoned"] / seen["kept"] < 1.5


def test_what_a_block_is_given_by_keyword_is_reckoned_and_what_all_are_given_once():
    class Block(torch.nn.Module):
        def forward(self, hidden, text):
            return 2 * hidden

    blocks, x, text = [Block(), Block()], torch.zeros(1, 7), torch.zeros(1, 5)
    with distil_memory.measured([], blocks) as sizes:
        blocks[1](hidden=blocks[0](hidden=x, text=text), text=text)
    assert sizes.inputs == 7 + 5 + 7


def test_a_model_that_the_host_cannot_load_once_more_is_refused(models, loras, monkeypatch):
    asked = asked_of("wan", models)
    monkeypatch.setattr(type(asked.model), "is_dynamic", lambda model: True)
    asked.model.cached_patcher_init = None
    words = refused(asked)
    assert "--disable-dynamic-vram" in words and not made_files(loras)


def test_too_little_memory_is_refused_before_the_teacher_walks(models, loras, monkeypatch):
    asked = asked_of("wan", models)
    refuse = host_distil.refuse_too_little
    monkeypatch.setattr(
        host_distil, "refuse_too_little", lambda found: refuse(replace(found, free=1000))
    )
    monkeypatch.setattr(host_distil.Network, "teacher", lambda *_: pytest.fail("it went on"))
    words = refused(asked, gradient_checkpointing=False)
    assert "gradient_checkpointing" in words and "batch of 1" in words and "GiB are free" in words
    assert "gradient_checkpointing" not in refused(asked, gradient_checkpointing=True)
    assert not made_files(loras)


def test_a_model_larger_than_its_device_is_refused(models, loras, monkeypatch):
    monkeypatch.setattr(comfy.model_management, "get_total_memory", lambda *_, **__: 1000.0)
    words = refused(asked_of("wan", models))
    assert "fp8" in words and "GGUF" in words


@thorough
def test_with_gradient_checkpointing_the_same_is_learned(models, loras):
    asked = asked_of("wan", models)
    losses = [
        asked.execute(file_name=f"on_{is_on}", gradient_checkpointing=is_on).ui["fewstep_report"][
            0
        ]["losses"]
        for is_on in (True, False)
    ]
    assert losses[0] == pytest.approx(losses[1], rel=1e-3)


@thorough
def test_a_base_in_fp8_keeps_its_weights_and_has_its_lora_trained_beside_them(models, loras):
    path = small_models.write_wan(models / "diffusion_models" / "distil_fp8.safetensors")
    asked = asked_of("wan", models)
    with torch.inference_mode():
        asked.model = comfy.sd.load_diffusion_model(
            str(path), model_options={"dtype": torch.float8_e4m3fn}
        )
    weight = asked.model.model.diffusion_model.blocks[0].self_attn.q.weight
    assert weight.dtype == torch.float8_e4m3fn
    report = asked.execute(iterations=2).ui["fewstep_report"][0]
    assert report["iterations"] == 2
    before = footprint(asked.model)["weights"]
    asked.execute(iterations=2, file_name="again")
    assert footprint(asked.model)["weights"] == before
    weights = load_tensors(str(loras / "made_here.safetensors"))[0]
    assert any(weights[key].any() for key in weights if key.endswith("lora_up.weight"))


# ---------------------------------------------------------------- what is refused


def refused(asked: Asked, **changes) -> str:
    with pytest.raises(ValueError) as error:
        asked.execute(**changes)
    return str(error.value)


@pytest.mark.parametrize(
    "name",
    [
        "a/b",
        "..",
        "../up",
        "C:\\loras\\a",
        "/tmp/a",
        "",
        " ",
        ".hidden",
        "a" * 201,
        "\u5b57" * 67,
        "a\nb",
    ],
)
def test_a_name_with_a_path_in_it_is_refused(models, loras, name):
    words = refused(asked_of("wan", models), file_name=name)
    assert "file_name" in words and not made_files(loras)


def test_a_name_that_spells_a_known_accelerator_is_refused(models, loras):
    words = refused(asked_of("wan", models), file_name="lcm-lora-sdxl")
    assert "lcm-lora-sdxl" in words and "already" in words and not made_files(loras)


def test_a_file_that_is_there_is_never_written_over(models, loras):
    (loras / "made_here.safetensors").write_bytes(b"somebody's")
    asked = asked_of("wan", models)
    words = refused(asked)
    assert "made_here.safetensors" in words and "resume" not in words
    assert "resume is on" in refused(asked, resume=True)
    assert made_files(loras) == {"made_here.safetensors": b"somebody's"}


def test_a_file_of_its_own_is_only_gone_on_with_where_resume_says_so(models, loras):
    asked = asked_of("wan", models)
    asked.execute(iterations=2)
    before = made_files(loras)
    assert "turn resume on" in refused(asked, iterations=4)
    for name, value in (("rank", 3), ("cfg", 4.0), ("steps", 8), ("seed", 8)):
        words = refused(asked, resume=True, **{name: value})
        assert f"{name} was" in words and f"is {value}" in words
    assert made_files(loras) == before


def test_an_accelerated_or_distilled_model_is_refused(models, loras):
    asked = asked_of("wan", models)
    record = next(record for record in CATALOG.values() if Base.WAN_T2V in record.bases)
    asked.model = with_record(asked.model, record)
    words = refused(asked)
    assert record.id in words and "undistilled" in words


def test_a_causal_model_is_refused(models, loras):
    if not small_models.HAS_CAUSAL_WAN:
        pytest.skip("this ComfyUI has no causal Wan")
    asked = asked_of("wan", models)
    path = models / "diffusion_models" / "distil_causal.safetensors"
    asked.model = small_models.load_model(small_models.write_wan(path, "wan21_causal"))
    assert "causal" in refused(asked)


def test_one_of_two_experts_is_refused(models, loras):
    asked = asked_of("wan", models)
    path = models / "diffusion_models" / "wan2.2_t2v_high_noise_14B_fp16.safetensors"
    asked.model = small_models.load_model(small_models.write_wan(path))
    assert "experts" in refused(asked)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (
            lambda asked: FewStepSkip.execute(
                asked.model, "forecast", 1.5, 0.2, 0.15, 0.95, 3, "auto"
            ).args[0],
            "Step Skip",
        ),
        (
            lambda asked: FewStepNegative.execute(
                asked.model, asked.negative, 5.0, 0.5, 2.5, 0.0, 1.0
            ).args[0],
            "negative prompt",
        ),
    ],
)
def test_a_model_that_other_nodes_have_changed_is_refused(models, loras, change, words):
    asked = asked_of("wan", models)
    asked.model = change(asked)
    assert words in refused(asked)


@pytest.mark.parametrize(
    ("key", "value", "words"),
    [
        ("mask", torch.ones(1, 4, 4), "a mask"),
        ("area", (2, 2, 0, 0), "an area"),
        ("start_percent", 0.5, "a start and end"),
    ],
)
def test_a_prompt_that_changes_by_place_or_step_is_refused(models, loras, key, value, words):
    asked = asked_of("wan", models)
    ((text, options),) = asked.positive[1]
    asked.positive[1] = [[text, {**options, key: value}]]
    assert f"Prompt 2 of positive carries {words}" in refused(asked)


def test_without_matplotlib_only_a_connected_chart_is_refused(models, loras, monkeypatch):
    monkeypatch.setattr(distil, "matplotlib_missing", lambda: "matplotlib is not installed.")
    asked, output = asked_of("wan", models), ["distil", 2]
    prompt = {"preview": {"class_type": "PreviewImage", "inputs": {"images": output}}}
    hidden = SimpleNamespace(unique_id="distil", prompt=prompt)
    monkeypatch.setattr(FewStepDistill, "hidden", hidden, raising=False)
    assert "chart" in refused(asked) and not made_files(loras)
    prompt.clear()
    assert asked.execute(iterations=1).args[0] == "made_here.safetensors"
