"""scripts/build/field.py: the official templates read, and the catalogue held against them."""

from __future__ import annotations

import importlib.util
import json
import zipfile

import pytest
from comfyui_fewstep.loras.catalog import CATALOG

import field
from template_comparison import differences
from template_graph import read_graph
from template_runs import Run, runs_of

Z_TURBO = "z_image_turbo_bf16.safetensors"
LIGHTNING = "Qwen-Image-Lightning-4steps-V1.0.safetensors"


def node(id, type, values=(), inputs=(), mode=0):
    """inputs: (name, type, link) each."""
    entries = [{"name": name, "type": kind, "link": link} for name, kind, link in inputs]
    return {"id": id, "type": type, "mode": mode, "widgets_values": list(values), "inputs": entries}


def sampler(id, model, steps=8, name="res_multistep"):
    values = [1, "fixed", steps, 1, name, "simple", 1]
    return node(id, "KSampler", values, [("model", "MODEL", model)])


def graph(nodes, links, **more):
    """links: (id, from node, from output, to node, to input) each."""
    return {"nodes": nodes, "links": [[*link, "MODEL"] for link in links], **more}


def z_image(steps=8, name="res_multistep"):
    """Core's Load Diffusion Model into a KSampler."""
    loader = node(1, "UNETLoader", [Z_TURBO, "default"])
    return graph([loader, sampler(2, 1, steps, name)], [(1, 1, 0, 2, 0)])


# ---------------------------------------------------------------- reading a graph


def test_a_run_is_what_lies_between_the_loader_and_the_sampler():
    saved = graph(
        [
            node(1, "UNETLoader", ["folder\\model.safetensors", "default"]),
            node(2, "LoraLoaderModelOnly", [LIGHTNING, 0.8], [("model", "MODEL", 1)]),
            node(3, "ModelSamplingAuraFlow", [3.1], [("model", "MODEL", 2)]),
            sampler(4, 3, 4, "euler"),
        ],
        [(1, 1, 0, 2, 0), (2, 2, 0, 3, 0), (3, 3, 0, 4, 0)],
    )
    assert runs_of(read_graph(saved)) == [
        Run("model.safetensors", ((LIGHTNING, 0.8),), 4, 1, "euler", "simple", shift=3.1)
    ]


def test_a_bypassed_lora_is_passed_through_and_a_muted_loader_is_nothing():
    lora = node(2, "LoraLoaderModelOnly", [LIGHTNING, 1], [("model", "MODEL", 1)], mode=4)
    for mode, model in ((0, "m.safetensors"), (2, "")):
        loader = node(1, "UNETLoader", ["m.safetensors", "default"], mode=mode)
        links = [(1, 1, 0, 2, 0), (2, 2, 0, 3, 0)]
        (run,) = runs_of(read_graph(graph([loader, lora, sampler(3, 2)], links)))
        assert (run.model, run.loras) == (model, ())


def test_a_switch_runs_both_ways_with_all_that_hangs_on_it():
    # One lever throws the model's switch and that of the steps: 4 with the LoRA, 20 without.
    def switch(id, kind, on_false, on_true):
        inputs = [
            ("on_false", kind, on_false),
            ("on_true", kind, on_true),
            ("switch", "BOOLEAN", 9),
        ]
        return node(id, "ComfySwitchNode", [False], inputs)

    ksampler = sampler(7, 7, 30, "euler")
    ksampler["inputs"].append({"name": "steps", "type": "INT", "link": 8})
    saved = graph(
        [
            node(1, "UNETLoader", ["m.safetensors", "default"]),
            node(2, "LoraLoaderModelOnly", [LIGHTNING, 1], [("model", "MODEL", 1)]),
            node(3, "PrimitiveBoolean", [False]),
            node(4, "PrimitiveInt", [20, "fixed"]),
            node(5, "PrimitiveInt", [4, "fixed"]),
            switch(6, "MODEL", 2, 3),
            switch(8, "INT", 5, 6),
            ksampler,
        ],
        [
            (1, 1, 0, 2, 0),
            (2, 1, 0, 6, 0),
            (3, 2, 0, 6, 1),
            (5, 4, 0, 8, 0),
            (6, 5, 0, 8, 1),
            (7, 6, 0, 7, 0),
            (8, 8, 0, 7, 1),
            (9, 3, 0, 6, 2),
        ],
    )
    runs = runs_of(read_graph(saved))
    assert {(run.steps, bool(run.loras)) for run in runs} == {(4, True), (20, False)}


