"""Speed-Quality Compare on the host, and the batch client end to end: a real server, killed
half-way and started again.
"""

from __future__ import annotations

import contextlib
import csv
import json
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
import torch
from comfyui_fewstep.loras.catalog import CATALOG
from comfyui_fewstep.nodes import sampler, stream
from comfyui_fewstep.nodes.compare import FewStepCompare, names_of, number_of, rows_of, speedup
from comfyui_fewstep.nodes.host.report import Report
from comfyui_fewstep.nodes.host.run import Run, RunLog
from comfyui_fewstep.nodes.host.stream import StreamRun
from comfyui_fewstep.samplers.causal import make_stream_plan
from comfyui_fewstep.samplers.plan import make_plan
from thinning import thorough

import batch_run
import compare as program
from batch_jobs import filled, make_job
from batch_store import Result, Store
from comfy_client import outputs
from comfy_server import Server, free_port, running_server
from prompts import core_sampler, node, wan_inputs, wan_model
from small_models import write_wan, write_wan_vae
from workflow_inputs import Workflow

ROOT = Path(__file__).resolve().parents[2]


def sampled(evaluations: int, seconds: str, cfg: str) -> str:
    rows = (
        ("evaluations", f"{evaluations} per sample"),
        ("seconds", f"{seconds} (0.125 per pass)"),
        ("CFG", cfg),
    )
    return Report("Few-Step Sampler", "", rows).markdown


REFERENCE, CANDIDATE = sampled(100, "12.50", "5"), sampled(4, "0.50", "1 | locked")


# ---------------------------------------------------------------- the node


def test_the_node_gives_a_sheet_figures_and_both_costs() -> None:
    frames = torch.rand(3, 64, 64, 3)
    sheet, report, _ = (
        output := FewStepCompare.execute(frames, frames * 0.9, REFERENCE, CANDIDATE)
    ).args
    assert sheet.ndim == 4 and sheet.shape[-1] == 3
    assert (
        "- seconds: reference 12.50 (0.125 per pass), candidate 0.50 (0.125 per pass)\n" in report
    )
    assert "25.00x the reference's" in report and "temporal difference" in report
    data = output.ui["fewstep_report"][0]
    assert data["speedup"] == 25.0 and data["candidate"]["CFG"] == "1 | locked"
    json.dumps(data, allow_nan=False)


def test_reports_may_be_missing_or_anything() -> None:
    image = torch.rand(1, 64, 64, 3)
    assert speedup(rows_of("- seconds: many"), rows_of(CANDIDATE)) is None
    for text in ("", "hello", "| a | b |\n|---|", "- seconds"):
        assert rows_of(text) == {}
        output = FewStepCompare.execute(image, image.clone(), text, "")
        assert (
            output.ui["fewstep_report"][0]["is_equal"]
            and output.ui["fewstep_report"][0]["psnr"] is None
        )
        json.dumps(output.ui, allow_nan=False)


def test_unlike_sizes_are_refused() -> None:
    with pytest.raises(ValueError, match="same size"):
        FewStepCompare.execute(torch.rand(1, 64, 64, 3), torch.rand(1, 64, 32, 3), "", "")


NO_NUMBERS = {"nan": float("nan"), "infinity": float("inf"), "minus infinity": -float("inf")}


@pytest.mark.parametrize("value", NO_NUMBERS.values(), ids=NO_NUMBERS)
@pytest.mark.parametrize("side", ["reference", "candidate"])
def test_pictures_without_numbers_are_refused_in_words(side: str, value: float) -> None:
    images = {"reference": torch.rand(3, 64, 64, 3), "candidate": torch.rand(3, 64, 64, 3)}
    images[side][1, 5, 7, 2] = value
    words = rf"The {side} holds values that are not numbers \(a black picture\), in 1 of 3 pictures"
    with pytest.raises(ValueError, match=words):
        FewStepCompare.execute(**images)
    with pytest.raises(ValueError, match=r"not numbers \(a black picture\): there is nothing"):
        FewStepCompare.execute(**{name: each[1:2] for name, each in images.items()})
    # Alpha is no part of the comparison.
    alpha = torch.cat([torch.rand(1, 64, 64, 3), torch.full((1, 64, 64, 1), value)], dim=-1)
    json.dumps(FewStepCompare.execute(alpha, alpha.clone()).ui, allow_nan=False)


