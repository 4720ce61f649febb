from eval.images.protocol import BadImageError, BadImagesError, ImageSourceError
from orchestrator.run.preparation_errors import REMEDY, preparation_text


def bad(task: str, num_images: int) -> BadImagesError:
    first = [BadImageError(f"/{task}/{n:02d}.png", "is torn") for n in range(min(num_images, 20))]
    return BadImagesError(task, num_images=num_images, first=first)


def test_bad_images_of_all_tasks_make_one_list() -> None:
    """The message has the number of images, the first twenty of them, and the way out."""
    changed = ImageSourceError("task 'c': the files changed")
    text = preparation_text([], data_errors=[bad("a", 2), changed, bad("b", 40)])
    first, *lines, remedy, other = text.split("\n")
    assert first == "42 images cannot be used; the first 20 of them:"
    images = [image.strip() for line in lines for image in line.split(" | ")]
    assert images == [
        *(f"a: /a/{n:02d}.png: is torn" for n in range(2)),
        *(f"b: /b/{n:02d}.png: is torn" for n in range(18)),
    ]
    assert (remedy, other) == (REMEDY, "task 'c': the files changed")


def test_many_errors_of_all_kinds_make_ten_lines() -> None:
    """Twenty named images and other errors of thirty tasks are all said, in ten lines."""
    changed = [ImageSourceError(f"task 't{n}': the files changed") for n in range(30)]
    text = preparation_text(["base x: disk"], data_errors=[*changed, bad("b", 40)])
    assert len(text.split("\n")) == 10
    assert all(str(error) in text for error in [*changed, "base x: disk"])
    assert text.count("is torn") == 20


def test_other_errors_come_last() -> None:
    """A base that could not be made is told too."""
    text = preparation_text(["base x: disk"], data_errors=[bad("a", 1)])
    assert text.split("\n")[-1] == "base x: disk"