def in_a_subgraph(outer_values, outer_link=None):
    """A KSampler inside a subgraph whose node holds the steps as a widget, or is linked to them."""
    inside = {
        "id": "sub",
        "inputs": [{"name": "model", "type": "MODEL"}, {"name": "steps", "type": "INT"}],
        "nodes": [
            {
                **sampler(3, 10, 30),
                "inputs": [
                    {"name": "model", "type": "MODEL", "link": 10},
                    {"name": "steps", "type": "INT", "link": 11},
                ],
            }
        ],
        "links": [
            {"id": id, "origin_id": -10, "origin_slot": slot, "target_id": 3, "target_slot": slot}
            for id, slot in ((10, 0), (11, 1))
        ],
    }
    inputs = [("model", "MODEL", 1)] + ([("steps", "INT", outer_link)] if outer_link else [])
    nodes = [
        node(1, "UNETLoader", [Z_TURBO, "default"]),
        node(2, "sub", outer_values, inputs),
        node(4, "PrimitiveInt", [6, "fixed"]),
    ]
    links = [(1, 1, 0, 2, 0), (2, 4, 0, 2, 1)]
    return graph(nodes, links, definitions={"subgraphs": [inside]})


@pytest.mark.parametrize(
    ("values", "link", "steps"),
    [([8], None, 8), ([], None, 30), ([8], 2, 6)],
    ids=["its own widget", "the node's inside", "what is linked to it"],
)
def test_a_subgraph_is_opened_and_its_own_node_holds_its_values(values, link, steps):
    (run,) = runs_of(read_graph(in_a_subgraph(values, link)))
    assert (run.model, run.steps) == (Z_TURBO, steps)


def test_sigmas_that_are_written_out_are_read():
    saved = graph(
        [
            node(1, "UNETLoader", ["m.safetensors", "default"]),
            node(2, "BasicGuider", [], [("model", "MODEL", 1)]),
            node(3, "ManualSigmas", ["0.85, 0.7250, 0.4219, 0.0"]),
            node(4, "KSamplerSelect", ["euler"]),
            node(
                5,
                "SamplerCustomAdvanced",
                [],
                [("guider", "GUIDER", 2), ("sampler", "SAMPLER", 4), ("sigmas", "SIGMAS", 3)],
            ),
        ],
        [(1, 1, 0, 2, 0), (2, 2, 0, 5, 0), (3, 3, 0, 5, 2), (4, 4, 0, 5, 1)],
    )
    (run,) = runs_of(read_graph(saved))
    assert run.sigmas == (0.85, 0.725, 0.4219, 0.0) and (run.steps, run.cfg) == (3, 1.0)


# ---------------------------------------------------------------- comparing


def settings_of(run, file, id):
    found = differences(run, file, CATALOG[id])
    return {} if found is None else found.of_template


@pytest.mark.parametrize(
    ("run", "differing"),
    [
        (Run(Z_TURBO, (), 8, 1, "euler", "simple", shift=3), {}),
        # The host's own shift of Z-Image is 3 as well.
        (Run(Z_TURBO, (), 8, 1, "euler", "simple"), {}),
        (Run(Z_TURBO, (), 8, 1, "euler", "simple", shift=6), {"noise": "shift 6"}),
        (Run(Z_TURBO, (), 4, 1, "lcm", "simple", shift=3), {"steps": 4, "sampler": "lcm"}),
        (
            Run(Z_TURBO, (), 8, 2.5, "euler", "beta"),
            {"noise": "beta, the model's own shift", "cfg": 2.5},
        ),
    ],
)
def test_what_differs_is_named_on_the_templates_side(run, differing):
    assert settings_of(run, Z_TURBO, "z-image-turbo") == differing


