"""A negative prompt in a model's attention: three official hooks, one frozen setting, one object a
run.

OUTER_SAMPLE gives the negative text to the host among the run's conditionings, which encodes it as
it does any other. APPLY_MODEL, where ControlNets and guidance are outside and the compiled network
is inside, lays it beside the prompt. `optimized_attention_override`, set for that evaluation alone,
attends to the two apart.
"""

from __future__ import annotations

import functools
import logging
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import comfy.ldm.flux.model
import comfy.ldm.lightricks.model
import comfy.ldm.qwen_image.model
import comfy.ldm.wan.model
import comfy.sampler_helpers
import comfy.utils
import torch
from comfy.ldm.modules.diffusionmodules.openaimodel import UNetModel
from comfy.patcher_extension import WrappersMP, add_wrapper_with_key
from torch import Tensor

from ...loras.bases import Base
from ...loras.refusal import Refusal
from ...loras.words import counted
from ...samplers.guidance import (
    CrossAttention,
    Guidance,
    JointAttention,
    SideBySide,
    laid_out,
)
from .model import NEGATIVE_KEY, LoadedModel, look_at
from .run import run_log
from .server import version

log = logging.getLogger(__name__)

KEY = "fewstep.negative"
NAME = "Few-Step Negative Prompt"
OVERRIDE = "optimized_attention_override"  # the host's name for what stands in for its attention
ATTENTION, PLACES = "attention", "places"

# What a conditioning has beside its text that the host would carry over to the other conditionings
# of a run, or that is no part of a text.
NOT_TEXT = ("control", "control_apply_to_uncond", "gligen", "hooks", "default", "strength")
REGION = ("area", "mask")
# Text and picture share one attention in these, and a node may say what places the text's tokens
# have: so another text may lie beside it.
JOINT = (Base.FLUX, Base.FLUX_SCHNELL, Base.FLUX2, Base.QWEN_IMAGE)
JOINT_NETWORKS = (
    comfy.ldm.flux.model.Flux,
    comfy.ldm.qwen_image.model.QwenImageTransformer2DModel,
)
# Where the host's own node for this, NAGuidance, has a place to work in.
HAS_CORE_NODE = (Base.HUNYUAN_VIDEO, Base.HUNYUAN15, Base.KREA2)


class NegativeError(Refusal):
    """A negative prompt that cannot be kept. Says what was expected, found and what to do."""


@dataclass(frozen=True)
class NegativeConfig:
    """The node's settings."""

    guidance: Guidance
    start_percent: float  # shares of the noise schedule between which it is kept
    end_percent: float

    @property
    def words(self) -> str:
        guidance = self.guidance
        return f"scale {guidance.scale:g}, alpha {guidance.alpha:g}, tau {guidance.tau:g}"

    def bounded(self, cond: dict[str, Any]) -> dict[str, Any]:
        """A text with these bounds beside its own. The host makes noise levels of them, and whoever
        looks at its conditionings, as Step Skip does, sees where it begins and ends.
        """
        if (self.start_percent, self.end_percent) == (0.0, 1.0):
            return cond
        start, end = cond.get("start_percent", 0.0), cond.get("end_percent", 1.0)
        return cond | {
            "start_percent": max(start, self.start_percent),
            "end_percent": min(end, self.end_percent),
        }


