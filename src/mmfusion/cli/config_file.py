"""Options of a command from a YAML file."""

from pathlib import Path
from typing import Any

import typer

from ..model.validation import did_you_mean
from .errors import check_input_file


def read_config(context: typer.Context, path: Path | None) -> Path | None:
    """Takes the options in a YAML file as the defaults of the command that runs.

    The keys are the names of the options without the dashes in front, such as `image-encoder`, or
    the name of an argument, such as `manifest`. An option that may be given several times has a
    list. Paths are relative to the working directory, as on the command line.

    Args:
        context: of the command.
        path: the file, or None.

    Raises:
        typer.BadParameter: if the file is no mapping, or has a key that the command does not know.
    """
    if path is None:
        return None
    import yaml

    try:
        check_input_file("--config", path)
        values = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (ValueError, OSError, yaml.YAMLError) as error:
        raise typer.BadParameter(" ".join(str(error).split())) from error
    if not isinstance(values, dict):
        raise typer.BadParameter(f"{str(path)!r} must hold lines such as `epochs: 3`.")
    names = _names(context)
    found: dict[str, Any] = {}
    for key, value in values.items():
        name = str(key).replace("_", "-")
        if name not in names:
            hint = did_you_mean(name, list(names))
            raise typer.BadParameter(f"{str(path)!r} has an unknown option {key!r}.{hint}")
        found |= _default(names[name], name, value)
    context.default_map = {**(context.default_map or {}), **found}
    return path


def _names(context: typer.Context) -> dict[str, Any]:
    """Returns the parameters of a command by the names that a user knows them by."""
    names: dict[str, Any] = {}
    for parameter in context.command.params:
        for option in [*parameter.opts, *parameter.secondary_opts]:
            if option.startswith("--") or parameter.param_type_name == "argument":
                names[option.lstrip("-").replace("_", "-")] = parameter
    return {name: one for name, one in names.items() if name not in ("config", "help")}


def _default(parameter: Any, name: str, value: Any) -> dict[str, Any]:
    """Returns the default that a value in the file gives to a parameter."""
    if getattr(parameter, "is_flag", False):
        if not isinstance(value, bool):
            raise typer.BadParameter(f"{name!r} must be true or false, got {value!r}.")
        negative = [option.lstrip("-") for option in parameter.secondary_opts]
        return {parameter.name: value is not (name in negative)}
    takes_many = parameter.multiple or parameter.nargs == -1
    if takes_many != isinstance(value, list) or isinstance(value, dict) or value is None:
        kind = "a list" if takes_many else "one value"
        raise typer.BadParameter(f"{name!r} must be {kind}, got {value!r}.")
    written = [str(one) for one in value] if takes_many else str(value)
    return {parameter.name: written}
