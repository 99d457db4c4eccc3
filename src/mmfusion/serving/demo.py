"""The page of `mmfusion demo`: drop a picture, write a note, and see the answer and its reasons."""

import json
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from html import escape
from pathlib import Path
from typing import Any, final

import gradio as gr
import numpy as np
from PIL import Image

from ..inference.explain import explain
from ..inference.explain_gradients import IMAGE_METHODS
from ..inference.explain_html import page
from ..inference.explain_sample import class_names
from ..inference.explanation import Explanation
from ..model.images import decode_image
from ..model.missing import is_blank
from ..model.modeling import FusionClassifier
from ..model.processing import FusionProcessor
from .limits import Limits

Parts = tuple[FusionClassifier, FusionProcessor]
Segmenter = Callable[[Image.Image], Any]
"""What `LungSegmenter` is: a function from a picture to a `LungMask`."""

SYNTHETIC = (
    "This model knows only synthetic pictures and made-up notes. It shows what mmfusion does. Its "
    "answers to real pictures mean nothing."
)
RESEARCH = "For research. Not a medical device: do not use it to diagnose or treat anyone."
MOST_PROBABLE = "the most probable class"
_MOST_FILES = 16
_TEMPLATE = "{}. Write one JSON object with the columns of the model's template: {}"
_CSS = """
.mm-note { padding: .5rem .9rem; margin: .3rem 0; border-radius: 4px;
  border-left: 4px solid #8a94a3;
  background: rgba(138, 148, 163, .15); }
.mm-warning { border-left-color: #d08700; background: rgba(208, 135, 0, .15); }
.mm-page { width: 100%; height: 96rem; border: 0; border-radius: 4px; background: transparent; }
"""


@final
@dataclass(frozen=True)
class Shown:
    """What the page shows of one sample.

    Attributes:
        probabilities: class -> probability.
        notes: sentences on the model and the sample, each with whether it is a warning.
        page: the page of the explanation, as HTML.
        lungs: the picture with the lungs marked, or None.
    """

    probabilities: Mapping[str, float]
    notes: Sequence[tuple[str, bool]]
    page: str
    lungs: Image.Image | None


def show(
    parts: Parts,
    files: Sequence[bytes],
    text: str | None,
    *,
    target: str | None = None,
    method: str = "auto",
    segmenter: Segmenter | None = None,
    limits: Limits | None = None,
) -> Shown:
    """Returns what the page shows of one sample.

    Args:
        parts: the classifier and its processor.
        files: the contents of the files of its pictures.
        text: its text. For a model with a template: a JSON object with the values of its columns.
        target: the class to explain; None takes the most probable one.
        method: of the heat map, as `explain` takes it.
        segmenter: marks the lungs of the first picture; None: no lungs.
        limits: what may be asked for.

    Raises:
        ImageError: if a picture cannot be read.
        ValueError: if the sample has no modality, another one than the model, or too much of one.
    """
    model, processor = parts
    limits = limits or Limits()
    if text is not None and len(text) > limits.most_characters:
        raise ValueError(
            f"text must have at most {limits.most_characters} characters, got {len(text)}."
        )
    if len(files) > min(processor.num_views, _MOST_FILES):
        raise ValueError(
            f"pictures must be at most {processor.num_views} for this model, got {len(files)}."
        )
    pictures = [
        decode_image(content, f"picture {number}", max_pixels=limits.most_pixels)
        for number, content in enumerate(files, start=1)
    ]
    written = None if is_blank(text) else _values(processor, text or "")
    for name, given in (("image", bool(pictures)), ("text", written is not None)):
        if given and name not in model.modalities:
            raise ValueError(f"{name} must be left out: this model reads {model.modalities[0]}.")
    if not pictures and written is None:
        raise ValueError("Give a picture, a text, or both.")
    found = explain(
        model,
        processor,
        pictures if len(pictures) > 1 else next(iter(pictures), None),
        written,
        target=target,
        method=method,
    )
    notes = list(_notes(model, found))
    lungs = None
    if segmenter is not None and pictures:
        lungs, doubts = _lungs(segmenter, pictures[0])
        notes += [(doubt, True) for doubt in doubts]
    return Shown(found.probabilities, notes, page(found), lungs)


def _values(processor: FusionProcessor, text: str) -> Any:
    """Returns the text, or the values of a template's columns."""
    if processor.template is None:
        return text
    try:
        values = json.loads(text)
    except ValueError as error:
        raise ValueError(_TEMPLATE.format(error, processor.template)) from None
    if not isinstance(values, dict):
        raise ValueError(_TEMPLATE.format("The text is no object", processor.template))
    return values


def _notes(model: FusionClassifier, found: Explanation) -> Iterator[tuple[str, bool]]:
    """Yields sentences on the answer, each with whether it is a warning."""
    for note in found.notes:
        yield note, True
    temperature = model.config.temperature
    yield (
        f"The probabilities are calibrated: the logits are divided by {temperature:.2f}, which was "
        "chosen on validation samples."
        if temperature != 1
        else "The temperature of the model is 1: no calibration changed its probabilities.",
        False,
    )
    for name, without in found.without.items():
        if without:
            other = max(without, key=lambda key: without[key])
            yield (
                f"Without the {name}, {other} would be the most probable class "
                f"({without[other]:.0%}). With it, {found.target} has "
                f"{found.probabilities[found.target]:.0%}.",
                False,
            )


