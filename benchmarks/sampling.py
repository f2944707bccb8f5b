"""Few-Step Sampler against core, the accelerated run against the full guided one, and how long recognition takes.

    python benchmarks/sampling.py [--rounds 7]
"""

from __future__ import annotations

import argparse
import contextlib
import io
import json
import struct
import tempfile
import time
from pathlib import Path
from statistics import median

import in_host

in_host.enter()

import torch  # noqa: E402
from comfyui_fewstep.loras.catalog import CATALOG  # noqa: E402
from comfyui_fewstep.loras.fingerprint import read_header, recognise  # noqa: E402
from comfyui_fewstep.nodes import host  # noqa: E402
from comfyui_fewstep.nodes.sampler import FewStepSampler  # noqa: E402

import nodes as core  # noqa: E402
from small_models import conditioning, load_model, write_wan  # noqa: E402

LAYERS = 40  # of Wan 14B
ADAPTED = ("self_attn.q", "self_attn.k", "self_attn.v", "self_attn.o", "cross_attn.q", "cross_attn.k", "cross_attn.v", "cross_attn.o",
           "ffn.0", "ffn.2")
BYTES = 2_000_000_000


def row(*cells: str) -> None:
    print(f"| {' | '.join(cells)} |", flush=True)


def quietly(call):
    """The same call without the host's progress bars."""
    def silent():
        with contextlib.redirect_stderr(io.StringIO()):
            return call()

    return silent


def sampling(rounds: int, folder: Path) -> None:
    """A small Wan at a size where one evaluation takes well over 50 ms."""
    record = CATALOG["wan21-t2v-lightx2v-4step"]
    model = load_model(write_wan(folder / "wan.safetensors", "wan21_t2v"))
    fast = host.with_record(host.with_model_sampling(model, record), record)
    text, negative = conditioning(length=6), conditioning(length=6, seed=1)
    latent = {"samples": torch.zeros(1, 16, 9, 24, 24)}

    ours = quietly(lambda: FewStepSampler.execute(fast, text, latent, 1, 0, 1.0))
    theirs = quietly(lambda: core.KSampler().sample(fast, 1, 4, 1.0, "euler", "simple", text, text, latent))
    mine, cores = in_host.in_turns(ours, theirs, rounds)
    seconds = f"{median(mine):.3f} s / {median(cores):.3f} s ({median(cores) / 4 * 1000:.0f} ms an evaluation)"
    row("Few-Step Sampler against core KSampler, 4 evaluations each", seconds, f"ratio {in_host.median_ratio(mine, cores):.3f}", "<= 1.02")

    guided = quietly(lambda: core.KSampler().sample(model, 1, 50, 5.0, "euler", "simple", text, negative, latent))
    full, accelerated = in_host.in_turns(guided, ours, max(2, rounds // 3))
    factor = in_host.median_ratio(full, accelerated)
    seconds = f"{median(full):.2f} s / {median(accelerated):.3f} s"
    row("50 guided steps against 4 accelerated ones (100 and 4 evaluations, ideal 25x)", seconds,
        f"{factor:.1f}x, {factor / 25:.2f} of the ideal", ">= 0.95")


def recognition(rounds: int, folder: Path) -> None:
    """A 2 GB LoRA in LightX2V's layout: only its header is real, the tensors are a hole in the file."""
    path = folder / "wan2.1_t2v_14b_lora_rank64_lightx2v_4step.safetensors"
    names = [f"diffusion_model.blocks.{n}.{layer}.{end}" for n in range(LAYERS) for layer in ADAPTED for end in
             ("lora_down.weight", "lora_up.weight")]
    width = BYTES // len(names) // 2 // 64
    entries = {name: {"dtype": "F16", "shape": [64, width] if "down" in name else [width, 64],
                      "data_offsets": [i * width * 128, (i + 1) * width * 128]} for i, name in enumerate(names)}
    header = json.dumps(entries).encode()
    with path.open("wb") as file:
        file.write(struct.pack("<Q", len(header)) + header)
        file.truncate(8 + len(header) + len(names) * width * 128)
    seconds = []
    for _ in range(rounds):
        started = time.perf_counter()
        found = recognise(read_header(path), path.name, CATALOG.values())
        seconds.append(time.perf_counter() - started)
    assert found.record is not None
    size = f"{path.stat().st_size / 1e9:.1f} GB with {len(names)} tensors"
    row(f"recognising a LoRA of {size}", f"{median(seconds) * 1000:.1f} ms", f"slowest {max(seconds) * 1000:.1f} ms", "< 50 ms")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=7)
    rounds = parser.parse_args().rounds
    print(in_host.machine(), "\n")
    row("what", "medians", "result", "target")
    row("---", "---", "---", "---")
    with tempfile.TemporaryDirectory() as folder:
        recognition(rounds, Path(folder))
        sampling(rounds, Path(folder))


if __name__ == "__main__":
    main()
