"""The command line `mmfusion train | evaluate | predict | audit | export`."""

from .commands import app

__all__ = ["app"]
