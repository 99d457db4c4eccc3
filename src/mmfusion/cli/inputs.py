"""The model of a command, and the files of one sample."""

import re
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from ..model.validation import described_errors
from .errors import check_input_file, check_name
from .support import quiet_libraries

MOST_TEXT = 2**24
"""The most bytes of the text of one sample. An endless standard input would fill the memory."""

if TYPE_CHECKING:
    from ..model.modeling import FusionClassifier
    from ..model.processing import FusionProcessor


def check_model(name: str) -> None:
    """Refuses a name that can be no model, before anything is loaded.

    Args:
        name: a folder or a hub name.

    Raises:
        ValueError: saying what is there instead.
    """
    check_name("model", name)
    # A hub name has a slash. Without one, the name can only be a folder with a typing mistake.
    if not Path(name).is_dir() and "/" not in name.strip("/."):
        raise ValueError(
            "model must be a folder that holds a model or a hub name, "
            f"got {name!r}, which does not exist."
        )


def require_extra(extra: str, *packages: str) -> None:
    """Refuses a command whose packages are not installed.

    Args:
        extra: of mmfusion, which brings them.
        packages: their import names.

    Raises:
        ImportError: with the command that installs them.
    """
    from importlib.util import find_spec

    absent = [name for name in packages if find_spec(name) is None]
    if absent:
        raise ImportError(
            f"{', '.join(absent)} must be installed, got no such package. "
            f'Run: pip install "mmfusion[{extra}]"'
        )


def open_model(name: str) -> "tuple[FusionClassifier, FusionProcessor]":
    """Returns the classifier and the processor in a folder or on the hub."""
    check_model(name)
    quiet_libraries()
    is_folder = Path(name).is_dir()
    from ..model.modeling import FusionClassifier
    from ..model.processing import FusionProcessor

    # The readers of damaged files have many classes of errors.
    whole = described_errors(f"model {name!r}", "have whole files", "Copy or train it anew.")
    try:
        with whole:
            return FusionClassifier.from_pretrained(name), FusionProcessor.from_pretrained(name)
    except OSError as error:
        where = (
            "it cannot be read" if is_folder else "there is no such folder, nor can a hub give it"
        )
        raise ValueError(
            f"model must be a folder that holds a model or a hub name, got {name!r}: {where} "
            f"({str(error).partition(chr(10))[0]})."
        ) from error


def read_sample(image: list[Path] | None, text: str | None) -> str | None:
    """Returns the text of one sample, after its files were checked.

    Args:
        image: the files of its pictures, or None.
        text: the file of its text, "-" for standard input, the words themselves, or None.
    """
    for file in image or []:
        check_input_file("--image", file)
    if text is None or are_words(text):
        return text
    return read_text(Path(text))


def are_words(text: str) -> bool:
    """Returns whether a value of --text is the text itself and not the name of a file.

    Words have white space between them, no file has their name, and they do not end as the name of
    a file does. So a mistyped name is not taken for a text.

    Args:
        text: the value.

    Example:
        >>> are_words("no focal consolidation."), are_words("my reprot.txt"), are_words("-")
        (True, False, False)
    """
    looks_like_file = re.search(r"\.\w{1,5}$", text) or "\0" in text
    return bool(re.search(r"\S\s+\S", text)) and not looks_like_file and not _exists(text)


def _exists(name: str) -> bool:
    try:
        return Path(name).exists()
    # The words are too long for a name.
    except OSError:
        return False


def read_text(path: Path) -> str:
    """Returns the text of a UTF-8 file, or of standard input if the path is "-"."""
    if str(path) == "-":
        # Python has no standard input if it was closed. A test may put a text in its place.
        if sys.stdin is None or sys.stdin.closed:
            raise ValueError("--text must be a file if standard input is closed, got '-'.")
        content = sys.stdin.buffer.read(MOST_TEXT + 1)
    else:
        check_input_file("--text", path)
        with path.open("rb") as file:
            content = file.read(MOST_TEXT + 1)
    if len(content) > MOST_TEXT:
        raise ValueError(
            f"--text must have at most {MOST_TEXT} bytes, got more from {str(path)!r}. "
            "Give the text of one sample."
        )
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise ValueError(
            f"--text must be UTF-8, got {str(path)!r}, which is not at byte {error.start}."
        ) from error
    return text.replace("\r\n", "\n")