def notes_on(reference: torch.Tensor, candidate: torch.Tensor, **others: torch.Tensor) -> list[str]:
    ui = FewStepCompare.execute(reference, candidate, **others).ui
    json.dumps(ui, allow_nan=False)
    return ui["fewstep_report"][0]["notes"]


def test_black_pictures_are_told() -> None:
    picture, clip = torch.rand(1, 64, 64, 3), torch.rand(3, 64, 64, 3)
    assert "Both are wholly black" in notes_on(picture * 0, picture * 0)[0]
    assert "The candidate is wholly black" in notes_on(picture, picture * 0)[0]
    assert "The reference is wholly black" in notes_on(picture * 0, picture)[0]
    fading = clip.clone()
    fading[2] = 0
    assert "Of the candidate's 3 pictures 1 is wholly black" in notes_on(clip, fading)[0]
    assert not any("black" in note for note in notes_on(clip, clip * 0.5))
    assert notes_on(picture, picture * 0.5) == []


@pytest.mark.parametrize("value", [0.0, 0.3, 0.5, 0.99, 1.0])
def test_equal_flat_pictures_have_an_ssim_of_1(value: float) -> None:
    # Measured, torchmetrics gives .9975 at .99: rounding leaves a variance below 0.
    flat = torch.full((1, 77, 77, 3), value)
    data = FewStepCompare.execute(flat, flat.clone()).ui["fewstep_report"][0]
    assert data["ssim"] == 1.0 and data["is_equal"]
    other = FewStepCompare.execute(flat, (flat + 0.3) % 1.0).ui["fewstep_report"][0]
    assert other["ssim"] < 1 and not other["is_equal"]


def test_reports_may_be_left_out_of_the_prompt() -> None:
    schema = FewStepCompare.define_schema()
    assert [each.id for each in schema.inputs if not each.optional] == ["reference", "candidate"]
    # Behind those that were there, in the order that saved graphs have.
    reports = ["reference_report", "candidate_report"]
    assert [each.id for each in schema.inputs][2:4] == reports
    assert [each.id for each in schema.inputs][4:] == ["candidate_2", "candidate_3", "names"]
    image = torch.rand(1, 64, 64, 3)
    assert (
        FewStepCompare.execute(image, image * 0.9).args[1]
        == (FewStepCompare.execute(image, image * 0.9, "", "").args[1])
    )


BUDGET = (
    Report(
        "Step Budget",
        "",
        (
            ("steps", "50"),
            ("evaluations", "100"),
            ("seconds", "25 (predicted)"),
            ("price", "8.4e-05 for each clip"),
        ),
    ).markdown
    + "\n\n| way | steps | seconds |\n|---|---|---|\n| seconds | 4 | 1 |\n\n- seconds: 1"
)


def test_a_step_budgets_report_stands_for_a_core_samplers_and_lends_its_price() -> None:
    image = torch.rand(1, 64, 64, 3)
    report = FewStepCompare.execute(image, image.clone(), BUDGET, CANDIDATE).args[1]
    # 0.5 s of 25 s: a fiftieth of the price, and fifty times as fast.
    assert "- seconds: reference 25 (predicted), candidate 0.50 (0.125 per pass)\n" in report
    assert (
        "- price: reference 8.4e-05 for each clip, candidate 1.68e-06 for each clip (scaled by"
        " seconds)\n" in report
    )
    assert "50.00x the reference's" in report
    swapped = FewStepCompare.execute(image, image.clone(), CANDIDATE, BUDGET).args[1]
    assert (
        "- price: reference 1.68e-06 for each clip (scaled by seconds), candidate 8.4e-05 for each"
        " clip\n" in swapped
    )


@pytest.mark.parametrize(
    ("reference", "candidate"),
    [(REFERENCE, CANDIDATE), (BUDGET, ""), ("", BUDGET), (BUDGET, BUDGET)],
)
def test_no_price_is_made_up(reference: str, candidate: str) -> None:
    image = torch.rand(1, 64, 64, 3)
    assert (
        "scaled" not in FewStepCompare.execute(image, image.clone(), reference, candidate).args[1]
    )


