"""The command line `mmfusion train | compare | evaluate | predict | explain | audit | export`."""

from .commands import app

__all__ = ["app"]
