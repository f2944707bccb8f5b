"""What happens where a library of requirements.txt cannot be used: only what needs it is refused,
and before anything is measured.
"""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
import torchmetrics  # noqa: F401  before matplotlib is taken away: it draws with it where it is
from comfy_execution.graph_utils import ExecutionBlocker
from comfyui_fewstep.loras.catalog import CATALOG
from comfyui_fewstep.nodes import MODULES
from comfyui_fewstep.nodes.budget import FewStepBudget
from comfyui_fewstep.nodes.compare import FewStepCompare
from comfyui_fewstep.nodes.host.attach import with_record
from comfyui_fewstep.nodes.host.files import load_vae
from comfyui_fewstep.nodes.host.model import with_model_sampling
from comfyui_fewstep.nodes.stream import FewStepStream
from comfyui_fewstep.quality import libraries
from comfyui_fewstep.samplers.budget.cost import BudgetError
from comfyui_fewstep.samplers.plan import PlanError
from thinning import thorough

import small_models
from comfy_client import JobFailed, outputs
from comfy_server import Server, running_server
from host import PACK_REQUIREMENTS, requirement_names
from lesser_python import python_without

ROOT = Path(__file__).resolve().parents[2]
SHIPPED = [
    ROOT / "__init__.py",
    *(
        path
        for folder in ("nodes", "samplers", "loras", "motion", "quality")
        for path in (ROOT / folder).rglob("*.py")
    ),
]
IMAGE = {"samples": torch.zeros(1, 4, 8, 8)}
PICTURE = torch.rand(1, 48, 64, 3, generator=torch.Generator().manual_seed(0))


# ---------------------------------------------------------------- every import


def imported(tree: ast.AST) -> set[str]:
    """The top names of everything that is imported absolutely."""
    names = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.level == 0:
            names.add(node.module.split(".")[0])
    return names - set(sys.stdlib_module_names)


def at_module_scope(tree: ast.Module) -> set[str]:
    """What is imported as soon as the file is: not within a function."""
    functions = (ast.FunctionDef, ast.AsyncFunctionDef)
    statements = [node for node in tree.body if not isinstance(node, functions)]
    return set().union(*map(imported, statements))


def test_what_comfyui_does_not_bring_is_in_requirements_and_imported_where_it_is_used(host) -> None:
    trees = [ast.parse(path.read_text(encoding="utf-8")) for path in SHIPPED]
    of_the_host = {path.stem for path in host.root.iterdir()}
    brought = set(requirement_names(host.root / "requirements.txt"))
    needed = set().union(*map(imported, trees)) - of_the_host - brought
    assert needed == set(requirement_names(PACK_REQUIREMENTS)) == {"matplotlib", "torchmetrics"}
    assert not needed & set().union(*map(at_module_scope, trees))
    # ComfyUI brings torchvision, but one built for another torch cannot be imported.
    assert "torchvision" not in set().union(*map(at_module_scope, trees))


# ---------------------------------------------------------------- one library missing


class Refusing:
    """Finds no module of a package, or breaks it: an entry of sys.meta_path."""

    def __init__(self, package: str, error: Exception | None):
        self.package, self.error = package, error

    def find_spec(self, name: str, path=None, target=None) -> None:
        if name.split(".")[0] == self.package:
            raise self.error or ModuleNotFoundError(f"No module named {name!r}", name=name)


@pytest.fixture
def without(monkeypatch):
    """without(package, error=None): from now on its import fails, as of one that is not there or
    with `error`.
    """

    def hide(package: str, error: Exception | None = None) -> None:
        for name in [name for name in sys.modules if name.split(".")[0] == package]:
            monkeypatch.delitem(sys.modules, name)
        monkeypatch.setattr(sys, "meta_path", [Refusing(package, error), *sys.meta_path])

    return hide


@pytest.fixture
def connected(monkeypatch):
    """connected(node, output): as in a graph in which this output of the node has a link."""

    def connect(node: type, output: int) -> None:
        prompt = {
            "5": {"class_type": node.__name__, "inputs": {}},
            "6": {"class_type": "PreviewImage", "inputs": {"images": ["5", output]}},
        }
        hidden = SimpleNamespace(unique_id="5", prompt=prompt)
        monkeypatch.setattr(node, "hidden", hidden, raising=False)

    return connect


def counted(model) -> tuple[object, list[int]]:
    """(the model, the rows of each of its forward passes)"""
    model, rows = model.clone(), []

    def forward(apply, options):
        rows.append(options["input"].shape[0])
        return apply(options["input"], options["timestep"], **options["c"])

    model.set_model_unet_function_wrapper(forward)
    return model, rows


def budget(model) -> tuple:
    """(steps, target_speedup, report, chart)"""
    return FewStepBudget.execute(model, IMAGE, "interactive", 0.0, 0.0, 0.0).args


