"""Recognition over the whole catalogue: every published file by its name, none by a base alone,
none against its contents.
"""

from __future__ import annotations

import dataclasses
import re

import pytest
from comfyui_fewstep.loras import names, recognition
from comfyui_fewstep.loras.accelerator import Kind, PublishedFile
from comfyui_fewstep.loras.architecture import flat
from comfyui_fewstep.loras.bases import Base
from comfyui_fewstep.loras.catalog import CATALOG
from comfyui_fewstep.loras.fingerprint import fingerprint_of
from comfyui_fewstep.loras.header import Header
from comfyui_fewstep.loras.recognition import recognise, recognise_model
from published_headers import LAYOUTS, WIDTHS, header, header_of, layers_of, width_for
from real_headers import REAL_HEADERS

RECORDS = list(CATALOG.values())
LORAS = [record for record in RECORDS if record.kind is Kind.LORA]
MODELS = [record for record in RECORDS if record.kind is Kind.MODEL]
RECOGNISABLE = [record for record in LORAS if not record.only_by_choice]
LORA_BASES = sorted(
    {base for record in RECOGNISABLE for base in record.bases[:1]}, key=lambda base: base.name
)


def named_files(records):
    return [
        pytest.param(record, file, id=f"{record.id}: {file.path}")
        for record in records
        for file in record.files
        if file.name
    ]


def is_generic(file) -> bool:
    return names.is_generic(file.name.rsplit(".", 1)[0])


# ---------------------------------------------------------------- by name, within what the header a


@pytest.mark.parametrize(("record", "file"), named_files(RECOGNISABLE))
def test_every_published_lora_is_recognised_by_its_name_or_refused_with_the_candidates(
    record, file
):
    for layout in LAYOUTS:
        found = recognise(header_of(record, layout, rank=file.rank or 32), file.name, RECORDS)
        if is_generic(file):
            assert found.record is None and record in found.candidates, layout
        else:
            assert found.record is record, (layout, found.evidence)
            assert "file name" in found.evidence[-1], layout


@pytest.mark.parametrize(
    ("record", "file"),
    named_files([record for record in RECOGNISABLE if is_generic(record.files[0])]),
)
def test_a_generic_name_is_told_by_the_folder_it_lies_in(record, file):
    folder = file.path.rpartition("/")[0] or file.repo
    assert recognise(header_of(record), f"{folder}/{file.name}", RECORDS).record is record


@pytest.mark.parametrize("record", [pytest.param(record, id=record.id) for record in RECOGNISABLE])
def test_a_title_in_the_metadata_speaks_before_a_name_that_says_nothing(record):
    title = next(
        (
            file.name.rsplit(".", 1)[0]
            for file in record.files
            if file.name and not is_generic(file)
        ),
        None,
    )
    if title is None:
        pytest.skip("published under a generic name alone")
    found = recognise(
        header_of(record, metadata={"modelspec.title": title}), "aa83f1.safetensors", RECORDS
    )
    assert record in found.candidates
    assert found.record in (record, None)


def test_a_record_that_is_a_recipe_is_never_recognised():
    recipes = [record for record in LORAS if record.only_by_choice]
    assert recipes
    for recipe in recipes:
        for file in recipe.files:
            owners = [record for record in RECOGNISABLE if file in record.files]
            for shown in map(header_of, owners):
                found = recognise(shown, file.name, RECORDS)
                assert recipe not in found.candidates and found.record in (*owners, None)


ORDINARY_LORAS = (
    "my_style.safetensors",
    "pytorch_lora_weights.safetensors",
    "adapter_model.safetensors",
    "x/portrait-v2.safetensors",
    "turbo_car_style.safetensors",
    "porsche_turbo.safetensors",
    "snail_turbo_pixar.safetensors",
    "turbo_granny_cartoon.safetensors",
    "turbo_911_porsche.safetensors",
    "lightning bolts 8 steps of zen.safetensors",
    "fun_in_8_steps.safetensors",
    # Folders are named after the model that their LoRAs are for.
    "krea2-turbo/portrait.safetensors",
    "flux2 turbo/portrait.safetensors",
    "SDXL-Lightning 4 steps/portrait.safetensors",
    "lcm/portrait.safetensors",
    "wan 5b turbo/portrait.safetensors",
)


