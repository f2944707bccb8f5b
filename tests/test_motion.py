"""The motion module's network and key layouts against diffusers' own classes, and what the header
of a file proves.
"""

from __future__ import annotations

import pytest
import torch
from comfyui_fewstep.motion.keys import Layout, MotionFileError, Version, inspect, names_of, renamed
from comfyui_fewstep.motion.module import Architecture, MotionModule, TemporalTransformer, sinusoids
from hypothesis import given
from hypothesis import strategies as st
from thinning import examples

pytest.importorskip("diffusers")
from motion_files import SMALL_WIDTHS, animatediff_keys, motion_adapter

KEYS = {Layout.DIFFUSERS: dict, Layout.ANIMATEDIFF: animatediff_keys}
# What the published files are, by what their headers show: (positions, has a middle module).
PUBLISHED = {Version.V1: (24, False), Version.V2: (32, True), Version.V3: (32, False)}


def shapes(tensors):
    return {key: tuple(tensor.shape) for key, tensor in tensors.items()}


def loaded(tensors):
    architecture = inspect(shapes(tensors), "module.safetensors").architecture
    network = MotionModule(architecture)
    network.load_state_dict(renamed(tensors, architecture))
    return network.eval()


# --- the network


@pytest.mark.parametrize("layout", KEYS)
@pytest.mark.parametrize("frames", [1, 2, 7, 16, 32])
@torch.no_grad()
def test_every_module_computes_what_diffusers_computes(layout, frames):
    adapter = motion_adapter()
    network = loaded(KEYS[layout](adapter.state_dict()))
    pairs = [(adapter.mid_block.motion_modules[0], network.middle)]
    for theirs, ours in ((adapter.down_blocks, network.down), (adapter.up_blocks, network.up)):
        pairs += [
            (a, b)
            for block, level in zip(theirs, ours)
            for a, b in zip(block.motion_modules, level)
        ]
    assert len(pairs) == 1 + 8 + 12
    for expected, actual in pairs:
        # Two clips of 4 x 6 places.
        x = torch.randn(2 * frames, actual.norm.num_channels, 4, 6)
        torch.testing.assert_close(
            actual(x, frames), expected(x, num_frames=frames), rtol=1e-4, atol=1e-4
        )


@torch.no_grad()
def test_clips_in_one_batch_do_not_see_each_other():
    transformer = loaded(motion_adapter().state_dict()).middle
    first, second = torch.randn(4, 128, 3, 3), torch.randn(4, 128, 3, 3)
    together = transformer(torch.cat((first, second)), 4)
    torch.testing.assert_close(together[:4], transformer(first, 4))
    torch.testing.assert_close(together[4:], transformer(second, 4))


@torch.no_grad()
def test_a_module_whose_output_is_zero_leaves_every_bit():
    transformer = TemporalTransformer(32, 8, lambda q, k, v, heads: v, torch.nn)
    torch.nn.init.zeros_(transformer.proj_out.weight)
    torch.nn.init.zeros_(transformer.proj_out.bias)
    transformer.block.attentions[0].positions.weight.zero_()
    transformer.block.attentions[1].positions.weight.zero_()
    x = torch.randn(4, 32, 2, 2)
    before = x.clone()
    assert torch.equal(transformer(x, 4), before)
    assert torch.equal(x, before)


@torch.no_grad()
def test_places_do_not_see_each_other_beyond_the_clip_statistics():
    # With the norm's statistics held (one place changed in every frame by a permutation of time at
    # that place), the other places keep their values: attention runs along time only.
    transformer = loaded(motion_adapter().state_dict()).middle
    x = torch.randn(4, 128, 3, 3)
    changed = x.clone()
    changed[:, :, 0, 0] = x[[2, 0, 3, 1], :, 0, 0]
    difference = (transformer(changed, 4) - transformer(x, 4)).abs().amax(dim=(0, 1))
    assert difference[0, 0] > 1e-3
    assert difference.flatten()[1:].max() < 1e-5


def test_sinusoids_are_those_the_files_carry():
    expected = motion_adapter().down_blocks[0].motion_modules[0].transformer_blocks[0].pos_embed.pe
    torch.testing.assert_close(sinusoids(32, 32), expected)


# --- files


@pytest.mark.parametrize("layout", KEYS)
@pytest.mark.parametrize("version", PUBLISHED)
def test_the_header_says_which_generation_and_layout(version, layout):
    positions, has_middle = PUBLISHED[version]
    tensors = KEYS[layout](motion_adapter(positions=positions, has_middle=has_middle).state_dict())
    file = inspect(shapes(tensors), "renamed.safetensors")
    assert (file.version, file.layout) == (version, layout)
    assert file.architecture == Architecture(SMALL_WIDTHS, positions, has_middle)


def without_encodings(tensors):
    return {key: tensor for key, tensor in tensors.items() if not key.endswith(".pe")}


@pytest.mark.parametrize("has_middle", [False, True])
def test_a_module_without_position_encodings_is_animatelcm_and_gets_sixty_four(has_middle):
    tensors = without_encodings(
        animatediff_keys(motion_adapter(positions=64, has_middle=has_middle).state_dict())
    )
    file = inspect(shapes(tensors), "AnimateLCM_sd15_t2v.safetensors")
    assert file.version is Version.LCM and file.architecture.positions == 64
    network = loaded(tensors)
    torch.testing.assert_close(
        network.down[0][0].block.attentions[1].positions.weight, sinusoids(64, 32)
    )


