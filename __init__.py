"""ComfyUI-SeedSelect: finds the noise from which a diffusion model draws a concept right."""

import logging

from .seedselect_core.requirements import host_version, refusal

_reason = refusal(host_version())
if _reason:
    logging.warning(_reason)
    NODE_CLASS_MAPPINGS = {}
else:
    from .nodes.extension import comfy_entrypoint as comfy_entrypoint

    WEB_DIRECTORY = "./web"