@pytest.mark.parametrize("base", LORA_BASES, ids=lambda base: base.name)
def test_an_ordinary_lora_is_never_taken_for_an_accelerator(base):
    # Nothing in it or about it speaks for one, even where the base has one accelerator alone.
    layers = layers_of(base, WIDTHS.get(base, 0))
    for name in ORDINARY_LORAS:
        found = recognise(header(layers, rank=16), name, RECORDS)
        assert found.record is None, found.evidence


@pytest.mark.parametrize("base", LORA_BASES, ids=lambda base: base.name)
def test_the_title_of_an_ordinary_lora_is_never_a_published_name(base):
    # What refuses a second accelerator: the words of a title may be a style's, as those of the last
    # three are.
    for name in (
        *ORDINARY_LORAS,
        "krea2 turbo portrait lora",
        "hyper detail 8 steps",
        "lcm portrait",
    ):
        for field in names.TITLE_METADATA:
            assert not any(
                recognition.is_titled_as_published(record, {field: name})
                for record in RECORDS
                if base in record.bases
            ), name


def test_a_published_title_is_known_as_one():
    record = CATALOG["sdxl-lightning-4step-lora"]
    assert recognition.is_titled_as_published(
        record, {"ss_output_name": "sdxl_lightning_4step_lora"}
    )
    assert not recognition.is_titled_as_published(
        record, {"ss_output_name": "sdxl_lightning_8step_lora"}
    )
    assert not recognition.is_titled_as_published(record, {})


# ---------------------------------------------------------------- the base, in every layout


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("base", LORA_BASES, ids=lambda base: base.name)
def test_every_base_is_seen_in_every_layout(base, layout):
    found = fingerprint_of(header(layers_of(base, WIDTHS.get(base, 0)), layout, rank=8))
    assert found.kind is Kind.LORA
    assert base in found.bases, found.evidence
    if base in WIDTHS:
        assert found.width == WIDTHS[base]


@pytest.mark.parametrize(
    ("layers", "bases"),
    [
        # names of diffusers, for the architectures that have names of their own in the host
        (
            [
                ("transformer_blocks.0.attn.to_q", 3072, 3072),
                ("single_transformer_blocks.0.attn.to_q", 3072, 3072),
            ],
            {Base.FLUX},
        ),
        (
            [
                ("transformer_blocks.0.attn.to_q", 1536, 1536),
                ("transformer_blocks.0.ff_context.net.0.proj", 6144, 1536),
            ],
            {Base.SD3},
        ),
        ([("layers.0.attention.to_q", 3840, 3840)], {Base.Z_IMAGE}),
        ([("transformer_blocks.0.attn.to_gate", 4096, 4096)], {Base.KREA2}),
        (
            [
                ("transformer_blocks.0.attn1.to_q", 2048, 2048),
                ("transformer_blocks.0.attn2.to_k", 2048, 2048),
            ],
            {Base.LTXV},
        ),
        ([("single_transformer_blocks.0.attn.to_qkv_mlp_proj", 27648, 3072)], {Base.FLUX2}),
        (
            [("double_blocks.0.img_mod.linear", 18432, 3072)],
            {Base.HUNYUAN_VIDEO, Base.HUNYUAN15, Base.HUNYUAN15_SR},
        ),
        ([("blocks.0.self_attn.q", 5120, 5120), ("patch_embedding", 5120, 36)], {Base.WAN22_I2V}),
        ([("blocks.0.self_attn.q", 3072, 3072)], {Base.WAN22_TI2V}),
        ([("blocks.0.self_attn.q", 256, 256)], {Base.WAN_T2V, Base.WAN22_I2V, Base.WAN22_TI2V}),
        ([("input_blocks.7.1.transformer_blocks.9.attn2.to_k", 1280, 2048)], {Base.SDXL}),
        (
            [("input_blocks.4.1.transformer_blocks.0.attn2.to_k", 640, 2048)],
            {Base.SDXL, Base.SSD1B},
        ),
        ([("somewhere.else", 8, 8)], set()),
    ],
)
def test_an_architecture_shows_itself(layers, bases):
    assert set(fingerprint_of(header(layers)).bases) == bases


