import numpy as np

from eval.images.joint_split import JointSplit
from eval.images.split import Split


def plain(values: list[int], *, channels: int, labels: list[int]) -> Split:
    images = np.array(values, dtype=np.uint8)[:, None, None, None]
    return Split(
        images=np.broadcast_to(images, (len(values), 2, 2, channels)), labels=np.array(labels)
    )


JOINT = JointSplit(
    splits=(
        plain([10, 11, 12], channels=1, labels=[0, 1, 1]),
        plain([20, 21], channels=3, labels=[2, 0]),
        plain([30], channels=1, labels=[0]),
    ),
    num_classes=(4, 3, 2),
)


def test_images_of_all_tasks_stand_one_after_another() -> None:
    """The six images have nine classes, although not all classes occur."""
    assert (len(JOINT), JOINT.num_joint_classes) == (6, 9)


def test_batch_mixes_tasks_in_the_order_that_was_asked() -> None:
    """Grey images get three channels, and labels follow those of the previous task."""
    batch = JOINT.take(np.array([4, 0, 5, 2, 3, 0]))
    images, labels = batch.images, batch.labels
    assert images.shape == (6, 2, 2, 3)
    assert images.dtype == np.uint8
    assert [set(image.ravel().tolist()) for image in images] == [{21}, {10}, {30}, {12}, {20}, {10}]
    assert labels.tolist() == [4 + 0, 0, 4 + 3 + 0, 1, 4 + 2, 0]


def test_batch_of_one_task_has_no_other() -> None:
    """Tasks without an image in the batch are skipped."""
    batch = JOINT.take(np.array([5]))
    assert (batch.images.shape, batch.labels.tolist()) == ((1, 2, 2, 3), [7])


def test_relabelled_splits_are_the_tasks_own_images() -> None:
    """A joint head is evaluated on these splits, task by task; no image is copied."""
    first, second, third = JOINT.relabelled
    assert [each.labels.tolist() for each in (first, second, third)] == [[0, 1, 1], [6, 4], [7]]
    assert second.images is JOINT.splits[1].images
