"""The entry point of `python -m mmfusion`."""

from .cli import app

if __name__ == "__main__":
    app(prog_name="mmfusion")
