"""The projection of a dual encoder's tower into the space that image and text share."""

from collections.abc import Mapping
from typing import Any

from torch import Tensor, nn

_NAMES = {"pixel_values": "visual_projection.weight", "input_ids": "text_projection.weight"}
"""The input of a tower -> the key of its projection in a dual encoder's checkpoint."""

_OWN = ("shared_projection.weight", "backbone.shared_projection.weight")
"""The keys under which an encoder of this library, and its backbone, hold it."""


def projection_of(module: nn.Module) -> Any:
    """Returns the projection that `add_projection` gave a backbone, or None.

    Args:
        module: the backbone.
    """
    return module._modules.get("shared_projection")


def projection_width(wanted: bool | int, config: Any, dual: Any) -> int | None:
    """Returns the width of the projection that the user asked for, or None.

    Args:
        wanted: True takes the width that the config says; a number is the width.
        config: of the tower.
        dual: config of the dual encoder that it is a tower of, or None.

    Raises:
        ValueError: if nothing says how wide it is, or if the model has none.
    """
    if wanted is False or wanted is None:
        return None
    family = config.model_type
    if wanted is not True:
        if not isinstance(wanted, int) or wanted < 1:
            raise ValueError(
                f"projection must be True, False or a width above 0, got {wanted!r}. True takes "
                "the published width."
            )
        return wanted
    width = getattr(config if dual is None else dual, "projection_dim", None)
    if not isinstance(width, int) or width < 1:
        reason = (
            "Its pooled vector is compared with the other tower's as it is."
            if family.startswith("siglip")
            else "It belongs to no dual encoder with a projection_dim."
        )
        raise ValueError(
            f"projection must be False for {family!r}, got True. {reason} Leave projection out."
        )
    return width


def add_projection(backbone: Any, in_width: int, out_width: int) -> None:
    """Adds a projection with random weights to a backbone, as a part of it.

    Args:
        backbone: the tower.
        in_width: width of its pooled vector.
        out_width: width of the projected vector.
    """
    weight = next(backbone.parameters())
    projection = nn.Linear(
        in_width, out_width, bias=False, device=weight.device, dtype=weight.dtype
    )
    if not weight.is_meta:
        # As CLIP draws it.
        nn.init.normal_(projection.weight, std=in_width**-0.5)
    backbone.add_module("shared_projection", projection)


def add_built_projection(built: Any, in_width: int, *, takes: str, checkpoint: Any) -> None:
    """Adds the projection that was asked for to a backbone, with the weights of the checkpoint.

    Args:
        built: what `build_transformers` returned.
        in_width: width of the pooled vector.
        takes: as for `take_projection`.
        checkpoint: the name from which the weights come; None draws them at random.

    Raises:
        ValueError: if the checkpoint lacks it.
    """
    if built.projection is None:
        return
    add_projection(built.backbone, in_width, built.projection)
    if checkpoint is not None:
        what = f"checkpoint {checkpoint!r}"
        held = checked_projection(built.backbone, built.weight, takes=takes, what=what)
        built.backbone.load_state_dict(held, strict=False)


def refuse_projection(projection: bool | int, pooling: str | None = None) -> None:
    """Refuses options that only models of transformers have.

    Args:
        projection: what the user said.
        pooling: what the user said of an image encoder.

    Raises:
        ValueError: if one is set.
    """
    if projection is not False or pooling is not None:
        name, value = ("projection", projection) if pooling is None else ("pooling", pooling)
        raise ValueError(
            f"{name} must be left out for this encoder, got {value!r}. It belongs to models of "
            "transformers."
        )


def take_projection(
    state: dict[str, Tensor], takes: str
) -> tuple[dict[str, Tensor], Tensor | None]:
    """Returns a checkpoint without its tower's projection, and the projection; None if it has none.

    Args:
        state: all tensors of the checkpoint by key.
        takes: the tower's only input: "input_ids" or "pixel_values".

    Raises:
        ValueError: if there are several.
    """
    name = _NAMES[takes]
    found = [key for key in state if key in (name, *_OWN) or key.endswith(f".{name}")]
    if len(found) > 1:
        raise ValueError(
            f"weights must hold one projection, got {sorted(found)}. Pass the tensors of one model."
        )
    rest = {key: value for key, value in state.items() if key not in found}
    return rest, state[found[0]] if found else None


def checked_projection(
    backbone: Any, weight: Tensor | None, *, takes: str, what: str
) -> Mapping[str, Tensor]:
    """Returns the projection's weights by the backbone's own keys.

    Args:
        backbone: the tower, with its projection.
        weight: what the checkpoint holds.
        takes: as for `take_projection`.
        what: the checkpoint, for the error.

    Raises:
        ValueError: if it is missing or of another shape.
    """
    projection = projection_of(backbone)
    own = tuple(projection.weight.shape)
    if weight is None or tuple(weight.shape) != own:
        found = "none" if weight is None else f"{tuple(weight.shape)}"
        raise ValueError(
            f"{what} must hold the projection {_NAMES[takes]} {own}, got {found}. Leave "
            "projection out, or name a checkpoint of the whole dual encoder."
        )
    return {"shared_projection.weight": weight}
