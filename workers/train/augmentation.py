"""Flips and crops the images of a batch at random.

The random numbers are drawn on the CPU; the images stay on their device.
"""

import torch
from torch import Tensor

from workers.sampling.seeds import derive_seed
from workers.specs.hyperparameters import Augmentation

PADDING_FRAC = 8
"""For a crop, each side of an image is padded by the image's size divided by this number."""


def augmented(inputs: Tensor, *, augmentation: Augmentation, seed: int, step: int) -> Tensor:
    """Returns the batch with each image flipped with probability 1/2, and shifted for `crop_flip`.

    A shift crops the image's own size out of the image padded by reflection. The random numbers
    depend on seed and step alone and are the same on every device.

    Shapes:
        inputs, returns: (batch, channels, height, width), channels-last in memory.
    """
    if augmentation == "none":
        return inputs
    num_images, _, height, width = inputs.shape
    generator = torch.Generator().manual_seed(derive_seed(seed, "augment", step))
    is_flipped = torch.rand(num_images, generator=generator) < 0.5  # noqa: PLR2004 probability 1/2
    down = right = torch.zeros(num_images, dtype=torch.int64)
    if augmentation == "crop_flip":
        down = _shifts(num_images, size=height, generator=generator)
        right = _shifts(num_images, size=width, generator=generator)
    rows = _reflected(down[:, None] + torch.arange(height), size=height)
    columns = _reflected(right[:, None] + torch.arange(width), size=width)
    columns = torch.where(is_flipped[:, None], columns.flip(1), columns)
    image = torch.arange(num_images)[:, None, None]
    indices = [each.to(inputs.device) for each in (image, rows[:, :, None], columns[:, None, :])]
    return inputs.permute(0, 2, 3, 1)[tuple(indices)].permute(0, 3, 1, 2)


def _shifts(num_images: int, *, size: int, generator: torch.Generator) -> Tensor:
    """Draws the offset of each crop in its image, in pixels, uniformly in [-padding, padding]."""
    padding = size // PADDING_FRAC
    return torch.randint(-padding, padding + 1, (num_images,), generator=generator)


def _reflected(positions: Tensor, *, size: int) -> Tensor:
    """Mirrors positions outside an image at its outermost pixels, so that they lie inside."""
    last = size - 1
    return last - (last - positions.abs()).abs()
