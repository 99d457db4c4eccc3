"""Batch norm where a channel has one value: a batch with one present picture, in training.

One value has no variance, so torch raises an error. This happens where a modality is missing in all
samples of a batch but one, or where the last batch is of one sample, if the picture has shrunk to
one place. The running statistics stand in for those of the batch then, as in evaluation mode.
"""

from typing import Any

from torch import Tensor, nn

# torch has no public name for what its batch norms of one, two and three axes share.
_BatchNorm: Any = nn.modules.batchnorm._BatchNorm


def let_single_values_pass(backbone: nn.Module) -> None:
    """Makes every batch norm of a backbone use its running statistics for single values.

    Args:
        backbone: the backbone; it is changed in place.
    """
    for module in backbone.modules():
        if isinstance(module, _BatchNorm) and module.running_mean is not None:
            module.was_training = False
            module.register_forward_pre_hook(_enter)
            # Also after an error, so that the mode is always that of before.
            module.register_forward_hook(_leave, always_call=True)


def _enter(module: Any, inputs: tuple[Tensor, ...]) -> None:
    if module.training and inputs[0].numel() == inputs[0].shape[1]:
        # Only the flag of this module: parts inside it, such as an activation, keep their mode.
        module.training, module.was_training = False, True


def _leave(module: Any, inputs: tuple[Tensor, ...], output: Tensor | None) -> None:
    # torch.compile of torch 2.11 traces no removal of an attribute.
    if module.was_training:
        module.training, module.was_training = True, False