def compare() -> tuple:
    """(sheet, report)"""
    return FewStepCompare.execute(PICTURE, PICTURE * 0.9, "", "").args


@pytest.mark.parametrize("package", requirement_names(PACK_REQUIREMENTS))
def test_every_node_has_its_schema_without(package: str, without) -> None:
    without(package)
    nodes = [node for module in MODULES for node in module.NODES]
    assert len({node.GET_SCHEMA().node_id for node in nodes}) == len(nodes) > 5


def test_a_chart_that_is_asked_for_and_cannot_be_drawn_is_refused_before_measuring(
    unets, without, connected
) -> None:
    model, rows = counted(unets["sd15"])
    without("matplotlib")
    connected(FewStepBudget, 3)
    with pytest.raises(BudgetError) as refused:
        budget(model)
    assert rows == []
    assert str(refused.value) == (
        "Step Budget cannot draw its chart: matplotlib is not installed in ComfyUI's Python."
        " Install it there (python -m pip install matplotlib), or let ComfyUI-Manager install this"
        " pack's requirements.txt. Or disconnect chart; the other outputs do without."
    )


@pytest.mark.parametrize("output", [0, 1, 2])
def test_steps_speedup_and_report_do_without_matplotlib(unets, without, connected, output) -> None:
    model, rows = counted(unets["sd15"])
    without("matplotlib")
    connected(FewStepBudget, output)
    steps, speedup, report, chart = budget(model)
    assert steps > 0 and speedup >= 1 and "What to do, in this order:" in report and rows
    assert isinstance(chart, ExecutionBlocker) and "matplotlib is not installed" in chart.message


def test_a_matplotlib_that_breaks_is_told_in_its_own_words(unets, without, connected) -> None:
    without("matplotlib", ValueError("numpy.dtype size changed"))
    connected(FewStepBudget, 3)
    with pytest.raises(BudgetError, match=r"cannot be imported \(ValueError: numpy.dtype size"):
        budget(unets["sd15"])


def test_step_budget_has_no_need_of_torchmetrics(unets, without, connected) -> None:
    without("torchmetrics")
    connected(FewStepBudget, 3)
    assert budget(unets["sd15"])[3].shape[-1] == 3


@pytest.mark.parametrize("output", [0, 1])
def test_without_torchmetrics_nothing_is_compared(without, connected, monkeypatch, output) -> None:
    monkeypatch.setattr(torch.Tensor, "diff", lambda *a, **k: pytest.fail("measured"))
    without("torchmetrics")
    connected(FewStepCompare, output)
    with pytest.raises(
        ValueError, match="cannot measure: torchmetrics is not .* pip install torchm"
    ):
        compare()


@pytest.mark.parametrize("output", [0, 2])
def test_without_matplotlib_the_report_is_made_and_sheet_and_strip_refused(
    without, connected, monkeypatch, output
) -> None:
    without("matplotlib")
    connected(FewStepCompare, 1)
    sheet, report, _ = compare()
    assert "PSNR" in report and "matplotlib is not installed" in sheet.message
    connected(FewStepCompare, output)
    monkeypatch.setattr(
        "comfyui_fewstep.nodes.compare.compare", lambda *a: pytest.fail("measured first")
    )
    words = "cannot draw its sheet and strip: matplotlib .* Or disconnect sheet and strip; "
    with pytest.raises(ValueError, match=words):
        compare()


def test_without_torchvision_lpips_alone_is_missing(without) -> None:
    without("torchvision", RuntimeError("operator torchvision::nms does not exist"))
    sheet, report, _ = compare()
    assert "LPIPS: not measured: torchvision is in ComfyUI's Python but cannot be" in report
    assert "torchvision::nms" in report and "SSIM: 0." in report and sheet.shape[-1] == 3


def test_a_library_that_lacks_another_is_not_said_to_be_missing_itself() -> None:
    error = ModuleNotFoundError("No module named 'kiwisolver'", name="kiwisolver")
    words = libraries.in_words("matplotlib", error)
    assert "matplotlib is in ComfyUI's Python" in words and "'kiwisolver'" in words


def test_without_pyav_a_recording_alone_is_refused_and_before_anything_is_sampled(
    tmp_path, without
) -> None:
    if not small_models.HAS_CAUSAL_WAN:
        pytest.skip("this ComfyUI has no causal Wan")
    record = CATALOG["causal-forcing-framewise"]
    causal = small_models.load_model(
        small_models.write_wan(tmp_path / "causal.safetensors", "wan21_causal")
    )
    model, rows = counted(with_record(with_model_sampling(causal, record), record))
    vae = load_vae(str(small_models.write_wan_vae(tmp_path / "vae.safetensors")))
    text, latent = small_models.conditioning(length=6), {"samples": torch.zeros(1, 16, 2, 4, 4)}

    def stream(**more):
        with torch.inference_mode():
            return FewStepStream.execute(model, text, latent, 1, 0, 0, 0, vae=vae, **more).args

    without("av")
    with pytest.raises(PlanError) as refused:
        stream(record="clip")
    assert rows == []
    assert str(refused.value) == (
        "record cannot write a video: PyAV, which ComfyUI brings, is not installed in its Python."
        " Install it there (python -m pip install av), or clear record."
    )
    without("av", ImportError("libavcodec.so.62: cannot open shared object file"))
    with pytest.raises(PlanError, match=r"cannot be imported \(ImportError: libavcodec.*clear rec"):
        stream(record="clip")
    assert rows == [] and stream()[1].shape == (5, 32, 32, 3)


