"""What Few-Step Negative Prompt does and what it costs.

    python benchmarks/negative.py [--parts works operations time] [--prompts 12] [--scales 5]

works: on the trained demo model. A prompt leaves one thing open, its colour, shape or motion; what
the model then makes of it most often is what the negative prompt names. *has it*: share of the
clips that show it. *followed*: share that show all that the prompt does say. "nothing": the prompt
leaves nothing open, and the negative names another colour, which no clip should have in either
case. Counts alone, so other programs beside it do not matter.

operations: floating-point operations of a step with and without, counted at the published sizes
without computing anything; of Wan and Qwen-Image two layers, which are all alike.

time: processor time of an evaluation with and without, in turns in one process, at real numbers of
tokens and a smaller width.
"""

from __future__ import annotations

import argparse
import json
import logging
import random
import statistics
import time
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from types import SimpleNamespace
from typing import Any

import claims
import comfy.supported_models as supported
import in_host
import torch
from claims import CAUSAL, RENOISE, STUDENT, Way, demo, measure
from comfy.patcher_extension import WrappersMP
from comfyui_fewstep.nodes.host.files import load_tensors, load_vae
from comfyui_fewstep.nodes.host.negative import KEY, OVERRIDE, NegativeConfig, NegativeRun, Text
from comfyui_fewstep.nodes.negative import FewStepNegative
from comfyui_fewstep.samplers.guidance import Guidance
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils.flop_counter import FlopCounterMode

import small_models

with in_host.demo_scripts():
    import clips

PARTS = ("works", "operations", "time")
OPEN = ("colour", "shape", "motion", "nothing")
WAYS = {"student": STUDENT, "re-noise": RENOISE, "causal": CAUSAL}
DEFAULTS = {entry.id: entry.default for entry in FewStepNegative.define_schema().inputs[2:]}

# ---------------------------------------------------------------- whether it works


@dataclass(frozen=True)
class Case:
    """One prompt."""

    said: Mapping[str, str]  # what it says, by what a clip is read for
    away: str = ""  # the negative prompt

    @property
    def prompt(self) -> str:
        return f"a {' '.join(self.said.values())}"


def cases(left_open: str, count: int) -> list[Case]:
    rng, made = random.Random(77), []
    for _ in range(count):
        said = {
            "colour": rng.choice(list(clips.COLOURS)),
            "shape": rng.choice(clips.SHAPES),
            "motion": rng.choice(clips.MOTIONS),
        }
        other = rng.choice([colour for colour in clips.COLOURS if colour != said["colour"]])
        said.pop(left_open, None)
        made.append(Case(said, other))
    return made


class Reader:
    """Makes clips of prompts and reads them."""

    def __init__(self, way: Way):
        tensors, metadata = load_tensors(str(demo.FOLDER / demo.BASE))
        self.way, self.model = way, claims.load(way)
        self.words, self.text = tensors[demo.WORDS], json.loads(metadata["fewstep_demo"])
        self.vae = load_vae(str(demo.FOLDER / demo.VAE))

    def embedded(self, prompts: list[str]) -> Tensor:
        return torch.cat([demo.embed(prompt, self.words, self.text) for prompt in prompts])

    @torch.no_grad()
    def readings(self, chosen: list[Case], settings: Mapping[str, float]) -> list[measure.Reading]:
        """What the clips show. settings: of the node."""
        readings = []
        for begin in range(0, len(chosen), claims.BATCH):
            part = chosen[begin : begin + claims.BATCH]
            negative = [[self.embedded([case.away for case in part]), {}]]
            model = FewStepNegative.execute(self.model, negative, **settings).args[0]
            positive = self.embedded([case.prompt for case in part])
            latent, _ = claims.sample(model, self.way, positive, self.embedded([""]), seed=begin)
            readings += [
                measure.read_clip(clip.permute(3, 0, 1, 2)) for clip in self.vae.decode(latent)
            ]
        return readings


def works(ways: list[Way], prompts: int, scales: list[float], left_open: list[str]) -> None:
    print("| way | left open | negative | scale | has it | followed |\n|---|---|---|---|---|---|")
    for way in ways:
        reader = Reader(way)
        for name in left_open:
            for row in rows_of(reader, name, prompts, scales):
                print("|", " | ".join((way.name, name, *row)), "|", flush=True)


