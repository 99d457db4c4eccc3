"""The command line: `mmfusion train`, `compare`, `evaluate`, `predict` and so on."""

from . import commands as commands
from . import commands_serving as commands_serving
from . import commands_training as commands_training
from .app import app

__all__ = ["app"]