def test_the_strip_has_a_row_for_each_result_and_the_report_its_figures() -> None:
    clip = torch.rand(7, 32, 64, 3)
    others = {"candidate_2": clip * 0.8, "candidate_3": clip.clone()}
    names = "full: 100 evaluations\nfast\nplain: 4 evaluations"
    output = FewStepCompare.execute(clip, clip * 0.9, **others, names=names)
    _, report, strip = output.args
    # 300 for the words and five moments of 132 with 8 between; four rows of 66 and 8.
    assert strip.shape == (1, 4 * 74, 300 + 5 * 140, 3)
    data = output.ui["fewstep_report"][0]
    assert [other["name"] for other in data["others"]] == ["plain", "candidate_3"]
    assert data["others"][0]["psnr"] < data["psnr"]
    assert data["others"][1] == {"name": "candidate_3", "psnr": None, "ssim": 1.0}
    assert "\n- candidate_3: PSNR equal, SSIM 1.0000" in report
    # Each keeps its own input's name, one in front of it missing or its line blank.
    alone = FewStepCompare.execute(clip, clip * 0.9, candidate_3=clip, names="\nfast")
    assert alone.ui["fewstep_report"][0]["others"][0]["name"] == "candidate_3"
    assert names_of("\nfast: 4 steps\n\nlast\nover", ["reference", "candidate", "candidate_3"]) == [
        ("reference", ""),
        ("fast", "4 steps"),
        ("candidate_3", ""),
    ]
    # No row without its pictures: two results, one picture each.
    two = FewStepCompare.execute(clip[:1], clip[:1] * 0.9).args[2]
    assert two.shape == (1, 2 * 74, 300 + 140, 3)


def test_another_candidate_of_another_size_is_refused() -> None:
    clip = torch.rand(3, 32, 32, 3)
    with pytest.raises(ValueError, match="and candidate_2 16 x 32"):
        FewStepCompare.execute(clip, clip, candidate_2=torch.rand(3, 32, 16, 3))
    with pytest.raises(ValueError, match="reference and candidate_3 have 3 and 2 frames"):
        FewStepCompare.execute(clip, clip, candidate_3=clip[:2])
    with pytest.raises(ValueError, match="The candidate_3 holds values that are not numbers"):
        FewStepCompare.execute(clip, clip, candidate_3=clip * float("nan"))


def test_black_pictures_of_another_candidate_are_told() -> None:
    picture = torch.rand(1, 64, 64, 3)
    black = picture * 0
    assert "The candidate_2 is wholly black" in notes_on(picture, picture, candidate_2=black)[0]
    notes = notes_on(black, picture, candidate_2=picture, candidate_3=black)
    assert len(notes) == 1
    assert "reference and candidate_3 are wholly black, so it means nothing" in notes[0]


def test_rows_come_back_from_a_report_as_they_went_in() -> None:
    assert rows_of(CANDIDATE)["CFG"] == "1 | locked"
    assert rows_of(BUDGET)["seconds"] == "25 (predicted)"  # and not a line of what stands below
    assert speedup(rows_of(REFERENCE), {}) is None
    assert speedup(rows_of(REFERENCE), {"seconds": "0.00 (0)"}) is None


def sampler_report(seconds: float) -> str:
    plan = make_plan(CATALOG["hyper-sd15-4step-lora"], 0, 1.0, lambda timestep: timestep / 1000)
    return sampler.report_on_run(
        plan, Run(torch.zeros(1, 4, 8, 8), RunLog(), seconds, 4.0)
    ).markdown


def stream_report(seconds: float) -> str:
    plan = make_stream_plan(
        CATALOG["causal-forcing-framewise"], 3, lambda timestep: timestep / 1000
    )
    run = StreamRun(
        torch.zeros(1, 16, 3, 8, 8), seconds=seconds, first_seconds=seconds / 3, first_frames=1
    )
    return stream.report_on_stream(plan, run).markdown


@pytest.mark.parametrize("report_of", [sampler_report, stream_report])
@pytest.mark.parametrize("seconds", [0.0145, 0.000234, 4.26, 1234.5])
def test_seconds_come_through_a_report_to_three_figures(report_of, seconds: float) -> None:
    # Two decimals made 0.2 s against 0.0145 s twenty times as fast, which is 13.8 times.
    factor = speedup(rows_of(report_of(0.2)), rows_of(report_of(seconds)))
    assert factor == pytest.approx(0.2 / seconds, rel=0.005)