# ---------------------------------------------------------------- a server that lacks them


@pytest.fixture(scope="module")
def lesser_server(host, tmp_path_factory) -> Iterator[Server]:
    """A server whose Python has no matplotlib."""
    if sys.platform == "win32":
        pytest.skip("Windows makes symbolic links for administrators alone")
    python = python_without(
        tmp_path_factory.mktemp("python"), ("matplotlib", "mpl_toolkits", "pylab")
    )
    answers = [
        subprocess.run([python, "-c", f"import {name}"], capture_output=True).returncode
        for name in ("matplotlib", "torchmetrics.functional.image")
    ]
    assert answers == [1, 0], "this Python lacks one of the two"
    with running_server(
        replace(host, python=python), tmp_path_factory.mktemp("server"), cpu=True
    ) as server:
        yield server


def graph(*shown: Sequence) -> dict:
    """The demo model under Step Budget and two plain pictures under Compare; shown: links to look
    at.
    """
    nodes = {
        "demo": ("FewStepDemo", {"prompt": "a red circle", "frames": 1, "variant": "base"}),
        "budget": (
            "FewStepBudget",
            {
                "model": ["demo", 0],
                "latent_image": ["demo", 4],
                "experience": "interactive",
                "seconds": 0.0,
                "seconds_per_evaluation": 0.0,
                "price_per_hour": 0.0,
            },
        ),
        "red": ("EmptyImage", {"width": 64, "height": 64, "batch_size": 1, "color": 0xFF0000}),
        "blue": ("EmptyImage", {"width": 64, "height": 64, "batch_size": 1, "color": 0x0000FF}),
        "compare": (
            "FewStepCompare",
            {
                "reference": ["red", 0],
                "candidate": ["blue", 0],
                "reference_report": "",
                "candidate_report": "",
            },
        ),
    }
    for number, (node, output) in enumerate(shown):
        is_picture = (node, output) in (("budget", 3), ("compare", 0))
        nodes[f"show{number}"] = (
            ("PreviewImage", {"images": [node, output]})
            if is_picture
            else ("PreviewAny", {"source": [node, output]})
        )
    return {
        id: {"class_type": class_type, "inputs": inputs}
        for id, (class_type, inputs) in nodes.items()
    }


@thorough
def test_over_http_what_needs_no_matplotlib_runs(lesser_server: Server) -> None:
    entry = lesser_server.client.run(graph(("budget", 0), ("budget", 2), ("compare", 1)))
    reports = {report["node"]: report for report in outputs(entry, "fewstep_report")}
    assert reports["Step Budget"]["measured"] and reports["Step Budget"]["steps"] > 0
    assert reports["Speed-Quality Compare"]["psnr"] > 0


@thorough
@pytest.mark.parametrize(
    ("link", "message"),
    [
        (("budget", 3), "FewStepBudget: Step Budget cannot draw its chart: matplotlib is not"),
        (
            ("compare", 0),
            "FewStepCompare: Speed-Quality Compare cannot draw its sheet and strip: matplotlib",
        ),
    ],
)
def test_over_http_a_connected_drawing_is_refused_before_anything_is_measured(
    lesser_server: Server, link: tuple, message: str
) -> None:
    lesser_server.client.forget()
    with pytest.raises(JobFailed, match=re.escape(message)) as failed:
        lesser_server.client.run(graph(link, (link[0], 2 if link[0] == "budget" else 1)))
    assert not outputs(failed.value.entry, "fewstep_report")


@thorough
def test_over_http_who_connects_the_chart_later_is_told_in_the_same_words(
    lesser_server: Server,
) -> None:
    """The host answers Step Budget from its cache then, and hands on what stands for the chart."""
    lesser_server.client.run(graph(("budget", 2)))
    events: list = []
    entry = lesser_server.client.run(graph(("budget", 2), ("budget", 3)), events.append)
    (told,) = [event["data"] for event in events if event["type"] == "execution_error"]
    assert told["node_type"] == "PreviewImage"
    assert "Step Budget cannot draw its chart: matplotlib is not" in told["exception_message"]
    assert "show1" not in entry["outputs"]