def test_prefixes_and_dots_do_not_matter():
    names = (
        "diffusion_model.blocks.0.self_attn.q",
        "lora_unet_blocks_0_self_attn_q",
        "transformer.blocks.0.self_attn.q",
        "base_model.model.blocks.0.self_attn.q",
        "model.diffusion_model.blocks.0.self_attn.q",
    )
    assert {flat(name) for name in names} == {"blocks_0_self_attn_q"}
    assert flat("transformer_blocks.0.attn.to_q") == "transformer_blocks_0_attn_to_q"


# ---------------------------------------------------------------- against the contents, never


def test_no_name_makes_a_file_of_one_base_an_accelerator_of_another():
    accepted = []
    for base in LORA_BASES:
        shown = header(layers_of(base, WIDTHS.get(base, 0)))
        seen = set(fingerprint_of(shown).bases)
        for record in LORAS:
            if not seen & set(record.bases):
                for file in record.files:
                    # Not the file's own record, nor any other: its name may say what another
                    # record's words say.
                    found = recognise(shown, file.path, RECORDS).record
                    accepted += (
                        [(base.name, file.path, found.id)]
                        if found is not None and file not in found.files
                        else []
                    )
    assert accepted == []


def test_no_name_makes_a_model_of_one_base_the_distilled_one_of_another():
    models = [record for record in MODELS if not record.only_by_choice]
    accepted = []
    for base in {base for record in models for base in record.bases}:
        for record in models:
            for file in record.files if base not in record.bases else ():
                found = recognise_model(base, None, {}, file.path, RECORDS).record
                accepted += (
                    [(base.name, file.path, found.id)]
                    if found is not None and file not in found.files
                    else []
                )
    assert accepted == []


def test_no_name_makes_a_file_of_one_size_an_accelerator_of_another():
    accepted, tried = [], 0
    for record in RECOGNISABLE:
        others = {other.width for other in RECOGNISABLE if other.bases[0] is record.bases[0]} - {
            record.width,
            None,
        }
        for width in others if record.width else ():
            shown = header(layers_of(record.bases[0], width))
            tried += 1
            found = [recognise(shown, file.name, RECORDS).record for file in record.files]
            accepted += [(record.id, width, one.id) for one in found if one is not None]
    assert accepted == [] and tried > 5


def test_the_exact_size_tells_a_renamed_file():
    for id, bytes in (
        ("wan21-i2v-lightx2v-4step", 739_472_104),
        ("fastwan22-5b-lora", 660_874_456),
    ):
        base = CATALOG[id].bases[0]
        found = recognise(header_of(CATALOG[id], size=bytes), "renamed.safetensors", RECORDS, base)
        assert found.record is CATALOG[id] and found.is_certain
        assert "exactly" in found.evidence[-1]
        # One byte more is another file.
        assert (
            recognise(
                header_of(CATALOG[id], size=bytes + 1), "renamed.safetensors", RECORDS, base
            ).record
            is None
        )


def test_an_extract_of_a_rank_that_one_release_alone_has_tells_a_renamed_file():
    found = recognise(
        header_of(CATALOG["ltx25-22b-distilled-lora"], rank=450), "renamed.safetensors", RECORDS
    )
    # 384 and 111 are the ranks of the others; one of their files has no known rank, so nothing is
    # proven by 450 alone.
    assert found.record is None or found.record.id == "ltx25-22b-distilled-lora"
    turbo = recognise(
        header_of(CATALOG["wan22-5b-turbo-lora"], rank=64, differences=True),
        "renamed.safetensors",
        RECORDS,
    )
    assert turbo.record is CATALOG["wan22-5b-turbo-lora"] and turbo.is_certain
    # The same rank without whole differences may be anybody's LoRA.
    assert (
        recognise(
            header_of(CATALOG["wan22-5b-turbo-lora"], rank=64), "renamed.safetensors", RECORDS
        ).record
        is None
    )


