"""Random flips and crops of a batch, on the device, from numbers that are drawn on the CPU."""

import torch
from torch import Tensor

from workers.sampling.seeds import derive_seed
from workers.specs.training import Augmentation

PADDING_FRAC = 8
"""A crop comes from an image padded by its size divided by this, on each side."""


def augmented(inputs: Tensor, *, augmentation: Augmentation, seed: int, step: int) -> Tensor:
    """Returns a batch in which each image is flipped with even odds, and shifted for `crop_flip`.

    A shift is a crop of the image's own size out of the image padded by reflection. What is drawn
    depends on seed and step alone, and is the same on every device.

    Shapes:
        inputs, returns: (batch, channels, height, width), channels-last in memory.
    """
    if augmentation == "none":
        return inputs
    num_images, _, height, width = inputs.shape
    generator = torch.Generator().manual_seed(derive_seed(seed, "augment", step))
    is_flipped = torch.rand(num_images, generator=generator) < 0.5  # noqa: PLR2004 even odds
    down = right = torch.zeros(num_images, dtype=torch.int64)
    if augmentation == "crop_flip":
        down = _shifts(num_images, size=height, generator=generator)
        right = _shifts(num_images, size=width, generator=generator)
    rows = _reflected(down[:, None] + torch.arange(height), size=height)
    columns = _reflected(right[:, None] + torch.arange(width), size=width)
    columns = torch.where(is_flipped[:, None], columns.flip(1), columns)
    image = torch.arange(num_images)[:, None, None]
    taken = [each.to(inputs.device) for each in (image, rows[:, :, None], columns[:, None, :])]
    return inputs.permute(0, 2, 3, 1)[tuple(taken)].permute(0, 3, 1, 2)


def _shifts(num_images: int, *, size: int, generator: torch.Generator) -> Tensor:
    """Draws offsets of crops from their images, in pixels: uniform in [-padding, padding]."""
    padding = size // PADDING_FRAC
    return torch.randint(-padding, padding + 1, (num_images,), generator=generator)


def _reflected(positions: Tensor, *, size: int) -> Tensor:
    """Returns where positions outside an image lie in it: mirrored at the outermost pixels."""
    last = size - 1
    return last - (last - positions.abs()).abs()
