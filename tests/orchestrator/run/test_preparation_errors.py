from eval.images.protocol import BadImageError, BadImagesError, ImageSourceError
from orchestrator.run.preparation_errors import REMEDY, preparation_text


def bad(task: str, num_images: int) -> BadImagesError:
    first = [BadImageError(f"/{task}/{n:02d}.png", "is torn") for n in range(min(num_images, 20))]
    return BadImagesError(task, num_images=num_images, first=first)


def test_bad_images_of_all_tasks_make_one_list() -> None:
    """There is a line for each image, the first twenty and a count, and the way out."""
    changed = ImageSourceError("task 'c': the files changed")
    lines = preparation_text([], data_errors=[bad("a", 2), changed, bad("b", 40)]).split("\n")
    assert lines[:2] == ["42 images cannot be used", "  a: /a/00.png: is torn"]
    assert lines[3] == "  b: /b/00.png: is torn"
    assert lines[21:] == ["  and 22 more", REMEDY, "task 'c': the files changed"]


def test_other_errors_come_last() -> None:
    """A base that could not be made is told too."""
    text = preparation_text(["base x: disk"], data_errors=[bad("a", 1)])
    assert text.split("\n")[-1] == "base x: disk"