# The last three above what anybody trains.
@pytest.mark.parametrize("rank", [7, 65, 257, 300, 1000])
@pytest.mark.parametrize("base", LORA_BASES, ids=lambda base: base.name)
def test_an_extract_of_a_rank_that_no_release_has_proves_nothing(base, rank):
    assert rank not in {file.rank for record in LORAS for file in record.files}
    found = recognise(
        header(layers_of(base, WIDTHS.get(base, 0)), rank=rank, differences=True),
        "renamed.safetensors",
        RECORDS,
    )
    assert found.record is None and not found.is_certain, found.evidence


@pytest.mark.parametrize(
    ("name", "id"),
    [
        ("sdxl/lightning_8step_lora.safetensors", "sdxl-lightning-8step-lora"),
        ("Hyper SDXL 12 steps CFG.safetensors", "hyper-sdxl-12step-cfg-lora"),
        ("hyper-sdxl-8steps.safetensors", "hyper-sdxl-8step-lora"),
        ("TCD_sdxl.safetensors", "tcd-lora-sdxl"),
        ("lcm_8steps_sdxl.safetensors", "lcm-lora-sdxl"),
        ("dmd2_sdxl_4step.safetensors", "dmd2-sdxl-4step-lora"),
        ("pcm normalcfg 8step.safetensors", "pcm-sdxl-8step-normalcfg-lora"),
        ("sdxl_lightning_3step.safetensors", None),
        ("sdxl_lightning.safetensors", None),
        ("lightning_hyper_merge_8step.safetensors", None),
    ],
)
def test_words_of_a_path_speak_for_a_release(name, id):
    # The layers and the rank of every accelerator for SDXL whose header is known.
    found = recognise(REAL_HEADERS["sdxl-lightning"].header(0), name, RECORDS)
    assert (found.record.id if found.record else None) == id, found.evidence


# ---------------------------------------------------------------- words against contents


def lightning(**changes) -> Header:
    """The header of SDXL-Lightning's 4-step LoRA, changed. shapes: a function of its shapes."""
    real = REAL_HEADERS["sdxl-lightning"]
    shapes = changes.pop("shapes", dict)(real.shapes)
    return Header(shapes, changes.pop("metadata", {}), 0)


def at_rank(shapes, rank: int):
    return {
        key: tuple(rank if size == 64 else size for size in shape) for key, shape in shapes.items()
    }


def without(shapes, pattern: str):
    return {key: shape for key, shape in shapes.items() if not re.search(pattern, key)}


TEXT_ENCODER_KEY = "lora_te1_text_model_encoder_layers_0_mlp_fc1.lora_down.weight"


@pytest.mark.parametrize(
    ("header", "doubt"),
    [
        (lightning(), None),
        (lightning(metadata={"format": "pt"}), None),
        (lightning(shapes=lambda shapes: at_rank(shapes, 16)), "its rank is 16, and that of .* 64"),
        (
            lightning(shapes=lambda shapes: {**shapes, TEXT_ENCODER_KEY: (64, 768)}),
            "changes the text encoder, which no accelerator does",
        ),
        (
            lightning(metadata={"ss_network_module": "networks.lora"}),
            "trained with kohya's scripts, by its metadata",
        ),
        (lightning(metadata={"training_info": "{}"}), "trained with AI Toolkit"),
        (lightning(metadata={"ot_branch": "master"}), "trained with OneTrainer"),
        (
            lightning(shapes=lambda shapes: without(shapes, "attn2_to_q")),
            "it adapts 718 layers, and sdxl-lightning-4step-lora 788",
        ),
        (
            lightning(
                shapes=lambda shapes: {
                    key.replace("lora_unet_", "lora_transformer_"): shape
                    for key, shape in shapes.items()
                }
            ),
            r"its keys are lora_transformer_\*.lora_down, and those of .* lora_unet_\*.lora_down",
        ),
    ],
)
def test_contents_speak_against_the_words_of_a_name(header, doubt):
    found = recognise(header, "my_xl_lightning_4step.safetensors", RECORDS)
    record = CATALOG["sdxl-lightning-4step-lora"]
    if doubt is None:
        assert found.record is record
        return
    assert found.record is None and found.suspected == (record,) and found.candidates[0] is record
    assert re.search(doubt, found.doubt) and found.evidence[-1] == found.doubt
    # The name that the release was published under is no word of a style's.
    published = recognise(header, "sdxl_lightning_4step_lora.safetensors", RECORDS)
    assert published.record is record


