"""The pipeline "fusion-classification" of transformers."""

from collections.abc import Mapping
from typing import Any, final

from transformers import Pipeline
from transformers.pipelines import PIPELINE_REGISTRY

from ..model.modalities import MODALITIES
from ..model.modeling import FusionClassifier
from ..model.validation import did_you_mean

TASK = "fusion-classification"


@final
class FusionPipeline(Pipeline):
    """The pipeline that classifies samples {"image": ..., "text": ...}.

    Made by `transformers.pipeline` after `register_pipeline`. A call takes one sample or a list of
    samples; `image` is what the processor takes, and either may be missing. It returns the classes
    with their probabilities, the most probable first.

    Example:
        >>> from transformers import pipeline
        >>> from mmfusion import FusionProcessor, register_pipeline
        >>> from mmfusion.data.toy import word_tokenizer
        >>> from mmfusion.testing import tiny_classifier
        >>> register_pipeline()
        >>> model = tiny_classifier(image=None, text="bert").eval()
        >>> words = FusionProcessor(word_tokenizer(["clear lungs"]))
        >>> classify = pipeline("fusion-classification", model=model, processor=words)
        >>> [sorted(answer) for answer in classify({"text": "clear"}, top_k=1)]
        [['label', 'score']]
    """

    _load_processor: Any = True
    _load_image_processor: Any = False
    _load_feature_extractor: Any = False
    _load_tokenizer: Any = False

    def _sanitize_parameters(self, top_k: int | None = None, **wrong: Any) -> Any:
        for name in wrong:
            raise ValueError(
                f"the pipeline has no option {name!r}.{did_you_mean(name, ['top_k', 'batch_size'])}"
            )
        if top_k is not None and top_k < 1:
            raise ValueError(f"top_k must be at least 1, got {top_k!r}. Leave it out for all.")
        return {}, {}, {} if top_k is None else {"top_k": top_k}

    def preprocess(self, input_: Any, **_: Any) -> dict[str, Any]:
        """Returns the model inputs of one sample.

        Args:
            input_: {"image": ..., "text": ...}, either of which may be missing.
            **_: no further option.

        Raises:
            ValueError: for another key, or as the processor raises it.
        """
        if not isinstance(input_, Mapping):
            raise ValueError(
                f'a sample must be a mapping such as {{"image": ..., "text": ...}}, got {input_!r}.'
            )
        for name in input_:
            if name not in MODALITIES:
                hint = did_you_mean(name, MODALITIES)
                raise ValueError(f"a sample must have image, text or both, got {name!r}.{hint}")
        given: dict[str, Any] = {}
        model: Any = self.model
        if "image" in model.modalities:
            given["images"] = [input_.get("image")]
        if "text" in model.modalities:
            given["text"] = [input_.get("text")]
        processor: Any = self.processor
        return dict(processor(**given))

    def _forward(self, input_tensors: dict[str, Any], **_: Any) -> Any:
        return {"logits": self.model(**input_tensors).logits}

    # transformers takes any keywords. Naming the one that is known lets a mistyped one be an error.
    def postprocess(  # type: ignore[override]
        self, model_outputs: Any, top_k: int | None = None
    ) -> list[dict[str, Any]]:
        """Returns the classes with their probabilities, the most probable first.

        Args:
            model_outputs: with logits [1, C].
            top_k: how many; None: all.
        """
        logits = model_outputs["logits"][0].float()
        scores = logits.sigmoid() if self.model.multi_label else logits.softmax(-1)
        names: Any = self.model.config.id2label
        found = [
            {"label": names[number], "score": score} for number, score in enumerate(scores.tolist())
        ]
        return sorted(found, key=lambda one: -one["score"])[:top_k]


def register_pipeline() -> None:
    """Makes `transformers.pipeline("fusion-classification", model=...)` known in this process."""
    if TASK in PIPELINE_REGISTRY.get_supported_tasks():
        return
    PIPELINE_REGISTRY.register_pipeline(
        TASK, pipeline_class=FusionPipeline, pt_model=FusionClassifier, type="multimodal"
    )