# ---------------------------------------------------------------- over HTTP


def workflow(steps: int) -> dict:
    """A small Wan clip of five frames through core's sampler, its prompt and seed from core's Text
    and Int nodes.
    """
    return {
        "words": node("PrimitiveStringMultiline", value="a prompt"),
        "joined": node("StringConcatenate", string_a=["words", 0], string_b="", delimiter=""),
        "number": node("PrimitiveInt", value=1),
        "model": wan_model("wan21_t2v.safetensors"),
        "text": node("TestPrompt", text=["joined", 0], width=4096),
        "size": wan_inputs(length=5)["size"],
        "sample": core_sampler("model", steps, seed=["number", 0]),
        "vae": node("VAELoader", vae_name="wan_vae.safetensors"),
        "decoded": node("VAEDecode", samples=["sample", 0], vae=["vae", 0]),
        "saved": node("SaveImage", images=["decoded", 0], filename_prefix="compare"),
    }


@pytest.fixture
def base(tmp_path: Path) -> Path:
    """A server's folders with a small Wan and its VAE."""
    write_wan(tmp_path / "server" / "models" / "diffusion_models" / "wan21_t2v.safetensors")
    write_wan_vae(tmp_path / "server" / "models" / "vae" / "wan_vae.safetensors")
    hold(tmp_path / "server").parent.mkdir()
    hold(tmp_path / "server").write_text("<b>not bold</b>", encoding="utf-8")
    return tmp_path / "server"


def hold(base: Path) -> Path:
    """While it is there the third prompt waits, so that the server can be killed in its fifth job,
    however fast it is.
    """
    return base / "input" / "hold.txt"


@thorough
def test_a_killed_server_and_a_failing_prompt_lose_nothing(
    host, base: Path, tmp_path: Path, capsys
) -> None:
    out, port = tmp_path / "report", free_port()
    url = f"http://127.0.0.1:{port}"
    arguments = request(tmp_path, url, out)
    packs = {"fewstep-test-support": ROOT / "tests" / "host" / "support_nodes"}
    with contextlib.ExitStack() as stack:
        server = stack.enter_context(running_server(host, base, port=port, packs=packs))
        client = stack.enter_context(
            subprocess.Popen([sys.executable, str(ROOT / "scripts" / "compare.py"), *arguments])
        )
        stack.callback(client.kill)
        wait_for(lambda: len(results(out)) >= 4)
        kill(server)
        hold(base).unlink()
        before = {path: path.read_bytes() for path in results(out)}
        server = stack.enter_context(running_server(host, base, port=port, packs=packs))
        assert client.wait(timeout=900) == 1  # the failing prompt, and only it
        assert {
            path: path.read_bytes() for path in before
        } == before  # what was done before is not done again
        rows = list(csv.DictReader((out / "results.csv").read_text(encoding="utf-8").splitlines()))
        assert len(rows) == 2 * 3 * 2 == len(results(out))
        failed = [row for row in rows if row["error"]]
        assert {row["prompt"] for row in failed} == {"fail"} and all(
            "this prompt fails" in row["error"] for row in failed
        )
        assert all(float(row["seconds"]) > 0 for row in rows if not row["error"])
        compared = [row for row in rows if row["psnr"]]
        assert len(compared) == 2 * 2 and all(
            float(row["temporal_difference"]) > 0 for row in compared
        )
        assert sum(int(row["restarts"]) for row in rows) == 1
        page = (out / "report.html").read_text(encoding="utf-8")
        assert f"servers that stopped answering during a job and came back: {url} 1 time." in page
        assert (
            "8 of 12 jobs done" in page
            and "<b>not bold</b>" not in page
            and "this prompt fails" in page
        )

        capsys.readouterr()
        assert program.main(arguments) == 1
        assert "12 jobs, 8 done before, 4 to do on 1 server" in capsys.readouterr().out
        keep(out)
        assert server.is_alive