def _lungs(segmenter: Segmenter, picture: Image.Image) -> tuple[Image.Image, list[str]]:
    """Returns a picture with its lungs in colour, and why it may be no chest X-ray."""
    with warnings.catch_warnings():
        # The doubts are shown on the page.
        warnings.simplefilter("ignore")
        found = segmenter(picture)
    shown = np.asarray(picture.convert("RGB"), dtype=np.float32)
    shown[found.mask] = 0.65 * shown[found.mask] + 0.35 * np.array([70, 190, 255], np.float32)
    doubts = [f"This may be no frontal chest X-ray: {reason}" for reason in found.reasons]
    return Image.fromarray(np.rint(shown).astype(np.uint8)), doubts


def make_demo(
    models: Mapping[str, Parts],
    *,
    segmenter: Segmenter | None = None,
    examples: Sequence[tuple[Path, str]] = (),
    notice: str | None = None,
    limits: Limits | None = None,
) -> gr.Blocks:
    """Returns the page of one or more models, as an application of Gradio.

    Gradio looks every five minutes for uploaded files that are older than a quarter of an hour, and
    deletes them.

    Args:
        models: name -> the classifier and its processor.
        segmenter: marks the lungs; None leaves this part out.
        examples: pictures with their texts, to begin with.
        notice: stands at the top, such as what the model was trained on.
        limits: what a visitor may ask for.
    """
    names = list(models)
    answer = _answerer(models, segmenter, limits)
    with gr.Blocks(title="mmfusion", analytics_enabled=False, delete_cache=(300, 900)) as demo:
        gr.Markdown(f"# mmfusion\n{RESEARCH}")
        if notice is not None:
            gr.HTML(_note(notice, True))
        with gr.Row():
            with gr.Column(scale=2, min_width=300):
                inputs, button = _fields(
                    names, {name: class_names(models[name][0]) for name in names}
                )
                for number, (path, words) in enumerate(examples, start=1):
                    gr.Button(f"Synthetic example {number}", size="sm").click(
                        partial(_filled, path, words), None, inputs[1:3], show_progress="hidden"
                    )
            with gr.Column(scale=3, min_width=300):
                label = gr.Label(label="Probabilities", num_top_classes=8)
                notes = gr.HTML()
        with gr.Tabs():
            with gr.Tab("Why"):
                why = gr.HTML()
            with gr.Tab("Lungs", visible=segmenter is not None):
                lungs = gr.Image(label="Lungs", type="pil", format="png", interactive=False)
        # One at a time: an explanation sets hooks on the model.
        button.click(answer, inputs, [notes, label, why, lungs], concurrency_limit=1)
    return demo


def _fields(names: Sequence[str], classes: Mapping[str, list[str]]) -> tuple[list[Any], gr.Button]:
    """Returns the fields of the page in the order of the answer's arguments, and the button."""
    name = gr.Dropdown(names, value=names[0], label="Model", visible=len(names) > 1)
    files = gr.File(
        label="Picture (PNG, JPEG, TIFF, DICOM ...)",
        file_count="multiple",
        type="binary",
        height=140,
    )
    text = gr.Textbox(label="Note", lines=4, placeholder="The clinical text.")

    def targets(chosen: str) -> gr.Dropdown:
        return gr.Dropdown(
            [MOST_PROBABLE, *classes[chosen]], value=MOST_PROBABLE, label="Class to explain"
        )

    with gr.Accordion("More", open=False):
        target = targets(names[0])
        method = gr.Dropdown(list(IMAGE_METHODS), value="auto", label="Heat map")
    name.change(targets, [name], [target])
    return [name, files, text, target, method], gr.Button("Classify", variant="primary")


def _answerer(
    models: Mapping[str, Parts], segmenter: Segmenter | None, limits: Limits | None
) -> Callable[..., Any]:
    """Returns the function from the fields of the page to what it shows."""

    def answer(name: str, files: list[bytes] | None, text: str, target: str, method: str) -> Any:
        chosen = None if target == MOST_PROBABLE else target
        how: dict[str, Any] = {"target": chosen, "method": method, "segmenter": segmenter}
        try:
            found = show(models[name], files or [], text, limits=limits, **how)
        except (ValueError, TypeError, OSError, ImportError) as error:
            # A mistake of the visitor is no fault to be printed here.
            raise gr.Error(str(error), duration=None, print_exception=False) from None
        return (
            "".join(_note(text, is_warning) for text, is_warning in found.notes),
            dict(found.probabilities),
            # The sandbox forbids scripts and links, whatever a text or a class name holds.
            f'<iframe class="mm-page" sandbox title="Why" srcdoc="{escape(found.page)}"></iframe>',
            found.lungs,
        )

    return answer


def launch(demo: gr.Blocks, *, host: str, port: int, limits: Limits, opens: bool = False) -> str:
    """Returns the address of the page, which listens from now on and asks no other host.

    Args:
        demo: the page.
        host: the address to listen at.
        port: 0 takes a free one.
        limits: what a visitor may ask for.
        opens: whether the page opens in a browser.
    """
    # Gradio's own fonts come from the network.
    font = ("system-ui", "sans-serif")
    _, address, _ = demo.launch(
        server_name=host,
        server_port=port or None,
        quiet=True,
        share=False,
        ssr_mode=False,
        max_file_size=limits.most_bytes,
        theme=gr.themes.Default(font=font, font_mono=("ui-monospace", "monospace")),
        css=_CSS,
        footer_links=[],
        enable_monitoring=False,
        inbrowser=opens,
        prevent_thread_lock=True,
    )
    return str(address)


def _filled(path: Path, words: str) -> tuple[list[str], str]:
    """Returns what the fields of an example hold: its files and its text."""
    return [str(path)], words


def _note(text: str, is_warning: bool) -> str:
    kind = " mm-warning" if is_warning else ""
    return f'<div class="mm-note{kind}">{escape(text)}</div>'