def with_negative(model, negative: Sequence, config: NegativeConfig):
    """The model with the negative prompt in its attention, or the one given where the settings
    leave nothing to do. Raises NegativeError.

    The wrapper goes into the model options: on the patcher itself it would make the host load the
    same weights again.
    """
    loaded = look_at(model)
    is_joint = refuse_model(loaded)
    refuse_second(loaded)
    conds = [config.bounded(cond) for cond in text_alone(negative)]
    if config.guidance.is_idle:
        return model
    patched = model.clone()
    patched.model_options |= {NEGATIVE_KEY: config}

    def outer_sample(executor, *args, **kwargs):
        guider = executor.class_obj
        # Before the host gives the sampler's own a copy of each of the prompt's areas.
        away = {cond["uuid"] for cond in guider.conds.get("negative", ())}
        run = NegativeRun(config, guider, is_joint, {cond["uuid"] for cond in conds}, away)
        # The run's own, made anew by the host for every run.
        guider.conds[KEY] = [dict(cond) for cond in conds]
        add_wrapper_with_key(
            WrappersMP.APPLY_MODEL, KEY, run.apply, guider.model_options, is_model_options=True
        )
        samples = executor(*args, **kwargs)
        run.tell()
        return samples

    add_wrapper_with_key(
        WrappersMP.OUTER_SAMPLE, KEY, outer_sample, patched.model_options, is_model_options=True
    )
    return patched


def refuse_second(loaded: LoadedModel) -> None:
    if loaded.carries_negative:
        raise NegativeError(
            f"This model already carries a {NAME}. Leave one of the two out; two texts go into one"
            " with Conditioning (Concat)."
        )


def refuse_model(loaded: LoadedModel) -> bool:
    """Whether text and picture share one attention. Raises NegativeError where neither way goes."""
    network = loaded.patcher.model.diffusion_model
    if loaded.base in JOINT and isinstance(network, JOINT_NETWORKS):
        return True
    is_unet = isinstance(
        network, UNetModel
    ) and not loaded.patcher.model.model_config.unet_config.get("use_temporal_resblock", False)
    if is_unet or isinstance(
        network, comfy.ldm.wan.model.WanModel | comfy.ldm.lightricks.model.LTXVModel
    ):
        return False
    advice = (
        "Core's Normalized Attention Guidance (NAGuidance) covers it, at twice the price of a step:"
        " put it on the model and connect the negative prompt to the sampler."
        if loaded.base in HAS_CORE_NODE
        else "Leave the node out: say in the prompt what should be there instead."
    )
    raise NegativeError(
        f"{NAME} works in SD 1.5, SD 2, SDXL, Wan, LTX-Video, LTX-2, FLUX and Qwen-Image, and the"
        f" connected model is {loaded.words}, whose text goes another way through the network."
        f" {advice}"
    )


def text_alone(negative: Sequence) -> list[dict[str, Any]]:
    """A CONDITIONING as the host's samplers take it, with nothing but its texts.

    Raises NegativeError where it is for a part of the picture.
    """
    conds = comfy.sampler_helpers.convert_cond(negative)
    if not conds:
        raise NegativeError(
            "negative is empty: it should hold at least one text. Connect a CLIP Text Encode."
        )
    if any(key in cond for cond in conds for key in REGION):
        raise NegativeError(
            "negative is for a part of the picture (an area or a mask), and here it is kept out of"
            " all of it. Connect the text without its area or mask."
        )
    return [{key: cond[key] for key in cond if key not in NOT_TEXT} for cond in conds]


@dataclass(frozen=True)
class Text:
    """One negative text, as the host encoded it for this model."""

    context: Tensor  # (B or 1, L, C)
    mask: Tensor | None  # (B or 1, L), of the tokens that are read
    # Sigmas between which it is kept; None where it has no such bound.
    start: float | None
    end: float | None

    @classmethod
    def of(cls, cond: Mapping[str, Any]) -> Text:
        encoded = cond["model_conds"]
        mask = encoded.get("attention_mask")
        return cls(
            encoded["c_crossattn"].cond,
            None if mask is None else mask.cond,
            cond.get("timestep_start"),
            cond.get("timestep_end"),
        )

    @property
    def is_bounded(self) -> bool:
        return self.start is not None or self.end is not None

    def is_kept_at(self, sigma: float) -> bool:
        return (self.start is None or sigma <= self.start) and (
            self.end is None or sigma >= self.end
        )

    def within(self, window) -> Text:
        """Of a text for every frame those of the host's context window, as it cuts the prompts."""
        if window.dim != 0 or self.context.shape[0] != window.total_frames:
            return self
        mask = None if self.mask is None else window.get_tensor(self.mask)
        return replace(self, context=window.get_tensor(self.context), mask=mask)


