"""Makes the host's classes importable for training: ``COMFYUI_DIR`` names the host, CPU only."""

import os
import sys
from pathlib import Path

HOST = os.environ.get("COMFYUI_DIR")
if not HOST:
    raise SystemExit("Set COMFYUI_DIR to a ComfyUI folder, or use: python scripts/host.py")
sys.path.insert(0, HOST)
sys.path.append(str(Path(__file__).parents[2]))

from comfy.cli_args import args  # noqa: E402

args.cpu = True
