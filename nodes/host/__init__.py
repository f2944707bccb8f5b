"""The only room that knows ComfyUI's objects. Node files know comfy_api's io alone."""