def rows_of(
    reader: Reader, left_open: str, prompts: int, scales: list[float]
) -> Iterator[tuple[str, ...]]:
    """The same prompts and noise without the node and at each scale."""
    chosen, thing, named = cases(left_open, prompts), left_open, "another colour"
    readings = reader.readings(chosen, DEFAULTS | {"scale": 1.0})
    if left_open == "nothing":
        thing = "colour"
    else:
        seen = Counter(getattr(reading, thing) for reading in readings)
        ((named, _),) = seen.most_common(1)
        chosen = [replace(case, away=named) for case in chosen]
    for scale in (1.0, *scales):
        if scale != 1.0:
            readings = reader.readings(chosen, DEFAULTS | {"scale": scale})
        pairs = list(zip(chosen, readings, strict=True))
        has_it = statistics.fmean(getattr(reading, thing) == case.away for case, reading in pairs)
        followed = statistics.fmean(
            all(getattr(reading, name) == value for name, value in case.said.items())
            for case, reading in pairs
        )
        words = "without" if scale == 1.0 else f"{scale:g}"
        yield named, words, f"{has_it:.1%}", f"{followed:.1%}"


# ---------------------------------------------------------------- what it costs


@dataclass(frozen=True)
class Size:
    """One step of one model."""

    name: str
    config: Any  # the host's, of its architecture
    shape: tuple[int, ...]  # of the latent
    text: tuple[int, int]  # tokens and channels of each prompt
    arguments: Mapping[str, Any]  # what else the network takes
    is_joint: bool = False


def wan(width: int, heads: int, inner: int, layers: int):
    settings = dict(text_dim=4096, freq_dim=256, out_dim=16, model_type="t2v", in_dim=16)
    shape = dict(dim=width, ffn_dim=inner, num_heads=heads, num_layers=layers)
    return supported.WAN21_T2V({"image_model": "wan2.1", **settings, **shape})


def flux(width: int, heads: int, double: int, single: int):
    settings = dict(hidden_size=width, num_heads=heads, depth=double, depth_single_blocks=single)
    return supported.Flux({**small_models.FLUX_SMALL, "image_model": "flux", **settings})


def qwen(heads: int, layers: int):
    """Of Qwen-Image's 60 layers, which are alike."""
    settings = dict(in_channels=64, num_layers=layers, joint_attention_dim=3584)
    shape = dict(attention_head_dim=128, num_attention_heads=heads)
    return supported.QwenImage({"image_model": "qwen_image", **settings, **shape})


def unet(name: str, width: int):
    return small_models.UNETS[name][0](small_models.unet_config(name, width))


CLIP, PICTURE = (1, 16, 21, 60, 104), (1, 16, 128, 128)  # 832 x 480 x 81, 1024 x 1024
FLUX_INPUTS = {"y": torch.zeros(1, 768), "guidance": torch.ones(1)}


def sizes(is_published: bool) -> list[Size]:
    """Each architecture at its published size, where a step is only counted, or at a width and
    depth that two cores can compute. Tokens are those of a real picture or clip in either case.
    """
    layers = 2  # all of Wan's are alike
    if is_published:
        wans = [
            Size("Wan 2.1 14B", wan(5120, 40, 13824, layers), CLIP, (512, 4096), {}),
            Size("Wan 2.1 1.3B", wan(1536, 12, 8960, layers), CLIP, (512, 4096), {}),
        ]
    else:
        wans = [Size("Wan, width 128", wan(128, 1, 512, 1), CLIP, (512, 4096), {})]
    width, joint = (320, flux(3072, 24, 19, 38)) if is_published else (32, flux(512, 4, 1, 1))
    words = "" if is_published else f", width {width}"
    adm = {"y": torch.zeros(1, 2816)}
    return [
        *wans,
        Size(f"SDXL{words}", unet("sdxl", width), (1, 4, 128, 128), (77, 2048), adm),
        Size(f"SD 1.5{words}", unet("sd15", width), (1, 4, 64, 64), (77, 768), {}),
        Size(
            "FLUX.1 dev" if is_published else "FLUX, width 512",
            joint,
            PICTURE,
            (512, 4096),
            FLUX_INPUTS,
            is_joint=True,
        ),
        Size(
            "Qwen-Image" if is_published else "Qwen-Image, width 512",
            qwen(24 if is_published else 4, layers),
            (1, 16, 1, 166, 166),  # 1328 x 1328
            (128, 3584),
            {},
            is_joint=True,
        ),
    ]


class Step:
    """One forward pass of a size, with or without the negative prompt."""

    def __init__(self, size: Size, dtype: torch.dtype):
        size.config.set_inference_dtype(dtype, None)
        self.size, self.model = size, size.config.get_model({}, "")

    def __call__(self, is_guided: bool, **options: Any) -> Tensor:
        size = self.size
        guidance = Guidance(*(DEFAULTS[name] for name in ("scale", "alpha", "tau")))
        config = NegativeConfig(guidance, 0.0, 1.0)
        run = NegativeRun(config, SimpleNamespace(conds={}), size.is_joint, ())
        run.texts = [Text(torch.zeros(1, *size.text), None, None, None)]
        wrappers = {"wrappers": {WrappersMP.APPLY_MODEL: {KEY: [run.apply]}}} if is_guided else {}
        return self.model.apply_model(
            torch.zeros(size.shape),
            torch.ones(1),
            c_crossattn=torch.ones(1, *size.text),
            transformer_options={"uuids": [0], "cond_or_uncond": [0], **options, **wrappers},
            **size.arguments,
        )