def test_a_result_that_was_deleted_on_the_server_is_made_again(
    server: Server, tmp_path: Path
) -> None:
    # The server answers the same job from its cache for as long as it runs, file or no file.
    job = make_job(Workflow("w", workflow(2)), "a deleted picture", 17)
    said: list[str] = []

    def result(folder: str) -> tuple[Result, Store]:
        store = Store(tmp_path / folder)
        return batch_run.run_job(server.client, job, store, False, 60.0, said.append), store

    first, kept = result("first")
    for made in (server.base / "output").glob("compare*.png"):
        made.unlink()
    again, store = result("again")
    assert (first.error, again.error) == ("", "") and len(again.files) == len(first.files) == 5
    for name in first.files:
        assert (store.results / name).read_bytes() == (kept.results / name).read_bytes()
    assert len(said) == 1 and "does not have it any more (HTTP 404)" in said[0]
    assert again.seconds is not None, "computed, and not from the cache"


@pytest.mark.parametrize(
    "node",
    [
        "CLIPTextEncode",
        "CLIPTextEncodeSDXL",
        "CLIPTextEncodeSD3",
        "CLIPTextEncodeFlux",
        "CLIPTextEncodeHiDream",
        "CLIPTextEncodeHunyuanDiT",
        "CLIPTextEncodeKandinsky5",
        "TextEncodeQwenImageEdit",
        "PrimitiveString",
        "PrimitiveStringMultiline",
    ],
)
def test_every_text_of_cores_nodes_is_taken_for_a_prompt(server: Server, node: str) -> None:
    schema = server.client.get(f"/object_info/{node}")[node]
    texts = [
        name
        for kind in ("required", "optional")
        for name, (what, *_) in schema["input"].get(kind, {}).items()
        if what == "STRING"
    ]
    encoder = {"class_type": node, "inputs": {name: "old" for name in texts}}
    # A node that gives text away is behind an encoder.
    graph = (
        {"1": encoder}
        if schema["output"] != ["STRING"]
        else {"1": {"class_type": "CLIPTextEncode", "inputs": {"text": ["2", 0]}}, "2": encoder}
    )
    sampler = {"class_type": "KSampler", "inputs": {"positive": ["1", 0], "seed": 1}}
    prompt = filled(Workflow("x", {**graph, "3": sampler}), "new", 5)
    assert texts and next(one for one in prompt.values() if one["class_type"] == node)[
        "inputs"
    ] == {name: "new" for name in texts}


@thorough
def test_a_server_that_is_gone_for_good_is_told_and_another_goes_on(
    host, base: Path, server: Server, tmp_path: Path, capsys
) -> None:
    out, packs = (
        tmp_path / "report",
        {"fewstep-test-support": ROOT / "tests" / "host" / "support_nodes"},
    )
    with running_server(host, base, packs=packs) as first:
        url = first.client.url
        killer = threading.Thread(
            target=lambda: (wait_for(lambda: len(results(out)) >= 4), kill(first)), daemon=True
        )
        killer.start()
        assert program.main([*request(tmp_path, url, out), "--wait", "0"]) == 1
        killer.join(timeout=60)
    said = capsys.readouterr()
    assert f"{url} stopped answering" in said.out
    assert "not run. The same command again runs these and no others." in said.err
    done = {
        path: path.read_bytes()
        for path in results(out)
        if not json.loads(path.read_text())["error"]
    }
    assert len(done) == 2 and "not run" in (out / "report.html").read_text(encoding="utf-8")

    # The failing prompt, and only it.
    assert program.main(request(tmp_path, server.client.url, out)) == 1
    assert f"12 jobs, {len(done)} done before, {12 - len(done)} to do" in capsys.readouterr().out
    assert {path: path.read_bytes() for path in done} == done
    assert sum(not json.loads(path.read_text())["error"] for path in results(out)) == 8


def test_both_nodes_run_in_a_graph_and_their_data_land_in_the_history(server: Server) -> None:
    graph = {
        **workflow(4),
        "budget": node(
            "FewStepBudget",
            model=["model", 0],
            latent_image=["size", 0],
            experience="interactive",
            seconds=0.0,
            seconds_per_evaluation=0.0,
            price_per_hour=1.0,
        ),
        "chart": node("PreviewImage", images=["budget", 3]),
        "fast": workflow(2)["sample"],
        "fast_decoded": node("VAEDecode", samples=["fast", 0], vae=["vae", 0]),
        "compared": node(
            "FewStepCompare",
            reference=["decoded", 0],
            candidate=["fast_decoded", 0],
            reference_report=["budget", 2],
            candidate_report="",
        ),
        "sheet": node("PreviewImage", images=["compared", 0]),
    }
    entry = server.client.run(graph)
    reports = {report["node"]: report for report in outputs(entry, "fewstep_report")}
    assert (
        reports["Step Budget"]["measured"] and reports["Step Budget"]["seconds_per_evaluation"] > 0
    )
    assert reports["Speed-Quality Compare"]["ssim"] < 1
    assert "Wan" in reports["Speed-Quality Compare"]["reference"]["model"]


