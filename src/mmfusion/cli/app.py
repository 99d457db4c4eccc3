"""The Typer application that the commands belong to."""

import atexit
import gc
import logging
from typing import Annotated

import typer

from .. import __version__

HELP = "Classify samples made of an image and a text, and say honestly how well."

app = typer.Typer(
    name="mmfusion",
    help=HELP,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


def _print_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"mmfusion {__version__}")
        raise typer.Exit


@app.callback(help=HELP)
def main(
    version: Annotated[
        bool,
        typer.Option(
            "--version", is_eager=True, callback=_print_version, help="Print the version."
        ),
    ] = False,
) -> None:
    """Sets up what all commands share."""
    # torch and transformers bring a million objects. The collector would search them for garbage
    # several times while they are imported, and once more at the exit.
    gc.set_threshold(5_000, 10, 10)
    atexit.register(gc.freeze)
    # torchao 0.18 registers two enums in a way that torch 2.14 calls deprecated, at every import.
    logging.getLogger("torch.utils._pytree").setLevel(logging.ERROR)
