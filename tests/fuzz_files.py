"""Coverage-guided fuzzing of everything here that reads files from elsewhere, with the assertions
of the hypothesis tests.

    pip install atheris
    python tests/fuzz_files.py header -runs=200000 [libFuzzer options]

atheris is for this alone, so it is not among the tests' requirements; Linux and macOS have it.

Targets: header, declaration, motion, layers, workflow. Run it with a Python that has torch,
safetensors, hypothesis and diffusers, such as the one scripts/host.py made. libFuzzer prints how
many inputs it has tried, and leaves the one that broke something.
"""

from __future__ import annotations

import contextlib
import json
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

import atheris

import conftest  # noqa: F401  loads the pack's root alone

with atheris.instrument_imports(include=["comfyui_fewstep", "batch_jobs", "workflow_inputs"]):
    import test_bad_workflows
    import test_declarations
    import test_fit
    import test_fuzz_header
    from comfyui_fewstep.motion.keys import Layout

    import test_motion

SCRATCH = Path(tempfile.mkdtemp(prefix="fuzz-"))


def header(data: bytes) -> None:
    test_fuzz_header.reads_or_refuses(SCRATCH / "file.safetensors", data)


def declaration(data: bytes) -> None:
    test_declarations.is_accelerator_or_refused(data.decode("utf-8", "replace"))


def shapes_in(data: bytes) -> dict[str, tuple[int, ...]] | None:
    """Names and shapes in JSON; None where it is none."""
    with contextlib.suppress(ValueError, RecursionError, TypeError, AttributeError, OverflowError):
        return {
            str(key): tuple(abs(int(size)) for size in shape)
            for key, shape in json.loads(data).items()
        }
    return None


def motion(data: bytes) -> None:
    if (shapes := shapes_in(data)) is not None:
        test_motion.is_module_or_refused(shapes)


def layers(data: bytes) -> None:
    if (shapes := shapes_in(data)) is not None:
        for weight in (test_fit.LINEAR, test_fit.CONV1, test_fit.CONV3, test_fit.NORM, None):
            test_fit.stays_within(shapes, weight)


def workflow(data: bytes) -> None:
    test_bad_workflows.runs_or_refuses(SCRATCH / "workflow.json", data)


# Target -> (function, what it starts from).
TARGETS: dict[str, tuple[Callable[[bytes], None], bytes]] = {
    "header": (header, test_fuzz_header.WHOLE),
    "declaration": (declaration, json.dumps(test_declarations.MINIMAL).encode()),
    "motion": (motion, json.dumps(test_motion.WHOLE[Layout.DIFFUSERS]).encode()),
    "layers": (
        layers,
        json.dumps(test_fit.pair((4, 32), (64, 4), alpha=(), diff_b=(64,))).encode(),
    ),
    "workflow": (workflow, json.dumps(test_bad_workflows.SHIPPED).encode()),
}


def main() -> None:
    target, first = TARGETS[sys.argv[1]]
    corpus = SCRATCH / "corpus"
    corpus.mkdir()
    (corpus / "first").write_bytes(first)
    atheris.Setup(
        [sys.argv[0], str(corpus), "-max_len=65536", f"-artifact_prefix={SCRATCH}/", *sys.argv[2:]],
        target,
    )
    atheris.Fuzz()


if __name__ == "__main__":
    main()