def test_the_reports_of_the_real_nodes_are_read_row_by_row(server: Server) -> None:
    """The shipped comparison with a price and a short full run: Step Budget's report against the
    Few-Step Sampler's.
    """
    graph = json.loads(
        (ROOT / "workflows" / "api" / "demo_compare.json").read_text(encoding="utf-8")
    )
    by_class = {node["class_type"]: id for id, node in graph.items()}
    graph[by_class["FewStepBudget"]]["inputs"]["price_per_hour"] = 1.0
    compared = next(
        id
        for id, node in graph.items()
        if node["class_type"] == "FewStepCompare"
        and node["inputs"]["candidate_report"] == [by_class["FewStepSampler"], 1]
    )
    reference = graph[graph[compared]["inputs"]["reference"][0]]["inputs"]["samples"][0]
    graph[reference]["inputs"]["steps"] = 2
    # The server runs what an output needs; here that is this comparison alone.
    graph = {
        id: node
        for id, node in graph.items()
        if node["class_type"] not in ("SaveImage", "SaveAnimatedWEBP", "PreviewAny")
    }
    entry = server.client.run(
        {**graph, "preview": {"class_type": "PreviewImage", "inputs": {"images": [compared, 0]}}}
    )
    data = entry["outputs"][compared]["fewstep_report"][0]
    assert (
        data["candidate"]["accelerator"] == "fewstep-demo-4step"
        and data["candidate"]["steps"] == "4"
    )
    assert (
        number_of(data["candidate"], "evaluations") == 4
        and number_of(data["candidate"], "seconds") > 0
    )
    assert number_of(data["reference"], "price") > 0 and data["reference"]["price"].endswith(
        " for each clip"
    )
    # As many as the comparison's own full run has: 50 steps with both prompts.
    assert data["reference"]["steps"] == "50" and data["reference"]["evaluations"] == "100"
    assert data["reference"]["seconds"].endswith(" (predicted)") and data[
        "speedup"
    ] == pytest.approx(
        number_of(data["reference"], "seconds") / number_of(data["candidate"], "seconds")
    )
    assert data["candidate"]["price"].endswith(" for each clip (scaled by seconds)")


def request(folder: Path, url: str, out: Path) -> list[str]:
    """The command line of two workflows, three prompts of which one fails, two seeds."""
    for name, steps in (("full", 8), ("fast", 2)):
        (folder / f"{name}.json").write_text(json.dumps(workflow(steps)))
    (folder / "prompts.txt").write_text("a red circle\nfail\n<b>not bold</b>\n")
    return [
        "--server",
        url,
        "--workflow",
        str(folder / "full.json"),
        "--workflow",
        str(folder / "fast.json"),
        "--prompts",
        str(folder / "prompts.txt"),
        "--seeds",
        "2",
        "--out",
        str(out),
        "--price-per-hour",
        "2",
        "--wait",
        "300",
    ]


def results(out: Path) -> list[Path]:
    return sorted((out / "results").glob("*.json"))


def wait_for(is_so, timeout: float = 300) -> None:
    deadline = time.monotonic() + timeout
    while not is_so():
        assert time.monotonic() < deadline, "waited in vain"
        time.sleep(0.05)


def kill(server: Server) -> None:
    """As a crash or the kernel does it: no word, no cleaning up."""
    os.killpg(server.process.pid, signal.SIGKILL)
    server.process.wait()


def keep(out: Path) -> None:
    """Leave the page where somebody may look at it."""
    folder = os.environ.get("FEWSTEP_KEEP")
    if folder:
        Path(folder).mkdir(parents=True, exist_ok=True)
        (Path(folder) / "compare.html").write_bytes((out / "report.html").read_bytes())
