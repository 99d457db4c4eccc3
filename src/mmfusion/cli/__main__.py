"""The entry point of `python -m mmfusion.cli`."""

from . import app

if __name__ == "__main__":
    app()
