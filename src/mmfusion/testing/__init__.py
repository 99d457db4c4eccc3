"""The conformance kit: checks of plug-ins, one per law of the library, and tiny test models."""

from .batches import Batch, corrupted, repadded, tiny_batch
from .checks import (
    check_classifier,
    check_encoder,
    check_fusion,
    check_mapper,
)
from .laws import (
    check_batch_law,
    check_compiled_law,
    check_composing_law,
    check_frozen_law,
    check_gradient_law,
    check_missing_law,
    check_packing_law,
    check_padding_law,
    check_repeatable_law,
    check_static_law,
    check_walk_law,
    tower_work,
)
from .round_trip import check_round_trip_law
from .tiny import (
    IMAGE_KINDS,
    TEXT_KINDS,
    redraw_parameters,
    tiny_classifier,
    tiny_config,
    tiny_image_encoder,
    tiny_text_encoder,
)

__all__ = [
    "IMAGE_KINDS",
    "TEXT_KINDS",
    "Batch",
    "check_batch_law",
    "check_classifier",
    "check_compiled_law",
    "check_composing_law",
    "check_encoder",
    "check_frozen_law",
    "check_fusion",
    "check_gradient_law",
    "check_mapper",
    "check_missing_law",
    "check_packing_law",
    "check_padding_law",
    "check_repeatable_law",
    "check_round_trip_law",
    "check_static_law",
    "check_walk_law",
    "corrupted",
    "redraw_parameters",
    "repadded",
    "tiny_batch",
    "tiny_classifier",
    "tiny_config",
    "tiny_image_encoder",
    "tiny_text_encoder",
    "tower_work",
]