def test_a_refining_pass_is_the_end_of_the_records_own_list():
    tail = Run("", (), 3, 1, "euler", "ManualSigmas", (0.909375, 0.725, 0.421875, 0.0))
    other = Run("", (), 3, 1, "euler", "ManualSigmas", (0.85, 0.725, 0.4219, 0.0))
    assert settings_of(tail, "x", "ltx2-19b-distilled") == {}
    assert settings_of(other, "x", "ltx2-19b-distilled") == {
        "steps": 3,
        "noise": "sigmas 0.85, 0.725, 0.4219",
    }


def test_a_strength_is_that_of_the_file_itself():
    run = Run("m", ((LIGHTNING, 0.5), ("style", 1.0)), 4, 1, "euler", "simple", shift=3)
    assert settings_of(run, LIGHTNING, "qwen-image-lightning-4step-lora") == {"strength": 0.5}


# ---------------------------------------------------------------- the report


def reported(tmp_path, saved, name="template"):
    (tmp_path / f"{name}.json").write_text(json.dumps(saved), encoding="utf-8")
    return field.report(field.files_of(field.texts_of(tmp_path, None)), None)


def test_what_is_known_and_told_is_whole(tmp_path):
    text, is_whole = reported(tmp_path, z_image())
    assert is_whole and "known as: z-image-turbo" in text and "recognised: yes" in text
    assert "told in the loader's report" in text and "NOT TOLD" not in text


def test_a_way_that_the_record_does_not_tell_is_found(tmp_path):
    text, is_whole = reported(tmp_path, z_image(steps=7, name="heun"))
    assert not is_whole
    assert (
        "differs (NOT TOLD): template steps 7, sampler heun; record steps 8, sampler euler" in text
    )


@pytest.mark.parametrize("word", ["new_turbo", "nothing_in_its_name"])
def test_a_new_few_step_model_is_found_by_its_name_or_by_how_it_is_run(tmp_path, word):
    saved = graph(
        [node(1, "UNETLoader", [f"{word}.safetensors", "default"]), sampler(2, 1, 4)],
        [(1, 1, 0, 2, 0)],
    )
    text, is_whole = reported(tmp_path, saved)
    assert not is_whole and f"{word}.safetensors\n    known as: NOT KNOWN" in text


def test_a_name_that_a_note_gives_a_file_is_no_file(tmp_path):
    note = node(
        3,
        "MarkdownNote",
        ["[x](https://a/b/new_turbo.safetensors) rename to `y_turbo.safetensors`"],
    )
    files = reported(tmp_path, {**z_image(), "nodes": [*z_image()["nodes"], note]})[0]
    assert "new_turbo.safetensors" in files and "y_turbo" not in files


def test_a_wheel_is_read_as_it_was_downloaded(tmp_path):
    wheel = tmp_path / "comfyui_workflow_templates_json-0.0.0-py3-none-any.whl"
    with zipfile.ZipFile(wheel, "w") as archive:
        archive.writestr("comfyui_workflow_templates_json/templates/a.json", json.dumps(z_image()))
        archive.writestr("comfyui_workflow_templates_json/templates/index.json", "[]")
    assert list(field.texts_of(wheel, None)) == ["a"]


def test_a_host_class_that_no_base_names_is_found(tmp_path):
    (tmp_path / "comfy").mkdir()
    (tmp_path / "comfy" / "supported_models.py").write_text(
        "class SDXL: ...\nclass Brand: ...\nmodels = [SDXL, Brand]\nmodels += [Brand]\n",
        encoding="utf-8",
    )
    assert field.unnamed_classes(tmp_path) == ["Brand"]
    assert field.classes_of(tmp_path) == {"SDXL", "Brand"}


def test_every_few_step_file_of_the_installed_templates_is_known_recognised_and_told():
    if importlib.util.find_spec("comfyui_workflow_templates") is None:
        pytest.skip("this is not a ComfyUI's Python")
    files = field.files_of(field.texts_of(None, None))
    text, is_whole = field.report(files, None)
    assert len(files) > 60, "the templates were found and read"
    assert is_whole, [line for line in text.splitlines() if "NO" in line]


def test_what_a_record_says_of_templates_differs_from_it():
    # A way that is the record's own says nothing.
    for record in CATALOG.values():
        for way in record.template_ways:
            assert way.settings, record.id
            assert way.steps not in record.steps and way.sampler != record.solver.value, record.id
            assert way.strength != record.strength, record.id
            assert str(way) in record.template_note