@pytest.mark.parametrize(
    ("name", "word"),
    [
        ("lightning_style_4step_xl.safetensors", "style"),
        ("xl lightning portrait 4 steps.safetensors", "portrait"),
        ("old_xl_lightning_4step_v2_final.safetensors", None),
        ("sdxl_lightning_4step_lora_for_my_cats.safetensors", None),
    ],
)
def test_a_word_that_no_published_name_has_speaks_against_the_others(name, word):
    found = recognise(lightning(), name, RECORDS)
    if word is None:
        assert found.record is CATALOG["sdxl-lightning-4step-lora"], found.evidence
    else:
        assert found.record is None and found.doubt == f"no published name has the word {word}"


def test_a_lora_without_convolutions_is_no_accelerator_of_a_unet():
    attention = without(REAL_HEADERS["tcd-sdxl"].shapes, "resnets|samplers")
    # A record of which no more is known than its rank.
    file = dataclasses.replace(CATALOG["tcd-lora-sdxl"].files[0], make=None)
    record = dataclasses.replace(CATALOG["tcd-lora-sdxl"], id="tcd-of-old", files=(file,))
    found = recognise(Header(attention, {}), "tcd_sdxl.safetensors", [record])
    assert "leaves the convolutions as they are" in found.doubt
    whole = recognise(REAL_HEADERS["tcd-sdxl"].header(0), "tcd_sdxl.safetensors", [record])
    assert whole.record is record


def test_where_the_rank_of_a_release_is_not_known_its_words_do_not_decide():
    found = recognise(
        header(layers_of(Base.Z_IMAGE, 3840), rank=16),
        "zimage_distill_8_steps_look.safetensors",
        RECORDS,
    )
    assert found.record is None
    assert "is not known, so nothing in the file bears that out" in found.doubt


def test_the_likeliest_candidates_are_named_first():
    """In 32 bits, as Hyper-SD's files alone are."""
    found = recognise(REAL_HEADERS["hyper-sdxl"].header(0), "renamed.safetensors", RECORDS)
    families = [record.family for record in found.candidates]
    assert families[: families.count("Hyper-SD")] == ["Hyper-SD"] * families.count("Hyper-SD")
    assert len(set(families)) > 4


@pytest.mark.parametrize(
    ("name", "id"),
    [
        ("sdxl_lightning_4step_lora (1).safetensors", "sdxl-lightning-4step-lora"),
        ("sdxl_lightning_8step_lora(2).safetensors", "sdxl-lightning-8step-lora"),
        # As its repository is called, where every trainer calls a file the same.
        ("lcm-lora-sdxl.safetensors", "lcm-lora-sdxl"),
        ("TCD-SDXL-LoRA.safetensors", "tcd-lora-sdxl"),
        ("loras/TCD-SDXL-LoRA/pytorch_lora_weights.safetensors", "tcd-lora-sdxl"),
        ("loras/pytorch_lora_weights.safetensors", None),
    ],
)
def test_a_file_is_known_under_the_name_it_is_kept_by(name, id):
    found = recognise(lightning(shapes=lambda shapes: at_rank(shapes, 8)), name, RECORDS)
    assert (found.record.id if found.record else None) == id, found.evidence


# ---------------------------------------------------------------- models that are themselves distil


def model_header(record, path):
    return recognise_model(record.bases[0], width_for(record) or None, {}, path, RECORDS)


@pytest.mark.parametrize(
    ("record", "file"), named_files([record for record in MODELS if not record.only_by_choice])
)
def test_every_distilled_model_is_recognised_by_its_file(record, file):
    found = model_header(record, file.name)
    shared = [
        other
        for other in MODELS
        if not other.only_by_choice and any(file.name == theirs.name for theirs in other.files)
    ]
    if is_generic(file) or len(shared) > 1:
        assert found.record is None
        found = model_header(record, file.path)
        assert found.record is record or is_generic(file)
    else:
        assert found.record is record, found.evidence
    assert found.look_alike is None