class NegativeRun:
    """One sampling run of one guider."""

    def __init__(
        self,
        config: NegativeConfig,
        guider,
        is_joint: bool,
        names: Collection,
        away: Collection,
    ):
        self.config, self.guider, self.is_joint = config, guider, is_joint
        # The host's uuids of the negative texts, and of those in the sampler's own negative.
        self.names, self.away = names, away
        self.texts: list[Text] = []
        self.passes = 0  # forward passes
        self.guided = 0  # of these, with the negative prompt

    def apply(
        self,
        executor,
        x: Tensor,
        t: Tensor,
        c_concat=None,
        c_crossattn: Tensor | None = None,
        control=None,
        transformer_options: Mapping[str, Any] | None = None,
        **kwargs,
    ):
        """An APPLY_MODEL wrapper. x: (rows, C, ...), the conditionings of a batch after another."""
        options = dict(transformer_options or {})
        self.passes += 1
        texts = self._kept(t)
        rows = [uuid not in self.away for uuid in options.get("uuids") or [None]]
        if c_crossattn is None or not texts or not any(rows):
            return executor(x, t, c_concat, c_crossattn, control, options, **kwargs)
        if (window := options.get("context_window")) is not None:
            texts = [text.within(window) for text in texts]
        evaluation = Evaluation.of(self, texts, rows, x, c_crossattn, kwargs)
        denoised = executor(
            x,
            t,
            c_concat,
            evaluation.context,
            control,
            evaluation.within(options),
            **{**kwargs, **evaluation.masks},
        )
        self.guided += 1
        evaluation.refuse_unseen()
        return denoised

    def _kept(self, t: Tensor) -> list[Text]:
        """The texts of the noise level at hand."""
        if not self.texts:
            # The host has added one for every region of the prompt, under the prompt's own name.
            encoded = self.guider.conds[KEY]
            self.texts = [Text.of(cond) for cond in encoded if cond["uuid"] in self.names]
        if not any(text.is_bounded for text in self.texts):
            return self.texts  # nothing to ask the device for
        sigma = float(t.flatten()[0])
        return [text for text in self.texts if text.is_kept_at(sigma)]

    def tell(self) -> None:
        """In the log, and in the report of a sampler of this pack."""
        summary = f"{self.config.words}; in {self.guided} of {counted(self.passes, 'forward pass')}"
        ours = run_log(self.guider.model_options)
        if ours is None:
            log.info("%s: %s", NAME, summary)
        elif not ours.is_measurement:
            guidance = self.config.guidance
            ours.entries.append(
                {
                    "node": NAME,
                    "summary": summary,
                    "scale": guidance.scale,
                    "alpha": guidance.alpha,
                    "tau": guidance.tau,
                    "passes": self.passes,
                    "passes_guided": self.guided,
                }
            )


