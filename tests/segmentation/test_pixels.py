"""The normalisation of brightness."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from mmfusion.segmentation.pixels import standardized


@given(arrays(np.uint8, (12, 12)), st.floats(0.1, 10), st.floats(-100, 100))
def test_brightness_and_contrast_do_not_matter(pixels, contrast, brightness):
    np.testing.assert_allclose(
        standardized(pixels * contrast + brightness), standardized(pixels), atol=2e-3
    )


def test_a_picture_of_one_value_becomes_zero():
    assert (standardized(np.full((4, 4), 77)) == 0).all()
