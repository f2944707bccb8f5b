"""How much memory a distillation takes, reckoned before it starts.

What the activations of a batch take is scaled from one evaluation of one row: hooks on a copy of
the model see how large the inputs and outputs of its layers are.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace

import comfy.model_management
import torch
from torch import Tensor

from ...loras.refusal import Refusal
from ...loras.words import counted, in_gib

# Bytes that autograd keeps for each number that goes into or comes out of a layer with a LoRA,
# which is what can be seen from outside. Measured 2.2 on SDXL's layers, 3.3 on FLUX's, 3.6 on
# Wan's; more where attention is not fused, as on a CPU.
KEPT = 4.0
# Of each weight of the LoRA its gradient, in float32; itself and its momentum are there by then.
LORA_BYTES = 4
COMPUTED_BYTES = 2  # of a number in the precision that is computed in


class TooLittleMemory(Refusal):
    """What would be needed, what there is, and what would help."""


@dataclass
class Sizes:
    """Numbers that go through a network in an evaluation of one row."""

    layers: int = 0  # in and out of all layers
    inputs: int = 0  # of its blocks
    largest: int = 0  # in and out of the layers of one block
    cast: int = 0  # of weights that are kept once more, in the precision that is computed in


@dataclass(frozen=True)
class Reckoning:
    """Bytes that a run takes beside the weights of the model, which are loaded by then."""

    lora: int  # its gradients
    sizes: Sizes
    rows: int  # of a batch
    is_checkpointed: bool
    free: int

    @property
    def activations(self) -> int:
        """What is kept for the backward pass. Checkpointed, that is the inputs of blocks; one block
        at a time is evaluated again.
        """
        sizes = self.sizes
        if self.is_checkpointed:
            return int(KEPT * (sizes.inputs + sizes.largest) * self.rows)
        return int(KEPT * sizes.layers * self.rows) + COMPUTED_BYTES * sizes.cast

    @property
    def needed(self) -> int:
        return self.lora + self.activations


@contextlib.contextmanager
def measured(
    layers: Sequence[torch.nn.Module], blocks: Sequence[torch.nn.Module]
) -> Iterator[Sizes]:
    """Within it an evaluation is looked at. The modules' hooks are gone afterwards."""
    sizes, in_block = Sizes(), [0]
    last: list[Tensor] = []  # inputs of the block before

    def of_layer(module, args, output) -> None:
        both = args[0].numel() + output.numel()
        sizes.layers += both
        in_block[0] += both
        sizes.largest = max(sizes.largest, in_block[0])

    def of_block(module, args, kwargs) -> None:
        in_block[0] = 0
        inputs = [each for each in (*args, *kwargs.values()) if isinstance(each, Tensor)]
        # What all blocks are given, such as the text, is kept once.
        new = [each for each in inputs if not any(each is other for other in last)]
        sizes.inputs += sum(each.numel() for each in new)
        last[:] = inputs

    handles = [layer.register_forward_hook(of_layer) for layer in layers]
    handles += [block.register_forward_pre_hook(of_block, with_kwargs=True) for block in blocks]
    try:
        yield sizes
    finally:
        for handle in handles:
            handle.remove()


def refuse_weights(model) -> None:
    """Raise TooLittleMemory where not even the model's weights have room on its device."""
    total = comfy.model_management.get_total_memory(model.load_device)
    if model.model_size() > total:
        raise TooLittleMemory(
            f"The weights of this model are {in_gib(model.model_size())}, and all of them stay on"
            f" the device while it is distilled, which has {in_gib(total)}. Connect the same model"
            " in fp8 or as a smaller GGUF."
        )


def refuse_too_little(reckoning: Reckoning) -> None:
    """Raise TooLittleMemory where a run would end for want of memory."""
    if reckoning.needed <= reckoning.free:
        return
    ways = []
    if not reckoning.is_checkpointed:
        saved = replace(reckoning, is_checkpointed=True).needed
        ways.append(f"turn gradient_checkpointing on ({in_gib(saved)})")
    if reckoning.rows > 1:
        ways.append(f"take a batch of 1 ({in_gib(replace(reckoning, rows=1).needed)})")
    ways.append("take a smaller or shorter latent_image")
    if reckoning.lora > reckoning.needed // 10:
        ways.append("lower the rank")
    raise TooLittleMemory(
        f"Beside the weights of the model this takes about {in_gib(reckoning.needed)}:"
        f" {in_gib(reckoning.lora)} for the LoRA's gradients, and"
        f" {in_gib(reckoning.activations)} for what is kept of"
        f" {counted(reckoning.rows, 'row')} to learn from. {in_gib(reckoning.free)} are free. To"
        f" make room, {'; or '.join(ways)}. A base in fp8 or GGUF leaves more free as well."
    )


def reckon(
    evaluate: Callable[[], Tensor],
    model,
    layers: Sequence[torch.nn.Module],
    blocks: Sequence[torch.nn.Module],
    lora_numbers: int,
    rows: int,
    is_checkpointed: bool,
) -> Reckoning:
    """evaluate: what evaluates the student on one row. model: MODEL, loaded."""
    with torch.no_grad(), measured(layers, blocks) as sizes:
        evaluate()
    sizes.cast = sum(
        layer.weight.numel() for layer in layers if layer.weight.dtype != torch.bfloat16
    )
    free = int(comfy.model_management.get_free_memory(model.load_device))
    return Reckoning(LORA_BYTES * lora_numbers, sizes, rows, is_checkpointed, free)
