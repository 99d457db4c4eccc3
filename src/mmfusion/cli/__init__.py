"""The command line `mmfusion train | compare | evaluate | predict | explain | audit | export`."""

from . import commands as commands
from . import commands_training as commands_training
from .app import app

__all__ = ["app"]
