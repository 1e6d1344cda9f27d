"""Losses of inpainting: per pixel, by features, smoothness, and adversarial ones.

"Image Inpainting for Irregular Holes Using Partial Convolutions" (arXiv 1804.07723), section 3.3. Holes are 1 in the
hole. All losses are means over all elements of all images, so that they do not depend on the size: of ``hole`` and
``valid`` over the whole picture, of which the other part is 0.

N: images, C: channels, H, W: size.
"""

from collections.abc import Callable, Iterable, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from densekit.ops.precision import at_least_single

from .discriminators import Scores

# name -> (real logits, fake logits) -> loss of each score for the discriminator; fake logits -> that of the generator
ADVERSARIAL: dict[str, tuple[Callable[[Tensor], Tensor], Callable[[Tensor], Tensor], Callable[[Tensor], Tensor]]] = {
    "hinge": (lambda real: F.relu(1 - real), lambda fake: F.relu(1 + fake), lambda fake: -fake),
    "vanilla": (lambda real: F.softplus(-real), F.softplus, lambda fake: F.softplus(-fake)),
}


def composite(image: Tensor, painted: Tensor, hole: Tensor) -> Tensor:
    """The painted pixels (N, C, H, W) in the hole, the image's own outside; to the last bit."""
    return torch.where(hole > 0, painted, image)


def pixel_losses(painted: Tensor, truth: Tensor, hole: Tensor) -> dict[str, Tensor]:
    """Differences of pixels (N, C, H, W), their holes (N, 1 or C, H, W).

    Returns:
        ``l1`` over all, ``hole`` and ``valid`` in and outside the hole, and ``mse``, squared, in the hole.
    """
    difference = at_least_single(painted) - at_least_single(truth)
    inside = difference * hole
    return {
        "l1": difference.abs().mean(),
        "hole": inside.abs().mean(),
        "valid": (difference * (1 - hole)).abs().mean(),
        "mse": inside.square().mean(),
    }


def total_variation(image: Tensor) -> Tensor:
    """The mean difference of horizontal neighbours plus that of vertical ones (equation 6, over the whole picture)."""
    image = at_least_single(image)
    right = (image[..., :, 1:] - image[..., :, :-1]).abs().mean()
    return right + (image[..., 1:, :] - image[..., :-1, :]).abs().mean()


def gram_matrix(features: Tensor) -> Tensor:
    """The products of channels (N, C, C) of features (N, C, H, W), divided by C H W (equation 4)."""
    flat = at_least_single(features).flatten(2)
    return flat @ flat.mT / flat[0].numel()


def perceptual_loss(features: Sequence[Tensor], truth: Sequence[Tensor]) -> Tensor:
    """The mean differences of features, summed over layers (equation 3)."""
    return _sum(F.l1_loss(at_least_single(x), at_least_single(y)) for x, y in zip(features, truth))


def style_loss(features: Sequence[Tensor], truth: Sequence[Tensor]) -> Tensor:
    """The mean differences of Gram matrices, summed over layers (equations 4 and 5)."""
    return _sum(F.l1_loss(gram_matrix(x), gram_matrix(y)) for x, y in zip(features, truth))


def discriminator_loss(kind: str, real: Scores, fake: Scores) -> Tensor:
    """The loss of a discriminator that scores real pictures and composites: half of each one's."""
    of_real, of_fake, _ = ADVERSARIAL[kind]
    return (_mean(of_real(at_least_single(real.logits)), real) + _mean(of_fake(at_least_single(fake.logits)), fake)) / 2


def generator_loss(kind: str, fake: Scores) -> Tensor:
    """The loss of a generator whose composites get these scores."""
    return _mean(ADVERSARIAL[kind][2](at_least_single(fake.logits)), fake)


def _mean(losses: Tensor, scores: Scores) -> Tensor:
    """The mean over images of each one's weighted sum; so a batch in two parts has the mean of theirs."""
    return (losses * scores.weights).sum() / len(losses)


def _sum(terms: Iterable[Tensor]) -> Tensor:
    return torch.stack(list(terms)).sum()
