"""The data check takes what only pixels tell from the manifests of prepared images."""

from collections.abc import Callable, Mapping
from typing import Any

from orchestrator.plan.plan import Plan
from orchestrator.record.data_check import DataCheck, check_data
from orchestrator.record.ledger import Ledger
from workers.artifacts.manifests import Manifest
from workers.artifacts.metrics import DataMetrics, ImagePairs, SkippedImages

MakePlan = Callable[..., Plan]
NONE = ImagePairs(num_images=0, first=())


def checked(plan: Plan, metrics: Mapping[str, Mapping[str, Any]]) -> DataCheck:
    """Returns the check with the images of some tasks committed."""
    specs = {spec.task: spec for spec in plan.datasets}
    manifests = [
        Manifest(
            kind="data",
            id=specs[task].id,
            version=1,
            spec=specs[task].to_json(),
            inputs={},
            files=(),
            attempt="0" * 16,
            outcome="done",
            metrics=each,
            seconds={},
            created_at_s=0.0,
            code_version="0.1.0",
        )
        for task, each in metrics.items()
    ]
    return check_data(Ledger(plan, manifests=manifests).committed())


def of_mnist(**changes: Any) -> dict[str, Any]:  # noqa: ANN401 any field
    fields: dict[str, Any] = {
        "num_classes": 10,
        "num_train": 1000,
        "num_test": 500,
        "images_per_shard": 99,
        "class_counts": {"train": (100,) * 10, "test": (50,) * 10},
        "shared": NONE,
        "contradictions": NONE,
        **changes,
    }
    return DataMetrics(**fields).to_json()


def test_counts_of_published_tasks_are_known_once_prepared(make_plan: MakePlan) -> None:
    """Before that, only the catalogue's numbers of images are known."""
    plan = make_plan(tasks={"names": ["mnist", "svhn"], "max_train": 1000, "max_test": 500})
    before = checked(plan, {})
    assert [task.train.per_class for task in before.tasks] == [None, None]
    counts = {"train": (0, 3, *(100,) * 8), "test": (50,) * 10}
    after = checked(plan, {"mnist": of_mnist(class_counts=counts)})
    assert after.tasks[0].train.per_class == (0, 100.0, 100)
    assert after.tasks[1].train.per_class is None
    (warning,) = after.warnings
    assert warning == (
        "mnist: max_train: 1000 leaves 1 of 10 classes without a training image (0), and 1 with "
        "fewer than 5 (1)"
    )


def test_equal_and_skipped_images_are_warned_about_with_the_first_names(
    make_plan: MakePlan,
) -> None:
    """Images in both splits come first, then contradictions, then skipped images."""
    plan = make_plan(tasks=["mnist", "svhn"])
    pairs = tuple((f"train/a/{n}.png", f"test/a/\n{n}.png") for n in range(5))
    metrics = of_mnist(
        shared=ImagePairs(num_images=12, first=pairs),
        contradictions=ImagePairs(num_images=2, first=(("train/a/1.png", "train/b/1.png"),)),
        skipped=SkippedImages(num_images=1, first=("train/a/9.png: the file is empty",)),
    )
    check = checked(plan, {"svhn": metrics})
    assert check.warnings == (
        (
            "svhn: 12 of 500 test images are training images too: train/a/0.png and "
            "test/a/\\n0.png; train/a/1.png and test/a/\\n1.png; ..."
        ),
        (
            "svhn: 2 of 1,000 training images are there with two labels: train/a/1.png and "
            "train/b/1.png"
        ),
        "svhn: skipped images that cannot be used: 1 (train/a/9.png: the file is empty)",
    )
    assert not check.has_no_pairs


def test_classes_that_skipping_leaves_small_are_named(make_plan: MakePlan) -> None:
    """The counts are those of the images that could be used, out of all that were chosen."""
    plan = make_plan(tasks=["mnist_5k", "svhn"])
    counts = {"train": (1, *(400,) * 9), "test": (100,) * 10}
    skipped = SkippedImages(num_images=399, first=("train/0/1.png: the file is empty",))
    check = checked(plan, {"mnist_5k": of_mnist(class_counts=counts, skipped=skipped)})
    assert (check.tasks[0].train.num_images, check.tasks[0].train.num_available) == (3601, 4000)
    assert check.warnings == (
        "mnist_5k: skipped images that cannot be used: 399 (train/0/1.png: the file is empty; ...)",
        "mnist_5k: on_bad_image: skip leaves 1 of 10 classes with fewer than 5 training images (0)",
    )


def test_data_ratios_count_the_images_that_could_be_used(make_plan: MakePlan) -> None:
    """Which images a ratio keeps of each class is unknown then, so only the total is judged."""
    defaults = {"steps": 1, "lr": 0.1, "batch_size": 16}
    plan = make_plan(
        tasks=["mnist_5k", "svhn"],
        finetune={"defaults": defaults, "axes": {"data_ratio": [0.5, 1.0]}},
    )
    counts = {"train": (2,) * 10, "test": (100,) * 10}
    skipped = SkippedImages(num_images=3980, first=())
    metrics = of_mnist(num_train=20, class_counts=counts, skipped=skipped)
    check = checked(plan, {"mnist_5k": metrics})
    assert check.warnings[1:] == (
        "mnist_5k: on_bad_image: skip leaves all 10 classes with fewer than 5 training images",
        (
            "mnist_5k: batch_size: 16 is more than the 10 training images at data_ratio: 0.5: "
            "every step repeats some"
        ),
    )


def test_a_clean_bill_needs_all_tasks(make_plan: MakePlan) -> None:
    """Nothing is claimed about images before all of them are compared."""
    plan = make_plan(tasks=["mnist", "svhn"])
    assert not checked(plan, {"mnist": of_mnist()}).has_no_pairs
    assert checked(plan, {"mnist": of_mnist(), "svhn": of_mnist()}).has_no_pairs


def test_manifests_of_earlier_releases_change_nothing(make_plan: MakePlan) -> None:
    """Metrics without counts and pairs leave everything as it is known before preparation."""
    plan = make_plan(tasks=["mnist", "mnist_5k"])
    old = {"num_classes": 10, "num_train": 4000, "num_test": 1000, "images_per_shard": 9}
    assert checked(plan, {"mnist_5k": old}) == checked(plan, {})