@pytest.mark.parametrize(
    ("base", "name", "id"),
    [
        (
            Base.HUNYUAN15,
            "hunyuanvideo1.5_480p_t2v_cfg_distilled_fp16.safetensors",
            "hunyuan15-cfg-distilled",
        ),
        (
            Base.HUNYUAN15,
            "hunyuanvideo1.5_480p_t2v_distilled.safetensors",
            "hunyuan15-cfg-distilled",
        ),
        (Base.FLUX2, "flux-2-klein-base-4b-fp8.safetensors", "flux2-klein-base"),
        (Base.Z_IMAGE, "z_image_bf16.safetensors", "z-image-base"),
        (Base.Z_IMAGE, "z-image-de-turbo_bf16.safetensors", "z-image-de-turbo"),
        (Base.Z_IMAGE, "Z-Image-Turbo/z_image_bf16.safetensors", "z-image-base"),
        (Base.KREA2, "krea2_raw_fp8.safetensors", "krea2-raw"),
        (Base.KREA2, "krea2-turbo/krea2_raw_bf16.safetensors", "krea2-raw"),
        (
            Base.HUNYUAN15,
            "step distilled/hunyuanvideo1.5_480p_t2v_distilled.safetensors",
            "hunyuan15-cfg-distilled",
        ),
    ],
)
def test_look_alikes_are_told_from_few_step_models(base, name, id):
    found = recognise_model(base, None, {}, name, RECORDS)
    assert found.record is None
    assert found.look_alike is not None and found.look_alike.id == id


@pytest.mark.parametrize(
    "name",
    [
        "",
        "model.safetensors",
        "flux1-dev.safetensors",
        "juggernautXL_v9.safetensors",
        "wan2.1_t2v_14B_fp8.safetensors",
        "wan2.2_t2v_high_noise_14B_fp8_scaled.safetensors",
        "qwen_image_fp8_e4m3fn.safetensors",
    ],
)
def test_an_undistilled_model_is_not_recognised(name):
    for base in Base:
        found = recognise_model(base, None, {}, name, RECORDS)
        assert found.record is None, (base, found.evidence)


@pytest.mark.parametrize(
    ("base", "path"),
    [
        (Base.SDXL, "SDXL-Turbo/sd_xl_base_1.0.safetensors"),
        (Base.LTXAV, "ltx-2-19b-distilled/ltx-2-19b-dev.safetensors"),
        (Base.WAN_T2V, "lightx2v_4step/wan2.1_t2v_14B_fp16.safetensors"),
    ],
)
def test_the_folder_of_a_distilled_model_distils_no_other(base, path):
    found = recognise_model(base, None, {}, path, RECORDS)
    assert found.record is None, found.evidence
    # Where the name itself is generic, the folder is all there is.
    folder = path.rpartition("/")[0]
    assert (
        recognise_model(base, None, {}, f"{folder}/diffusion_pytorch_model.safetensors", RECORDS)
        .evidence[-1]
        .startswith("path: ")
    )


def test_a_users_own_model_goes_before_the_look_alikes():
    own = dataclasses.replace(
        CATALOG["z-image-turbo"], id="mine", files=(PublishedFile("", "z_image_mine.safetensors"),)
    )
    found = recognise_model(Base.Z_IMAGE, None, {}, "z_image_mine.safetensors", [*RECORDS, own])
    assert found.record is own and found.look_alike is None
    assert (
        recognise_model(Base.Z_IMAGE, None, {}, "z_image_mine.safetensors", RECORDS).look_alike.id
        == "z-image-base"
    )


def test_a_file_called_image_is_no_z_image():
    assert (
        recognise_model(Base.Z_IMAGE, None, {}, "my_image_model.safetensors", RECORDS).look_alike
        is None
    )


def test_a_title_alone_tells_a_distilled_model():
    for id in (
        "sdxl-turbo",
        "z-image-turbo",
        "wan21-i2v-lightx2v-4step-model",
        "ltx23-22b-distilled",
    ):
        record = CATALOG[id]
        title = record.files[0].name.removesuffix(".safetensors")
        found = recognise_model(
            record.bases[0],
            width_for(record) or None,
            {"modelspec.title": title},
            "a1.safetensors",
            RECORDS,
        )
        assert (
            found.record is record and found.evidence[-1] == f"metadata modelspec.title: {title!r}"
        )
    # A title that says nothing leaves it open.
    assert (
        recognise_model(
            Base.SDXL, None, {"modelspec.title": "my merge"}, "a1.safetensors", RECORDS
        ).record
        is None
    )


