"""The columns of a study's two tables, with their types and meanings.

The result table has one row per cell (setting, method and group) and task. Two further rows per
cell have the task `macro` or `union` and hold the two means: over the group's tasks, and over all
images of their test sets (the joint test set). A point of the hyperparameter space that several
axes share appears once under each of them, with the same `merge_id`.

The experts table has one row per expert and setting, also once under each axis.

If experts were trained as LoRA adapters, both tables have the columns `LORA` after these. If the
study has pools, the result table has the columns `POOL` after them. If merges choose parameters on
validation images, it has the columns `TUNING` after them. If the study asks for joint scores, it
has the column `JOINT` after them, and `JOINT_CALIBRATED` if it calibrates. If images of the study
were skipped because they cannot be used, both tables have the column `SKIPPED` as well, in the last
place. If experts were trained in micro-batches, because their batch did not fit the memory, the
experts table has the column `MICRO_BATCH` after all others. If models of other tools were scored,
the result table has their rows after all others, and the column `EXTERNAL` in the last place. All
other studies keep the bytes of their tables.
"""

from typing import get_type_hints

import pyarrow as pa

from workers.specs.hyperparameters import ADAPTERS, Hyperparameters

MACRO = "macro"
UNION = "union"
MEANS = (MACRO, UNION)

_ARROW_TYPES = {int: pa.int64(), float: pa.float64(), bool: pa.bool_()}
_ALL = {  # types that Arrow does not have are choices by name
    name: pa.field(name, _ARROW_TYPES.get(value_type, pa.string()))
    for name, value_type in get_type_hints(Hyperparameters).items()
}
_POINT = [  # null where unused; in the means' rows, null where the experts of a group differ
    each for name, each in _ALL.items() if name not in ADAPTERS
]
POINT_COLUMNS = tuple(field.name for field in _POINT)
"""The columns of both tables that hold the hyperparameters of an expert."""

LORA = tuple(_ALL[name] for name in ADAPTERS)
"""Columns on LoRA: rank, alpha and targets of the adapters; null for an expert without adapters."""

POOL = (
    pa.field("pool", pa.int64()),  # experts that are merged, those of the group included
    pa.field("extra", pa.string()),  # the further experts: "irrelevant", "relevant"; null: no pool
)
"""Columns on pools: merges of more experts than the tasks that are scored."""

TUNING = (
    pa.field("chosen", pa.string()),  # the values that the merge chose: "scaling=0.4"
    pa.field("validation_loss", pa.float64()),  # at them: mean over the group's tasks, nats
    pa.field("validation_accuracy", pa.float64()),  # at them: mean over the group's tasks
    pa.field("num_tried", pa.int64()),  # combinations of values, each with one pass over the images
    pa.field("validation_images", pa.int64()),  # images of a pass, of all tasks of the group
    pa.field("tried", pa.string()),  # JSON list of values, loss and accuracy of each; `macro` only
)
"""Columns on the choice of parameters; null for merges that choose none."""

JOINT = pa.field("joint_accuracy", pa.float64())
"""Accuracy where the largest logit of all heads of the group decides; null for held-out tasks, for
merges with modules per task, and for models that are no merges of the study."""

JOINT_CALIBRATED = pa.field("joint_calibrated_accuracy", pa.float64())
"""The same with logits divided by a temperature per head, from labelled validation images."""

SKIPPED = pa.field("skipped_images", pa.int64())
"""Images of the task, of both splits, that were left out as they cannot be used; in the means'
rows, of all tasks of the group; null if the images' manifest is missing."""

MICRO_BATCH = pa.field("micro_batch", pa.int64())
"""The most images of a forward pass of an expert whose batches were split; null for whole ones."""

EXTERNAL = pa.field("external", pa.string())
"""Digest of the file of weights that was scored; null for the study's own merges."""

RESULTS_SCHEMA = pa.schema(
    [
        pa.field("study", pa.string()),
        pa.field("backbone", pa.string()),
        pa.field("weights", pa.string()),  # source of the base's weights, as the study writes it
        pa.field("pretrain_steps", pa.int64()),  # steps of the study's own pretraining; 0 for none
        pa.field("axis", pa.string()),  # "lr", "steps", ..., "num_tasks", "grid", "random"
        pa.field("value", pa.string()),  # the setting's value on the axis, as written: "0.001"
        pa.field("setting", pa.string()),  # "lr=0.001"
        pa.field("method", pa.string()),  # the method's label, unique in the study
        pa.field(
            "data_use", pa.string()
        ),  # data that the merge reads: "none", "labelled train", ...
        pa.field("per_task_modules", pa.bool_()),  # whether the merge keeps modules for each task
        pa.field("group", pa.string()),  # "4x03": the third group of four tasks
        pa.field("num_tasks", pa.int64()),
        pa.field("task", pa.string()),  # also "macro" and "union"
        pa.field("held_out", pa.bool_()),  # the task is outside the group and in neither mean
        *_POINT,
        pa.field("num_examples", pa.int64()),  # test images
        pa.field("accuracy", pa.float64()),  # fraction in [0, 1]
        pa.field("loss", pa.float64()),  # mean cross-entropy, nats per image
        pa.field("normalized_accuracy", pa.float64()),  # accuracy / expert_accuracy
        pa.field("expert_accuracy", pa.float64()),  # the expert on its own task
        pa.field("expert_loss", pa.float64()),
        pa.field("base_accuracy", pa.float64()),  # the base with the expert's head
        pa.field("base_loss", pa.float64()),
        pa.field("merge_id", pa.string()),
        pa.field("expert_id", pa.string()),  # null for the means
    ]
)

EXPERTS_SCHEMA = pa.schema(
    [
        pa.field("study", pa.string()),
        pa.field("backbone", pa.string()),
        pa.field("weights", pa.string()),  # source of the base's weights, as the study writes it
        pa.field("pretrain_steps", pa.int64()),  # steps of the study's own pretraining; 0 for none
        pa.field("axis", pa.string()),
        pa.field("value", pa.string()),
        pa.field("setting", pa.string()),
        pa.field("task", pa.string()),
        *_POINT,
        pa.field("num_classes", pa.int64()),
        pa.field("num_examples", pa.int64()),
        pa.field("outcome", pa.string()),  # "done" or "diverged"
        pa.field("train_loss", pa.float64()),  # mean over the last tenth of the steps
        pa.field("accuracy", pa.float64()),
        pa.field("loss", pa.float64()),
        pa.field("base_accuracy", pa.float64()),
        pa.field("base_loss", pa.float64()),
        pa.field("expert_id", pa.string()),
    ]
)