@dataclass(frozen=True)
class Evaluation:
    """One evaluation with both texts in it."""

    attention: CrossAttention | JointAttention
    context: Tensor  # (rows, L of both, C)
    masks: Mapping[str, Tensor]  # as the host's argument of that name, where the model has one
    seen: list[str]  # what of this evaluation was asked for in the network: ATTENTION, PLACES

    @classmethod
    def of(
        cls,
        run: NegativeRun,
        texts: Sequence[Text],
        chunks: Sequence[bool],
        x: Tensor,
        positive: Tensor,
        arguments: Mapping[str, Any],
    ) -> Evaluation:
        """chunks: which conditionings are guided. positive: (rows, L, C). arguments: the other ones
        of the network.
        """
        mask = arguments.get("attention_mask")
        is_masked = mask is not None or any(text.mask is not None for text in texts)
        if run.is_joint and is_masked:
            raise NegativeError(
                "The prompt or the negative prompt is masked in part (by a style model, a region or"
                f" texts of several lengths in a batch), and in this model {NAME} has no way around"
                " a mask. Leave out one of the two."
            )
        negative = for_rows(texts, positive, len(chunks))
        lengths = (positive.shape[1], negative.shape[1])
        layout = SideBySide(*lengths) if run.is_joint else laid_out(*lengths, taken(x, arguments))
        rows = None
        if not all(chunks):
            each = positive.shape[0] // len(chunks)
            chosen = torch.tensor(chunks).repeat_interleave(each).nonzero().flatten()
            rows = chosen.to(x.device)  # the texts come to it only after this
        kind = JointAttention if run.is_joint else CrossAttention
        masks = {}
        if is_masked:
            masks["attention_mask"] = layout.lay(
                *(part.to(positive.device) for part in masks_of(mask, texts, *lengths, positive))
            )
        return cls(
            kind(layout, run.config.guidance, rows), layout.lay(positive, negative), masks, []
        )

    def within(self, options: dict[str, Any]) -> dict[str, Any]:
        """The transformer options for this evaluation."""
        before, patches = options.get(OVERRIDE), options.get("patches_replace", {})
        if "attn2" in patches:
            replaced = {key: self._around(patch) for key, patch in patches["attn2"].items()}
            options["patches_replace"] = {**patches, "attn2": replaced}
        if isinstance(self.attention, JointAttention):
            patches = options.get("patches", {})
            after_input = [*patches.get("post_input", ()), self._count_both_from_0]
            options["patches"] = {**patches, "post_input": after_input}
        options[OVERRIDE] = self._override(before)
        return in_blocks(options, before) if "ar_state" in options else options

    def refuse_unseen(self) -> None:
        """Raise NegativeError where the network has left out what would have kept the text out."""
        if ATTENTION not in self.seen:
            raise NegativeError(
                f"{NAME} found no attention to its text in this model: another node replaces it, or"
                " puts more tokens beside the prompt. Take that node or this one off the model."
            )
        if isinstance(self.attention, JointAttention) and PLACES not in self.seen:
            raise NegativeError(
                f"This ComfyUI ({version()}) lets no node say where a text lies in this model, so"
                f" {NAME} would put its own in a wrong place. Update ComfyUI."
            )

    def _override(self, before: Callable | None) -> Callable[..., Tensor]:
        """What stands in for the host's attention. before: another node's, asked in turn."""
        attention, seen = self.attention, self.seen

        def attend_apart(function, q, k, v, heads, mask=None, *args, **kwargs):
            attend = function if before is None else functools.partial(before, function)
            if not attention.is_for(q, k):
                return attend(q, k, v, heads, mask, *args, **kwargs)
            seen.append(ATTENTION)
            channels = (-3, -1) if kwargs.get("skip_output_reshape", False) else (-1,)
            return attention.attend(
                lambda q, k, v, mask: attend(q, k, v, heads, mask, *args, **kwargs),
                q,
                k,
                v,
                mask,
                channels,
            )

        return attend_apart

    def _around(self, patch: Callable) -> Callable[..., Tensor]:
        """Another node's stand-in for the attention to text, such as IPAdapter's, asked for each of
        the texts.
        """

        def attend_apart(q, k, v, extra_options):
            if not self.attention.is_for(q, k):
                return patch(q, k, v, extra_options)
            self.seen.append(ATTENTION)
            return self.attention.attend(
                lambda q, k, v, mask: patch(q, k, v, extra_options), q, k, v
            )

        return attend_apart

    def _count_both_from_0(self, inputs: dict[str, Any]) -> dict[str, Any]:
        """A post_input patch: the negative text has the places that it would have alone."""
        first, both = self.attention.texts.positive, self.attention.texts.length
        ids = inputs["txt_ids"]
        if ids.shape[1] != both:
            raise NegativeError(
                f"Another node puts more tokens beside the prompt, where {NAME} cannot tell them"
                " from its own text. Take one of the two off the model."
            )
        self.seen.append(PLACES)
        places = torch.cat([ids[:, :first], ids[:, : both - first]], dim=1)
        return {**inputs, "txt_ids": places}


