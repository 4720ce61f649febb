"""What a merge has besides the experts' weights: data that it reads, and modules of each task.

Methods that differ in it are not like for like, so every table says it. Both can come with the
method, with the policy for running statistics, and with surgery.
"""

from merge.catalogue import CARDS, parse_params
from workers.specs.merge import MergeSpec

_DATA = ("labelled_train", "unlabelled_train", "unlabelled_test")


def data_use(spec: MergeSpec) -> str:
    """Returns the data that a merge reads, `none` or `unlabelled train, unlabelled test`.

    Test images are those that the merge is evaluated on, whatever split they are of.
    """
    uses = {str(CARDS[spec.method].data_use)}
    if spec.batch_norm == "recalibrate":
        uses.add("unlabelled_train")
    if spec.surgery is not None or parse_params(spec.method, spec.params).reads_test_images:
        uses.add("unlabelled_test")
    if "labelled_train" in uses:
        uses.discard("unlabelled_train")  # the same images
    return ", ".join(name.replace("_", " ") for name in _DATA if name in uses) or "none"


def has_task_modules(spec: MergeSpec) -> bool:
    """Returns whether the evaluation of a task uses parts that are that task's alone.

    Such a merge holds more parameters than one model, and has to be told the task.
    """
    is_own = CARDS[spec.method].is_per_task or spec.batch_norm == "per_task"
    return is_own or spec.surgery is not None


def use_columns(spec: MergeSpec) -> dict[str, str | bool]:
    """Returns both under the names that they have in the result table."""
    return {"data_use": data_use(spec), "per_task_modules": has_task_modules(spec)}


def use_text(data: str, *, per_task_modules: bool) -> str:
    """Returns both in a few words, for a table."""
    return f"{data}, per-task modules" if per_task_modules else data
