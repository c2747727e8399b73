"""The logits of a classifier for labelled images, as an evaluation sees them."""

from adco.data.sources.protocol import Source
from adco.evaluation.extract import extract_features
from adco.evaluation.features import Features
from adco.models.classifier import Classifier


def logits_of(
    classifier: Classifier, source: Source, max_unreadable: float, *, device: str | None = None, progress: bool = True
) -> Features:
    """Return the logits [n, K] of the test views of labelled images, in place of features.

    Args:
        classifier: it is evaluated in eval mode, and is then as it was.
        source: the images.
        max_unreadable: share of images that may be left out because they cannot be read.
        device: where to compute; None: where the weights are.
        progress: show a progress bar on a terminal.

    Raises:
        InputError: if too many images cannot be read, or a logit is not finite.
    """
    info = classifier.info
    return extract_features(
        classifier,
        source,
        image_size=info.image_size,
        mean=info.mean,
        std=info.std,
        device=device,
        progress=progress,
        max_unreadable=max_unreadable,
    )
