"""The host tier: a real ComfyUI in this process, and a real server beside it.

scripts/test.py says which ComfyUI in COMFYUI_PATH and runs these tests with that ComfyUI's own
Python.
"""

from __future__ import annotations

import contextlib
import gc
import os
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

HERE = Path(__file__).resolve().parent
HOST_ROOT = os.environ.get("COMFYUI_PATH")

if not HOST_ROOT:
    raise pytest.UsageError(
        "the host tier needs a ComfyUI: run `python scripts/test.py`, or set COMFYUI_PATH"
    )

sys.path.append(str(HERE))
from thinning import EVERYTHING  # noqa: E402

from enter_host import enter_host  # noqa: E402

enter_host(Path(HOST_ROOT))
from comfy.cli_args import args  # noqa: E402

# A plain run attends by torch's own function, as ComfyUI does on most cards; one of everything by
# what ComfyUI takes on a CPU, which is slower.
args.use_pytorch_cross_attention = not EVERYTHING

import folder_paths  # noqa: E402
import torch  # noqa: E402

from comfy_server import Server, running_server  # noqa: E402
from host import Host, default_cache, tree_version  # noqa: E402
from stand_in_models import make_model, place  # noqa: E402

MODEL_FOLDERS = (
    "loras",
    "checkpoints",
    "diffusion_models",
    "vae",
    "vae_approx",
    "text_encoders",
    "animatediff_models",
)


# Servers, and files whose models cost more to make twice than two processes gain.
SERVERS, TOGETHER = ("server", "lesser_server"), ("test_claims",)


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Where several processes run the tests, one of them runs all that share a server."""
    if not config.pluginmanager.hasplugin("xdist"):
        return
    for item in items:
        shared = [name for name in SERVERS if name in item.fixturenames]
        if shared or item.path.stem in TOGETHER:
            item.add_marker(pytest.mark.xdist_group(shared[0] if shared else item.path.stem))


def pytest_collection_finish() -> None:
    """What is there by now stays: the garbage collector, which the host calls after runs and tests
    of memory after steps, need not look through millions of objects of imported modules each time.
    """
    gc.collect()
    gc.freeze()


@pytest.fixture(scope="session")
def host() -> Host:
    """The ComfyUI these tests run on."""
    root = Path(HOST_ROOT)
    return Host(root, Path(sys.executable), tree_version(root) or "unknown")


@pytest.fixture(scope="session")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A models folder for this session, known to the in-process ComfyUI; `models / "loras"` and so
    on exist.
    """
    base = tmp_path_factory.mktemp("models")
    for name in MODEL_FOLDERS:
        (base / name).mkdir()
        folder_paths.add_model_folder_path(name, str(base / name), is_default=True)
    return base


@pytest.fixture(autouse=True)
def fresh_file_lists() -> None:
    """ComfyUI remembers folder listings; a file that a test has just written must be found."""
    folder_paths.filename_list_cache.clear()


@pytest.fixture(scope="session")
def unets() -> dict:
    """Small MODELs built in this process: sd15, sdxl, ssd1b. Clone before patching."""
    from small_models import UNETS, unet_patcher

    return {architecture: unet_patcher(architecture) for architecture in UNETS}


@pytest.fixture(scope="session")
def server(host: Host, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A real server with the pack, the support nodes and small models in its base directory, cut
    off from every other machine.

    What tried to leave is in <base>/network.log, and fails the last of its tests. Its
    models/diffusion_models holds <variant>.safetensors for every Wan variant, and flux; models/vae
    holds wan_vae.
    """
    from small_models import WANS, write_flux, write_wan, write_wan_vae

    base = tmp_path_factory.mktemp("server")
    for variant in WANS:
        write_wan(base / "models" / "diffusion_models" / f"{variant}.safetensors", variant)
    write_flux(base / "models" / "diffusion_models" / "flux.safetensors")
    write_wan_vae(base / "models" / "vae" / "wan_vae.safetensors")
    (base / "models" / "loras").mkdir()
    packs = {"fewstep-test-support": HERE / "support_nodes"}
    with contextlib.ExitStack() as stack:
        with pytest.MonkeyPatch.context() as patch:
            patch.setenv("PYTHONPATH", str(HERE / "no_network"), prepend=os.pathsep)
            patch.setenv("FEWSTEP_NETWORK_LOG", str(base / "network.log"))
            running = stack.enter_context(
                running_server(
                    host,
                    base,
                    packs=packs,
                    cpu=not torch.cuda.is_available(),
                    extra_args=[] if EVERYTHING else ["--use-pytorch-cross-attention"],
                )
            )
        yield running
    log = base / "network.log"
    assert not log.exists(), log.read_text(encoding="utf-8")


@pytest.fixture(scope="session")
def sd15_files(host: Host, server: Server) -> dict[str, str]:
    """Full-width SD 1.5 for the server, under its published names: {"checkpoint": ..., "lora":
    ...}. 2 GB, made once.
    """
    names = {
        "checkpoint": "v1-5-pruned-emaonly-fp16.safetensors",
        "lora": "lcm-lora-sdv1-5.safetensors",
    }
    models = server.base / "models"
    place(
        make_model(host, "sd15-checkpoint", default_cache()),
        models / "checkpoints" / names["checkpoint"],
    )
    place(make_model(host, "sd15-lcm-lora", default_cache()), models / "loras" / names["lora"])
    return names
