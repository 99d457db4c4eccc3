"""The versions of the packages that decide the figures of a training."""

import platform
from importlib.metadata import PackageNotFoundError, version

_PACKAGES = ("mmfusion", "torch", "transformers", "timm", "scikit-learn", "numpy")


def versions() -> dict[str, str]:
    """Returns the versions of Python and of the packages that decide the figures.

    Example:
        >>> sorted(versions())
        ['mmfusion', 'numpy', 'python', 'scikit-learn', 'timm', 'torch', 'transformers']
    """
    return {"python": platform.python_version()} | {name: version_of(name) for name in _PACKAGES}


def version_of(package: str) -> str:
    """Returns the version of an installed package, or "not installed", as in a bare checkout.

    Args:
        package: the name of the distribution.
    """
    try:
        return version(package)
    except PackageNotFoundError:
        return "not installed"
