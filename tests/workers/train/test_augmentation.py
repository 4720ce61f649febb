import pytest
import torch
from torch import Tensor
from torch.nn import functional

from workers.train.augmentation import augmented

SIZE = 16
NUM_IMAGES = 300


def images(size: int = SIZE) -> Tensor:
    """Returns images in which no two pixels are equal."""
    pixels = torch.arange(NUM_IMAGES * 3 * size * size, dtype=torch.float32)
    return pixels.reshape(NUM_IMAGES, 3, size, size).contiguous(memory_format=torch.channels_last)


def test_flip_mirrors_about_half_of_the_images() -> None:
    """Each image is unchanged or mirrored from left to right, with equal probability."""
    before = images()
    after = augmented(before, augmentation="flip", seed=0, step=0)
    flipped = [bool((a != b).any()) for a, b in zip(after, before, strict=True)]
    for image, original, is_flipped in zip(after, before, flipped, strict=True):
        assert torch.equal(image, original.flip(2) if is_flipped else original)
    assert 120 < sum(flipped) < 180


def test_crop_is_one_of_the_reflected_image() -> None:
    """Every crop of 16 pixels out of 2 + 16 + 2 occurs, flipped or not, and nothing else."""
    before = images()
    after = augmented(before, augmentation="crop_flip", seed=0, step=0)
    padded = functional.pad(before, (2, 2, 2, 2), mode="reflect")
    found = set()
    for index, image in enumerate(after):
        crops = {
            (down, right, flip): crop.flip(2) if flip else crop
            for down in range(5)
            for right in range(5)
            for flip in (False, True)
            if (crop := padded[index, :, down : down + SIZE, right : right + SIZE]) is not None
        }
        (match,) = [place for place, crop in crops.items() if torch.equal(image, crop)]
        found.add(match)
    assert len(found) == 50


@pytest.mark.parametrize("augmentation", ["flip", "crop_flip"])
def test_augmentation_depends_on_seed_and_step_alone(augmentation: str) -> None:
    """The state of torch's random generator does not matter."""
    before = images()
    torch.manual_seed(1)
    first = augmented(before, augmentation=augmentation, seed=3, step=5)  # type: ignore[arg-type]
    torch.manual_seed(2)
    assert torch.equal(augmented(before, augmentation=augmentation, seed=3, step=5), first)  # type: ignore[arg-type]
    for seed, step in ((3, 6), (4, 5)):
        other = augmented(before, augmentation=augmentation, seed=seed, step=step)  # type: ignore[arg-type]
        assert not torch.equal(other, first)


def test_no_augmentation_is_the_batch_itself() -> None:
    """Nothing is drawn or copied."""
    before = images()
    assert augmented(before, augmentation="none", seed=0, step=0) is before


def test_layout_in_memory_stays_channels_last() -> None:
    """Convolutions are slower with any other layout."""
    after = augmented(images(), augmentation="crop_flip", seed=0, step=0)
    assert after.is_contiguous(memory_format=torch.channels_last)
    assert after.shape == (NUM_IMAGES, 3, SIZE, SIZE)


def test_images_smaller_than_the_padding_are_only_flipped() -> None:
    """An eighth of 7 pixels rounds down to no padding."""
    before = images(7)
    crops = augmented(before, augmentation="crop_flip", seed=0, step=0)
    assert torch.equal(crops, augmented(before, augmentation="flip", seed=0, step=0))
