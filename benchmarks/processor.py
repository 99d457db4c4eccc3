"""The processor's name; a file of its own, for scripts that are not run as a part of the package."""

from __future__ import annotations

import platform
from pathlib import Path


def processor() -> str:
    """The processor's name, and which of the instructions it has that decide how fast matrices are multiplied."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return platform.processor()
    found = {
        key.strip(): value.strip() for key, _, value in (line.partition(":") for line in lines)
    }
    wanted = ("avx2", "avx512f", "avx512_bf16", "amx_bf16")
    return f"{found.get('model name', '')} ({', '.join(flag for flag in wanted if flag in found.get('flags', '').split())})"
