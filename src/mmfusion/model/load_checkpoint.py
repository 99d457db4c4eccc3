"""The tensors of a checkpoint on a hub or in a folder, of one file or of several shards."""

from collections.abc import Sequence

from torch import Tensor

from .load_checks import weight_files
from .load_weights import read_weights


def read_checkpoint(name: str, stems: Sequence[str]) -> dict[str, Tensor]:
    """Returns all tensors of a checkpoint by key, of one file or of all its shards.

    Args:
        name: a hub name or a folder.
        stems: the names that the file may have, the preferred one first.

    Raises:
        ValueError: if there are no weights, or damaged ones.
    """
    for stem in stems:
        try:
            files = weight_files(name, stem)
            if files:
                return {key: value for file in files for key, value in read_weights(file).items()}
        except (OSError, ValueError) as error:
            raise ValueError(
                f"checkpoint {name!r} must hold undamaged weights: {str(error).splitlines()[0]}"
            ) from error
    raise ValueError(
        f"checkpoint {name!r} must hold weights ({stems[0]}), got none. Fetch it again, or "
        "pass pretrained=False."
    )
