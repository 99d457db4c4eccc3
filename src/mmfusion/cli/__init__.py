"""The command line `mmfusion train | compare | evaluate | predict | audit | export`."""

from .commands import app

__all__ = ["app"]
