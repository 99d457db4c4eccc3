"""Rewrite timm_smallest.json: `python tests/golden/make_timm_smallest.py`, some minutes.

For every module of timm, its model with the fewest parameters (counted on the meta device). What
the table says of each model's fate ("encodes" or "refuses" and why) is kept where the model stays
the same, and "unknown" otherwise: run `pytest tests/model/test_adapter_timm.py` and enter what it
reports.
"""

import json
from pathlib import Path

import timm
import torch

TABLE = Path(__file__).with_name("timm_smallest.json")


def parameters(name: str) -> int | None:
    """How many parameters the model has; None where it cannot be built on the meta device."""
    try:
        with torch.device("meta"):
            model = timm.create_model(name, num_classes=0)
    except (RuntimeError, NotImplementedError, AssertionError, TypeError, ValueError):
        return None
    return sum(parameter.numel() for parameter in model.parameters())


def smallest(module: str) -> tuple[int, str]:
    """Parameters and name of the smallest model of a timm module."""
    counted = {name: parameters(name) for name in timm.list_models(module=module)}
    known = [(count, name) for name, count in counted.items() if count is not None]
    if not known:
        raise RuntimeError(
            f"no model of timm's {module} can be built on the meta device: {sorted(counted)}"
        )
    return min(known)


def main() -> None:
    """Write the table."""
    old = json.loads(TABLE.read_text())["modules"] if TABLE.exists() else {}
    modules = {}
    for module in sorted(timm.list_modules()):
        if not timm.list_models(module=module):
            continue
        count, name = smallest(module)
        before = old.get(module, {})
        fate = before.get("fate", "unknown") if before.get("model") == name else "unknown"
        modules[module] = {"model": name, "parameters": count, "fate": fate}
    TABLE.write_text(json.dumps({"timm": timm.__version__, "modules": modules}, indent=1) + "\n")


if __name__ == "__main__":
    main()