def for_rows(texts: Sequence[Text], positive: Tensor, chunks: int) -> Tensor:
    """The texts at hand as one, (rows, L, C), a row for every row of the prompts.

    Row for row: each picture of a batch has its own, if there are as many.
    """
    each = positive.shape[0] // chunks
    parts = [
        comfy.utils.repeat_to_batch_size(text.context.to(positive), each).repeat(chunks, 1, 1)
        for text in texts
    ]
    negative = torch.cat(parts, dim=1)
    if negative.shape[-1] != positive.shape[-1]:
        raise NegativeError(
            f"The prompt has {positive.shape[-1]} numbers a token and the negative prompt"
            f" {negative.shape[-1]}: they are of different text encoders. Encode both with the"
            " connected model's own."
        )
    return negative


def masks_of(
    mask: Tensor | None, texts: Sequence[Text], first: int, second: int, context: Tensor
) -> tuple[Tensor, Tensor]:
    """The masks of both texts, (rows, L) each; a text without one is read whole."""
    rows = context.shape[0]
    given = next(each for each in (mask, *(text.mask for text in texts)) if each is not None)
    read = 0 if given.is_floating_point() else 1  # what the host adds to attention, or a flag

    def whole(length: int) -> Tensor:
        return given.new_full((rows, length), read)

    parts = [
        whole(text.context.shape[1])
        if text.mask is None
        else comfy.utils.repeat_to_batch_size(text.mask.to(given), rows)
        for text in texts
    ]
    positive = whole(first) if mask is None else mask
    return positive, torch.cat(parts, dim=1)


def taken(x: Tensor, arguments: Mapping[str, Any]) -> set[int]:
    """Lengths that other attentions of this evaluation may have."""
    lengths = set()
    for shape in arguments.get("latent_shapes") or [x.shape]:
        frames, sides = (shape[2], shape[-2:]) if len(shape) > 4 else (1, shape[-2:])
        for patch in (1, 2):
            lengths.add(frames * -(-sides[0] // patch) * -(-sides[1] // patch))
        lengths.update(shape[2:])
    picture = arguments.get("clip_fea")
    return lengths if picture is None else lengths | {picture.shape[-2]}


def in_blocks(options: dict[str, Any], before: Callable | None) -> dict[str, Any]:
    """The options of a causal network's evaluation, where they lead through its attention.

    With its `ar_state` in them it attends without asking anybody. Without, it is an ordinary Wan;
    what the state says is given by the host's other means: where in the clip the block is by the
    rotation of positions, the frames it has seen by the override of its attention. before: that
    override as it was before ours, None without one.
    """
    options = dict(options)
    state, ours = options.pop("ar_state"), options[OVERRIDE]

    def attend_to_all(function, q, k, v, heads, *args, **kwargs):
        if k.shape[1] != q.shape[1]:
            return ours(function, q, k, v, heads, *args, **kwargs)
        index = kwargs["transformer_options"]["block_index"]
        k, v = with_seen(state["kv_caches"][index], k, v)
        attend = function if before is None else functools.partial(before, function)
        return attend(q, k, v, heads, *args, **kwargs)

    return {**options, OVERRIDE: attend_to_all, "rope_options": {"shift_t": state["start_frame"]}}


def with_seen(cache: dict[str, Any], k: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
    """Put a block's keys and values, (B, L, C), into the cache; those of all frames in it."""
    end = cache["end"] + k.shape[1]
    for name, part in (("k", k), ("v", v)):
        cache[name][:, cache["end"] : end] = part.unflatten(-1, cache[name].shape[-2:])
    cache["end"] = end
    return cache["k"][:, :end].flatten(2), cache["v"][:, :end].flatten(2)
