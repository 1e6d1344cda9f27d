"""Gathering of the results of several processes, each image once."""

import logging
from collections.abc import Iterable, Mapping
from itertools import chain
from typing import Any

from densekit.d2.utils import comm

logger = logging.getLogger(__name__)

_MOST_NAMES = 5


def each_image_once(
    predictions: Iterable[dict[str, Any]], places: Mapping[Any, int], source: str, key: str = "image_id"
) -> list[dict[str, Any]]:
    """Drops what padded samplers repeat and sorts by image, so that the number of processes leaves no trace.

    Args:
        predictions: Of all processes; each names its image under ``key``.
        places: The place of each image of the data set.
        source: What the data set is called in messages.
        key: ``"image_id"``, or another entry that tells images apart.

    Raises:
        ValueError: A prediction is of an image that the data set does not have.
    """
    first: dict[Any, dict[str, Any]] = {}
    repeated = 0
    for prediction in predictions:
        repeated += prediction[key] in first
        first.setdefault(prediction[key], prediction)
    unknown = first.keys() - places.keys()
    if unknown:
        raise ValueError(
            f"Predictions for {len(unknown)} images that {source} does not have, one is {unknown.pop()!r}."
        )
    if repeated:
        logger.info(f"{repeated} repeated images were dropped; each image counts once.")
    return sorted(first.values(), key=lambda prediction: places[prediction[key]])


def gathered_once(
    predictions: list[dict[str, Any]],
    places: Mapping[Any, int],
    source: str,
    key: str = "image_id",
    *,
    distributed: bool = True,
) -> list[dict[str, Any]] | None:
    """Gathers the predictions of all processes in the main one, as :func:`each_image_once` leaves them.

    Args:
        predictions: Of this process.
        places: The place of each image of the data set.
        source: What the data set is called in messages.
        key: ``"image_id"``, or another entry that tells images apart.
        distributed: False where each process judges what it has itself.

    Returns:
        The predictions; None in other processes than the main one.

    Raises:
        ValueError: A prediction is of an image that the data set does not have.
    """
    parts = comm.gather(predictions, dst=0) if distributed else [predictions]
    if distributed and not comm.is_main_process():
        return None
    return each_image_once(chain.from_iterable(parts), places, source, key)


def check_all_there(
    predictions: Iterable[Mapping[str, Any]], places: Iterable[Any], source: str, key: str = "image_id"
) -> None:
    """Refuses to judge a part of the data set as if it were all of it.

    Raises:
        ValueError: Images of the data set have no prediction; some are named.
    """
    seen = {prediction[key] for prediction in predictions}
    missing = [image for image in places if image not in seen]
    if missing:
        raise ValueError(
            f"{len(missing)} images of {source} have no prediction: {', '.join(map(repr, missing[:_MOST_NAMES]))}"
            f"{' ...' if len(missing) > _MOST_NAMES else ''}. Every image has to be shown to the evaluator."
        )