def test_both_layouts_load_the_same_weights():
    tensors = motion_adapter().state_dict()
    one, other = loaded(tensors).state_dict(), loaded(animatediff_keys(tensors)).state_dict()
    assert one.keys() == other.keys()
    assert all(torch.equal(one[name], other[name]) for name in one)


def test_every_tensor_of_a_file_has_one_place_and_every_place_one_tensor():
    tensors = animatediff_keys(motion_adapter().state_dict())
    names = [name for key in tensors for name in names_of(key)]
    assert sorted(names) == sorted(
        MotionModule(Architecture(SMALL_WIDTHS, 32, True), device="meta").state_dict()
    )


def test_the_names_of_a_training_checkpoint_are_understood():
    # AnimateDiff's trainer saves what its parallel wrapper called `module.`.
    tensors = {
        f"module.{key}": tensor
        for key, tensor in animatediff_keys(motion_adapter().state_dict()).items()
    }
    assert inspect(shapes(tensors), "mm.safetensors").version is Version.V2


def sdxl_module():
    return shapes(
        animatediff_keys(motion_adapter(widths=(32, 64, 128), has_middle=False).state_dict())
    )


def hotshot_module():
    return {"down_blocks.0.temporal_attentions.0.proj_in.weight": (320, 320)}


def picture_lora():
    return {"lora_unet_down_blocks_0_attentions_0_proj_in.lora_down.weight": (4, 320, 1, 1)}


def motion_lora():
    place = (
        "down_blocks.0.motion_modules.0.temporal_transformer.transformer_blocks.0"
        ".attention_blocks.0.processor"
    )
    return {f"{place}.to_q_lora.down.weight": (32, 320), f"{place}.to_q_lora.up.weight": (320, 32)}


def picture_checkpoint():
    return {"model.diffusion_model.input_blocks.0.0.weight": (320, 4, 3, 3)}


def picture_to_video_module():
    return {
        **shapes(animatediff_keys(motion_adapter().state_dict())),
        "conv_in.weight": (320, 9, 3, 3),
    }


def half_a_module():
    whole = list(shapes(animatediff_keys(motion_adapter().state_dict())).items())
    return dict(whole[: len(whole) // 2])


def misshapen_module():
    return {
        **shapes(animatediff_keys(motion_adapter().state_dict())),
        "mid_block.motion_modules.0.temporal_transformer.proj_in.weight": (128, 64),
    }


@pytest.mark.parametrize(
    ("file", "words"),
    [
        (sdxl_module, "for SDXL"),
        (hotshot_module, "HotshotXL"),
        (picture_lora, "is a LoRA for pictures"),
        (motion_lora, "is a motion LoRA"),
        (picture_checkpoint, "not an AnimateDiff motion module"),
        (picture_to_video_module, "starts from a picture"),
        (half_a_module, "not a whole motion module"),
        (misshapen_module, r"expected \[128, 128\]"),
        (dict, "it holds 0 tensors, and none belongs in one"),
    ],
)
def test_other_files_are_named_for_what_they_are(file, words):
    with pytest.raises(MotionFileError, match=words) as error:
        inspect(file(), "clip.safetensors")
    assert str(error.value).startswith("clip.safetensors")


WHOLE = {
    layout: shapes(keys(motion_adapter(SMALL_WIDTHS).state_dict())) for layout, keys in KEYS.items()
}
RENAMINGS = [("0", "9"), ("down", "up"), (".weight", ""), ("motion", "x"), ("1", "10")]
STRANGE_SHAPES = st.lists(
    st.integers(0, 2**62) | st.sampled_from([1, 24, 32, 64, 128]), max_size=5
).map(tuple)


def is_module_or_refused(header) -> None:
    """Whatever a header says, it is a whole motion module of these very shapes or refused in one
    sentence.
    """
    try:
        file = inspect(header, "clip.safetensors")
    except MotionFileError as error:
        assert str(error).startswith("clip.safetensors") and len(str(error)) < 1000
        return
    network = MotionModule(file.architecture, device="meta").state_dict()
    found = {name: shape for key, shape in header.items() for name in names_of(key)}
    assert all(
        found[name] == tuple(tensor.shape) for name, tensor in network.items() if name in found
    )


@examples(600)
@given(st.sampled_from(list(WHOLE)), st.data())
def test_any_header_is_a_whole_module_or_refused(layout, data):
    header = dict(WHOLE[layout])
    keys = sorted(header)
    for key in data.draw(st.lists(st.sampled_from(keys), max_size=3)):
        way = data.draw(st.sampled_from(["shape", "gone", "renamed"]))
        shape = header.pop(key, ())
        if way == "shape":
            header[key] = data.draw(STRANGE_SHAPES)
        elif way == "renamed":
            header[key.replace(*data.draw(st.sampled_from(RENAMINGS)))] = shape
    is_module_or_refused(header)


@examples(600)
@given(
    st.dictionaries(
        st.sampled_from(sorted(WHOLE[Layout.DIFFUSERS])) | st.text(max_size=20),
        STRANGE_SHAPES,
        max_size=12,
    )
)
def test_any_names_and_shapes_are_refused_in_words(header):
    is_module_or_refused(header)