def causal():
    """Causal Wan 1.3B, two of its layers."""
    settings = wan(1536, 12, 8960, 2).unet_config
    return supported.WAN21_CausalAR_T2V(settings)


def print_stream_operations() -> None:
    """Of one evaluation of a block, the first of a clip and one after 18 latent frames. Without the
    node the text's keys and values are remembered from the block before; with it they are not.
    """
    tokens = 30 * 52  # of a latent frame of 832 x 480
    for frames in (3, 1):
        size = Size("", causal(), (1, 16, frames, *CLIP[3:]), (512, 4096), {})
        with FakeTensorMode(allow_non_fake_inputs=True):
            step, where = Step(size, torch.bfloat16), (torch.device("cpu"), torch.bfloat16)
            network = step.model.diffusion_model
            for start in (0, 18):
                text, counts = network.init_crossattn_caches(1, *where), []
                for is_guided in (False, False, True):  # the first fills the text's
                    cache = network.init_kv_caches(1, (start + frames) * tokens, *where)
                    for each in cache:
                        each["end"] = start * tokens
                    state = {"start_frame": start, "kv_caches": cache, "crossattn_caches": text}
                    with FlopCounterMode(display=False) as counter:
                        step(is_guided, ar_state=state)
                    counts.append(counter.get_total_flops())
                print(
                    f"| causal Wan 1.3B, block of {frames}, {start} before | {counts[1] / 1e12:.3g}"
                    f" | {counts[2] / counts[1]:.3f} |",
                    flush=True,
                )


def in_products(
    function, q, k, v, heads, mask=None, *, skip_reshape=False, skip_output_reshape=False, **more
) -> Tensor:
    """Attention in matrix products, which are counted."""
    if not skip_reshape:
        q, k, v = (part.unflatten(-1, (heads, -1)).transpose(1, 2) for part in (q, k, v))
    out = q @ k.transpose(-1, -2) @ v
    return out if skip_output_reshape else out.transpose(1, 2).flatten(2)


def print_operations() -> None:
    print("\n| a step of | 10^12 operations without | with, times as many |\n|---|---|---|")
    for size in sizes(is_published=True):
        with FakeTensorMode(allow_non_fake_inputs=True):
            step, counts = Step(size, torch.bfloat16), []
            for is_guided in (False, True):
                with FlopCounterMode(display=False) as counter:
                    step(is_guided, **{OVERRIDE: in_products})
                counts.append(counter.get_total_flops())
        print(f"| {size.name} | {counts[0] / 1e12:.3g} | {counts[1] / counts[0]:.3f} |", flush=True)
    print_stream_operations()


@torch.no_grad()
def print_times(rounds: int) -> None:
    print(
        "\n| an evaluation of | s of processor time without | with, times as much |\n|---|---|---|"
    )
    for size in sizes(is_published=False):
        step = Step(size, torch.float32)
        weights = small_models.RandomWeights(0).fill(
            small_models.shapes_of(step.model.diffusion_model)
        )
        step.model.diffusion_model.load_state_dict(weights)
        without, with_it = [], []
        for each in range(rounds + 1):
            for is_guided, times in ((False, without), (True, with_it)):
                started = time.process_time()
                step(is_guided)
                if each:  # the first one warms up
                    times.append(time.process_time() - started)
        ratio = in_host.median_ratio(with_it, without)
        print(f"| {size.name} | {statistics.median(without):.3g} | {ratio:.3f} |", flush=True)


def parsed() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=PARTS)
    parser.add_argument("--prompts", type=int, default=12, help="of each kind")
    parser.add_argument("--scales", nargs="+", type=float, default=[DEFAULTS["scale"]])
    parser.add_argument("--ways", nargs="+", choices=WAYS, default=list(WAYS))
    parser.add_argument("--open", nargs="+", choices=OPEN, default=OPEN)
    parser.add_argument("--rounds", type=int, default=5, help="of the time")
    return parser.parse_args()


def main() -> None:
    options = parsed()
    logging.getLogger().setLevel(logging.ERROR)
    print(in_host.machine(), f"{options.prompts} prompts", f"load {in_host.load()}", sep="; ")
    print("defaults:", ", ".join(f"{name} {value:g}" for name, value in DEFAULTS.items()))
    if "works" in options.parts:
        ways = [WAYS[name] for name in options.ways]
        works(ways, options.prompts, options.scales, options.open)
        claims.print_uncertainty(options.prompts)
    if "operations" in options.parts:
        print_operations()
    if "time" in options.parts:
        print_times(options.rounds)


if __name__ == "__main__":
    main()
