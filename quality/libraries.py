"""The libraries that a drawing or a figure needs, and what to say where one cannot be used.

ComfyUI brings torch, torchvision, safetensors and tqdm, but neither matplotlib nor torchmetrics:
those are in requirements.txt. They are imported inside functions, so that the pack loads without
them, and a node asks here before it works.
"""

from __future__ import annotations


def matplotlib_missing() -> str:
    """Why nothing can be drawn in this Python, and what to do; empty where it can be."""
    try:
        import matplotlib.backends.backend_agg
        import matplotlib.figure  # noqa: F401
    except Exception as error:
        return in_words("matplotlib", error)
    return ""


def torchmetrics_missing() -> str:
    """Why PSNR and SSIM cannot be measured here, and what to do; empty if they can."""
    try:
        import torchmetrics.functional.image  # noqa: F401
    except Exception as error:
        return in_words("torchmetrics", error)
    return ""


def torchvision_missing() -> str:
    """Why torchvision, which has LPIPS' network, cannot be used here; empty if it can."""
    try:
        import torchvision.models  # noqa: F401
    except Exception as error:
        return in_words("torchvision", error)
    return ""


def in_words(package: str, error: Exception) -> str:
    """What to do about a package: install it, or repair what its import says.

    The import of an installed package may fail for any reason, such as being built for another
    numpy, so it is told in its own words.
    """
    if isinstance(error, ModuleNotFoundError) and error.name == package:
        return (
            f"{package} is not installed in ComfyUI's Python. Install it there (python -m pip"
            f" install {package}), or let ComfyUI-Manager install this pack's requirements.txt."
        )
    return (
        f"{package} is in ComfyUI's Python but cannot be imported ({type(error).__name__}:"
        f' {error}). Repair what this names, until python -c "import {package}" works there.'
    )
