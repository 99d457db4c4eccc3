"""The processor's name.

This is a file of its own because unet.py runs as a script, outside of the package.
"""

from __future__ import annotations

import platform
from pathlib import Path


def processor() -> str:
    """Returns the processor's name, with its instructions that matter for matrix products."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return platform.processor()
    facts = {
        key.strip(): value.strip() for key, _, value in (line.partition(":") for line in lines)
    }
    wanted = ("avx2", "avx512f", "avx512_bf16", "amx_bf16")
    flags = facts.get("flags", "").split()
    return f"{facts.get('model name', '')} ({', '.join(flag for flag in wanted if flag in flags)})"
