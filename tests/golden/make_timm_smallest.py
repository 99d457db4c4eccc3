"""The script that rewrites timm_smallest.json; it takes some minutes.

    python tests/golden/make_timm_smallest.py

For every module of timm the table names the model with the fewest parameters, counted on the meta
device. The "fate" of a model says whether it encodes, or why it is refused. It stays where the
model stays the same, and becomes "unknown" where the model is new. Then run
`pytest tests/model/test_adapter_timm.py` and enter what it reports.
"""

import json
from pathlib import Path

import timm
import torch

TABLE = Path(__file__).with_name("timm_smallest.json")


def parameters(name: str) -> int | None:
    """Returns the number of parameters; None where the meta device cannot build the model."""
    try:
        with torch.device("meta"):
            model = timm.create_model(name, num_classes=0)
    except (RuntimeError, NotImplementedError, AssertionError, TypeError, ValueError):
        return None
    return sum(parameter.numel() for parameter in model.parameters())


def smallest(module: str) -> tuple[int, str]:
    """Returns the parameters and the name of the smallest model of a timm module."""
    counted = {name: parameters(name) for name in timm.list_models(module=module)}
    buildable = [(count, name) for name, count in counted.items() if count is not None]
    if not buildable:
        raise RuntimeError(
            f"no model of timm's {module} can be built on the meta device: {sorted(counted)}"
        )
    return min(buildable)


def main() -> None:
    """Writes the table."""
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
