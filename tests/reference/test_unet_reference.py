"""UNetSegmenter, compared with a U-Net in plain torch of the same weights.

The plain U-Net follows the figure of the paper.
"""

import keras
import numpy as np
import pytest
import torch
from plain_unet import plain_copy

from mmfusion import UNetSegmenter


@pytest.mark.parametrize("training", [False, True])
def test_it_is_the_plain_u_net(training):
    keras.utils.set_random_seed(0)
    model = UNetSegmenter(4, 3, dtype="float64")
    generator = np.random.default_rng(0)
    for weight in model.weights:
        values = generator.normal(0, 0.3, weight.shape)
        weight.assign(
            np.abs(values) + 0.5 if weight.path.endswith(("variance", "gamma")) else values
        )
    plain = plain_copy(model).double().train(training)
    inputs = generator.random((3, 32, 48, 1))
    wanted = (
        plain(torch.from_numpy(inputs).permute(0, 3, 1, 2)).permute(0, 2, 3, 1).detach().numpy()
    )
    got = keras.ops.convert_to_numpy(model(inputs, training=training))
    assert wanted.std() > 0.01
    np.testing.assert_allclose(got, wanted, atol=1e-5)