@pytest.mark.parametrize(
    ("base", "name", "owner"),
    [
        (Base.SDXL, "Hyper-SD15-8steps-lora.safetensors", "hyper-sd15-8step-lora"),
        (
            Base.SDXL,
            "Qwen-Image-Lightning-4steps-V1.0.safetensors",
            "qwen-image-lightning-4step-lora",
        ),
        (Base.FLUX, "Wan21_AccVid_T2V_14B_lora_rank32_fp16.safetensors", "accvideo-wan21-t2v-lora"),
    ],
)
def test_a_lora_with_anothers_published_name_is_refused_naming_both(base, name, owner):
    found = recognise(header(layers_of(base, WIDTHS.get(base, 0))), name, RECORDS)
    assert found.record is None and not found.candidates
    assert (
        base.label in found.evidence[0]
        and f"its name is that of {owner}, which is for" in found.evidence[-1]
    )


def test_a_model_with_anothers_published_name_is_refused_naming_both():
    found = recognise_model(
        Base.WAN_T2V, 5120, {}, "wan2.1_i2v_480p_lightx2v_4step.safetensors", RECORDS
    )
    assert found.record is None
    assert (
        "its name is that of wan21-i2v-lightx2v-4step-model, which is for Wan 2.1 image-to-video"
        in found.evidence[-1]
    )


# ---------------------------------------------------------------- declared by the user


def declared(id: str, *paths: str):
    """The user's own record of a file, for the base and the size of a record of the catalogue."""
    return dataclasses.replace(
        CATALOG[id],
        id="my-own",
        files=tuple(PublishedFile("", path) for path in paths),
        name_words=(),
        is_declared=True,
    )


@pytest.mark.parametrize(
    ("path", "lies", "elsewhere"),
    [
        # Under a name that every trainer gives, and that the catalogue's own repositories give.
        (
            "pytorch_lora_weights.safetensors",
            "a/pytorch_lora_weights.safetensors",
            "lora.safetensors",
        ),
        (
            "mine/high_noise_model.safetensors",
            "Mine\\high_noise_model.safetensors",
            "other/high_noise_model.safetensors",
        ),
    ],
)
def test_a_declared_file_of_a_generic_name_is_the_declared_record(path, lies, elsewhere):
    for id in ("lcm-lora-sdxl", "wan22-t2v-lightning-high"):
        own = declared(id, path)
        found = recognise(header_of(CATALOG[id]), lies, [*RECORDS, own])
        assert found.record is own
        assert found.evidence[-1] == f"declared for {path.rpartition('/')[2]}"
        assert recognise(header_of(CATALOG[id]), elsewhere, [*RECORDS, own]).record is None


def test_a_declared_file_goes_before_its_size_and_its_published_name():
    record = CATALOG["fastwan22-5b-lora"]
    own = declared(record.id, record.files[0].name)
    shown = header_of(record, size=660_874_456)
    assert recognise(shown, record.files[0].name, RECORDS).record is record
    assert recognise(shown, record.files[0].name, [*RECORDS, own]).record is own


def test_a_declared_file_of_another_base_is_not_the_declared_record():
    own = declared("lcm-lora-sdxl", "pytorch_lora_weights.safetensors")
    shown = header_of(CATALOG["lcm-lora-sd15"])
    found = recognise(shown, "pytorch_lora_weights.safetensors", [*RECORDS, own])
    assert found.record is None and own not in found.candidates


def test_two_declarations_for_one_file_leave_the_choice():
    both = [
        dataclasses.replace(declared("lcm-lora-sdxl", "mine.safetensors"), id=id)
        for id in ("one", "two")
    ]
    found = recognise(header_of(CATALOG["lcm-lora-sdxl"]), "mine.safetensors", [*RECORDS, *both])
    assert found.record is None and found.candidates == tuple(both)


