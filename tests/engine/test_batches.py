"""What a loader process says of bad data."""

import pytest
from torch.utils.data import DataLoader

from densekit.d2.data.detection_utils import SizeMismatchError
from densekit.engine.batches import RememberedBatches
from densekit.engine.errors import DataError


class Broken:
    """A data set whose only item raises an error."""

    def __init__(self, error):
        self.error = error

    def __len__(self):
        return 1

    def __getitem__(self, index):
        raise self.error


@pytest.mark.parametrize("workers", [0, 1])
@pytest.mark.parametrize("kind", [ValueError, FileNotFoundError, SizeMismatchError])
def test_only_the_message_is_left(kind, workers):
    loader = RememberedBatches(DataLoader(Broken(kind("Image 7.jpg is bad: see there.")), num_workers=workers))
    with pytest.raises(DataError) as caught:
        next(iter(loader))
    assert str(caught.value) == "Image 7.jpg is bad: see there."
