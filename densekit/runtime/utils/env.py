"""Random state of a process."""

import logging
import os
import random

import numpy as np
import torch


def seed_all_rng(seed: int | None = None) -> None:
    """Seeds the generators of ``random``, numpy and torch (all devices).

    Args:
        seed: 0 to 2**32 - 1; ``None`` draws one from the operating system and logs it, so that the run can be repeated.
    """
    if seed is None:
        seed = int.from_bytes(os.urandom(4), "big")
        logging.getLogger(__name__).info("The random seed of this process is %d.", seed)
    random.seed(seed)
    np.random.seed(seed)
    torch.manual_seed(seed)