def test_a_declared_model_of_a_generic_name_is_the_declared_record():
    own = declared("z-image-turbo", "mine/diffusion_pytorch_model.safetensors")
    path = "mine/diffusion_pytorch_model.safetensors"
    assert recognise_model(Base.Z_IMAGE, None, {}, path, [*RECORDS, own]).record is own
    assert recognise_model(Base.Z_IMAGE, None, {}, path[5:], [*RECORDS, own]).record is None


# ---------------------------------------------------------------- high and low


@pytest.mark.parametrize(
    ("name", "id"),
    [
        ("sdxl_lightning_4step_lora_low-rank.safetensors", "sdxl-lightning-4step-lora"),
        ("sdxl_lightning_4step_lora_high_quality.safetensors", "sdxl-lightning-4step-lora"),
        ("Hyper-SDXL-8steps-lora (low vram).safetensors", "hyper-sdxl-8step-lora"),
        # Of no base here, but said of the experts.
        ("sdxl_lightning_4step_lora_high_noise.safetensors", None),
    ],
)
def test_high_and_low_are_no_experts_where_there_are_none(name, id):
    found = recognise(REAL_HEADERS["sdxl-lightning"].header(0), name, RECORDS)
    assert (found.record.id if found.record else None) == id, found.evidence
    assert "high" not in found.evidence[-1] and "low" not in found.evidence[-1]


@pytest.mark.parametrize(
    ("name", "id"),
    [
        ("my_wan22_t2v_lightning_highnoise.safetensors", "wan22-t2v-lightning-high"),
        ("my-wan22-t2v-Lightning-HighNoise.safetensors", "wan22-t2v-lightning-high"),
        ("my wan22 t2v lightning low noise.safetensors", "wan22-t2v-lightning-low"),
        ("My-Wan22-T2V-Lightning-HIGH-v3.safetensors", "wan22-t2v-lightning-high"),
        ("low_vram/my_wan22_t2v_lightning_highnoise.safetensors", "wan22-t2v-lightning-high"),
        ("my_wan22_t2v_lightning_lownoise_low_vram.safetensors", "wan22-t2v-lightning-low"),
        ("my_wan22_t2v_lightning_high_noise_low_vram.safetensors", "wan22-t2v-lightning-high"),
        ("t2v lightning low vram/high_noise_model.safetensors", "wan22-t2v-lightning-high"),
        # Neither or both: nothing is told.
        ("my_wan22_t2v_lightning.safetensors", None),
        ("my_wan22_t2v_lightning_high_low.safetensors", None),
    ],
)
def test_an_expert_is_told_by_the_files_own_name(name, id):
    found = recognise(header_of(CATALOG["wan22-t2v-lightning-high"]), name, RECORDS)
    assert (found.record.id if found.record else None) == id, found.evidence


WAN21 = "Wan21_T2V_14B_lightx2v_cfg_step_distill_lora_rank64"


@pytest.mark.parametrize("more", ["_high_quality", "_low_vram", "-LOW", " copy"])
def test_a_copy_of_a_published_file_is_that_release_whatever_stands_behind_its_name(more):
    record = CATALOG["wan21-t2v-lightx2v-4step"]
    shown = header_of(record, rank=64)
    assert recognise(shown, f"{WAN21}{more}.safetensors", RECORDS).record is record
    title = Header(shown.shapes, {"modelspec.title": f"{WAN21}{more}"})
    assert recognise(title, "a1.safetensors", RECORDS).record is record


@pytest.mark.parametrize("more", ["_8step", "_high_noise"])
def test_another_releases_claim_behind_a_published_name_is_heard(more):
    record = CATALOG["wan21-t2v-lightx2v-4step"]
    found = recognise(header_of(record, rank=64), f"{WAN21}{more}.safetensors", RECORDS)
    assert found.record is not record


def test_the_low_noise_words_on_wan21s_tensors_are_wan22s():
    # Wan 2.2's low-noise LoRA has the tensors of Wan 2.1's: its name is not overruled.
    for name in ("my_i2v_lightx2v_low.safetensors", "my_i2v_lightx2v_lownoise.safetensors"):
        found = recognise(header_of(CATALOG["wan21-i2v-lightx2v-4step"]), name, RECORDS)
        assert found.record is CATALOG["wan22-i2v-lightning-low"]
