"""The table of fusion strategies, and the names under which they are made and saved.

A new strategy is a file `fusion_<name>.py` and one row of `FUSIONS`. The contracts, the
documentation, the command line and the benchmarks read the table.
"""

from typing import Any

from .fusion_base import Fusion
from .fusion_bottleneck import Bottleneck as Bottleneck
from .fusion_concat import Concat as Concat
from .fusion_cross_attention import CrossAttention as CrossAttention
from .fusion_film import FiLM as FiLM
from .fusion_gated import Gated as Gated
from .fusion_guarded import Guarded as Guarded
from .fusion_joint import Joint as Joint
from .fusion_late import Late as Late
from .fusion_low_rank import LowRank as LowRank
from .fusion_mmtm import MMTM as MMTM
from .fusion_tokens import TokenTransformer as TokenTransformer
from .validation import closest

FUSIONS: dict[str, type[Fusion]] = {
    "concat": Concat,
    "joint": Joint,
    "cross_attention": CrossAttention,
    "mmtm": MMTM,
    "bottleneck": Bottleneck,
    "film": FiLM,
    "gated": Gated,
    "low_rank": LowRank,
    "tokens": TokenTransformer,
    "late": Late,
    "guarded": Guarded,
}
"""The table of strategies: name -> class."""

BUILT_IN = tuple(FUSIONS)
"""The names that come with the library; `register_fusion` adds others to the table."""


def make_fusion(name: str, **options: Any) -> Fusion:
    """Returns the strategy called `name`, not yet built.

    Args:
        name: in the table.
        **options: of the strategy.

    Raises:
        ValueError: for an unknown name or option (the closest one is named).

    Example:
        >>> make_fusion("late", combine="product").options
        {'combine': 'product'}
        >>> make_fusion("conact")
        Traceback (most recent call last):
            ...
        ValueError: fusion must be a known strategy, got 'conact'. Did you mean 'concat'?
    """
    if name not in FUSIONS:
        raise ValueError(
            f"fusion must be a known strategy, got {name!r}. {closest(name, list(FUSIONS))}"
        )
    strategy = FUSIONS[name]
    try:
        return strategy(**options)
    except TypeError as error:
        raise ValueError(
            f"options of fusion {name!r} must be what {strategy.__name__} takes, got {options!r}: "
            f"{error}."
        ) from error


def name_of(fusion: Fusion) -> str:
    """Returns the name of a strategy's class in the table.

    Args:
        fusion: a strategy.

    Raises:
        ValueError: when it was not registered.
    """
    for name, strategy in FUSIONS.items():
        if type(fusion) is strategy:
            return name
    raise ValueError(
        f"fusion must be of a registered class, got {type(fusion).__name__}. "
        f"Call register_fusion('a-name', {type(fusion).__name__}) first, so that the classifier "
        "can be saved and rebuilt."
    )


def fusion_options(fusion: Any) -> Any:
    """Returns what a config keeps of a strategy: its name and options.

    Args:
        fusion: a strategy; a name or a mapping comes back as it is.
    """
    return {"name": name_of(fusion)} | fusion.options if isinstance(fusion, Fusion) else fusion


def register_fusion(name: str, strategy: type[Fusion]) -> None:
    """Adds a strategy of your own to the table.

    Args:
        name: under which it is saved.
        strategy: the class.

    Raises:
        TypeError: when it is no subclass of Fusion.
        ValueError: when the name is taken.

    Example:
        >>> register_fusion("concat", Concat)  # the same class again does no harm
    """
    if not (isinstance(strategy, type) and issubclass(strategy, Fusion)):
        raise TypeError(
            f"strategy must be a subclass of Fusion, got {strategy!r}. Subclass mmfusion.Fusion."
        )
    if FUSIONS.get(name, strategy) is not strategy:
        raise ValueError(
            f"name must be new, got {name!r}, which {FUSIONS[name].__name__} has. Choose another "
            "name."
        )
    FUSIONS[name] = strategy
