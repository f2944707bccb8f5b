"""ComfyUI-FewStep: attach a distillation accelerator, sample it as distilled, say what was done."""

WEB_DIRECTORY = "./web"


async def comfy_entrypoint():
    """The host's entry point. It imports late, so that tools can import the pure parts alone."""
    import logging

    try:
        from .nodes import FewStepExtension
    except Exception:
        # The host reports a failing custom node in one line without a traceback.
        logging.getLogger(__name__).exception("ComfyUI-FewStep could not be loaded")
        raise
    return FewStepExtension()
