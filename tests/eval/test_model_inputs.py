from pathlib import Path

import numpy as np
import pytest
import torch

from eval.images.shards import open_split, write_shard
from eval.model_inputs import Normalization, to_inputs

CPU = torch.device("cpu")
PLAIN = Normalization(mean=(0.0, 0.0, 0.0), std=(1.0, 1.0, 1.0))
COLOUR = Normalization(mean=(0.5, 0.4, 0.0), std=(0.5, 0.2, 1.0))


def test_pixels_are_normalized_by_channel() -> None:
    """By hand: (255/255 - 0.5)/0.5 = 1, (102/255 - 0.4)/0.2 = 0, 51/255 = 0.2."""
    image = np.array([[[[255, 102, 51]]]], dtype=np.uint8)
    inputs = to_inputs(image, normalization=COLOUR, device=CPU)
    torch.testing.assert_close(inputs, torch.tensor([1.0, 0.0, 0.2]).reshape(1, 3, 1, 1))


def test_grey_is_repeated_to_three_channels() -> None:
    """Each channel has the same pixels, normalized by its own mean and deviation."""
    image = np.array([[0, 255], [128, 64]], dtype=np.uint8).reshape(1, 2, 2, 1)
    inputs = to_inputs(image, normalization=PLAIN, device=CPU)
    assert inputs.shape == (1, 3, 2, 2)
    for channel in range(3):
        expected = torch.tensor([[0.0, 255.0], [128.0, 64.0]]) / 255
        torch.testing.assert_close(inputs[0, channel], expected)


@pytest.mark.parametrize("channels", [1, 3])
def test_rows_columns_and_layout_are_kept(channels: int) -> None:
    """Height and width keep their order, and channels are last in memory."""
    image = np.zeros((2, 4, 5, channels), dtype=np.uint8)
    image[1, 3, 2] = 255
    inputs = to_inputs(image, normalization=PLAIN, device=CPU)
    assert inputs.shape == (2, 3, 4, 5)
    assert inputs.dtype == torch.float32
    assert inputs.is_contiguous(memory_format=torch.channels_last)
    assert inputs.nonzero().tolist() == [[1, channel, 3, 2] for channel in range(3)]


def test_mapped_images_are_taken_as_they_are(tmp_path: Path) -> None:
    """Torch warns about read-only arrays, and tests fail on warnings."""
    images = np.arange(2 * 3 * 3 * 3, dtype=np.uint8).reshape(2, 3, 3, 3)
    write_shard(tmp_path / "x.arrow", images, np.zeros(2, dtype=np.int64))
    mapped = open_split([tmp_path / "x.arrow"]).images
    assert not mapped.flags.writeable
    torch.testing.assert_close(
        to_inputs(mapped, normalization=PLAIN, device=CPU),
        to_inputs(images, normalization=PLAIN, device=CPU),
        rtol=0,
        atol=0,
    )
