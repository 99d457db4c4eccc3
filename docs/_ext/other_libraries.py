"""A Sphinx extension that links names of other libraries to their documentation.

The extension intersphinx fetches lists of names. It cannot where there is no network, and
transformers and datasets publish no such lists.
"""

from __future__ import annotations

from typing import Any

from docutils import nodes

_TORCH = "https://docs.pytorch.org/docs/stable/"
_DATASETS = "https://huggingface.co/docs/datasets/package_reference/main_classes"
_TRANSFORMERS = "https://huggingface.co/docs/transformers/main_classes/"

PAGES = {
    "torch.Tensor": f"{_TORCH}tensors.html",
    "torch.dtype": f"{_TORCH}tensor_attributes.html",
    "torch.device": f"{_TORCH}tensor_attributes.html",
    "torch.nn.Module": f"{_TORCH}generated/torch.nn.Module.html",
    "datasets.Dataset": _DATASETS,
    "datasets.DatasetDict": _DATASETS,
    "transformers.PreTrainedConfig": f"{_TRANSFORMERS}configuration",
    "transformers.PreTrainedModel": f"{_TRANSFORMERS}model",
    "transformers.TrainingArguments": f"{_TRANSFORMERS}trainer",
}
"""Public name -> the page that documents it, on which it is an anchor."""

OTHER_NAMES = {
    "Tensor": "torch.Tensor",
    "nn.Module": "torch.nn.Module",
    "torch.nn.modules.module.Module": "torch.nn.Module",
    "datasets.arrow_dataset.Dataset": "datasets.Dataset",
    "datasets.dataset_dict.DatasetDict": "datasets.DatasetDict",
    "PreTrainedModel": "transformers.PreTrainedModel",
    "TrainingArguments": "transformers.TrainingArguments",
    "transformers.configuration_utils.PreTrainedConfig": "transformers.PreTrainedConfig",
    "transformers.modeling_utils.PreTrainedModel": "transformers.PreTrainedModel",
    "transformers.training_args.TrainingArguments": "transformers.TrainingArguments",
}
"""A name as annotations and docstrings have it -> the public name."""


def _link(_: Any, __: Any, node: Any, shown: nodes.TextElement) -> nodes.reference | None:
    """Returns a link for a name that this documentation does not have, or None."""
    target = node.get("reftarget", "")
    name = OTHER_NAMES.get(target, target)
    if name not in PAGES:
        return None
    address = f"{PAGES[name]}#{name}"
    return nodes.reference("", "", shown, internal=False, refuri=address, reftitle=name)


def setup(app: Any) -> dict[str, bool]:
    """Registers the function that is asked for names without a target."""
    app.connect("missing-reference", _link)
    return {"parallel_read_safe": True}
