"""Describes what a merge uses besides the experts' weights: data, and modules of each task.

Methods that differ in this are not comparable, so every table shows it. The method, the policy for
running statistics and surgery can each add to it.
"""

from workers.specs.merge import MergeSpec

_DATA = ("labelled_validation", "labelled_train", "unlabelled_train", "unlabelled_test")


def data_use(spec: MergeSpec) -> str:
    """Returns the data that a merge reads: `none`, or `unlabelled train, unlabelled test`.

    Test images are the images that the merge is evaluated on, from whichever split. A merge that
    chooses parameters or steps reads the labels of the validation images, and so does a search.
    """
    uses = {str(spec.card.data_use)}
    if spec.chooses or spec.experts[0].evaluate_on == "validation":
        uses.add("labelled_validation")
    spec = spec.first_tried
    if spec.batch_norm == "recalibrate":
        uses.add("unlabelled_train")
    if spec.surgery is not None or spec.parsed_params().reads_test_images:
        uses.add("unlabelled_test")
    if "labelled_train" in uses:
        uses.discard("unlabelled_train")  # the same images
    return ", ".join(name.replace("_", " ") for name in _DATA if name in uses) or "none"


def has_task_modules(spec: MergeSpec) -> bool:
    """Returns whether the model has parts that are used for one task only.

    Such a merge has more parameters than one model, and its evaluation needs to know the task.
    """
    is_per_task = spec.card.is_per_task or spec.batch_norm == "per_task"
    return is_per_task or spec.surgery is not None


def use_columns(spec: MergeSpec) -> dict[str, str | bool]:
    """Returns the columns `data_use` and `per_task_modules` of the result table."""
    return {"data_use": data_use(spec), "per_task_modules": has_task_modules(spec)}


def use_text(data: str, *, per_task_modules: bool) -> str:
    """Returns both columns as one short text for a table."""
    return f"{data}, per-task modules" if per_task_modules else data
