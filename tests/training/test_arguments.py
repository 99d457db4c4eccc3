"""The arguments of the Trainer: a misspelt option is named."""

import pytest

from mmfusion.training.arguments import training_arguments


def test_a_misspelt_training_option_is_named():
    with pytest.raises(ValueError, match="no option 'learning_rte'. Did you mean 'learning_rate'"):
        training_arguments("out", learning_rte=1e-3)
