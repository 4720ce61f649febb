"""The two result tables of a study: their columns, types and meaning.

`results` has one row per setting, method, group and task; two further rows per merge, with the
task named `macro` and `union`, carry the two means: over the tasks, and over all images of the
group's test sets (the joint test set). A point of the hyperparameter space that several axes share
appears once under each of them, with the same `merge_id`.

`experts` has one row per expert and setting, again once under each axis.
"""

from typing import get_type_hints

import pyarrow as pa

from workers.specs.hyperparameters import Hyperparameters

MACRO = "macro"
UNION = "union"
MEANS = (MACRO, UNION)

_ARROW_TYPES = {int: pa.int64(), float: pa.float64(), bool: pa.bool_()}
_POINT = [  # null where unused; in the means' rows, null where the experts of a group differ
    pa.field(name, _ARROW_TYPES.get(value_type, pa.string()))  # the others are choices by name
    for name, value_type in get_type_hints(Hyperparameters).items()
]
POINT_COLUMNS = tuple(field.name for field in _POINT)
"""The hyperparameters of an expert, among the columns of both tables."""

RESULTS_SCHEMA = pa.schema(
    [
        pa.field("study", pa.string()),
        pa.field("backbone", pa.string()),
        pa.field("weights", pa.string()),  # where the base's come from, as written in the study
        pa.field("pretrain_steps", pa.int64()),  # of the study's own pretraining; 0 for none
        pa.field("axis", pa.string()),  # "lr", "steps", ..., "num_tasks", "grid", "random"
        pa.field("value", pa.string()),  # the setting's value on the axis, as written: "0.001"
        pa.field("setting", pa.string()),  # "lr=0.001"
        pa.field("method", pa.string()),  # the method's label, unique in the study
        pa.field("data_use", pa.string()),  # what the merge reads besides weights: "none", ...
        pa.field("per_task_modules", pa.bool_()),  # the merge keeps parts of each task of its group
        pa.field("group", pa.string()),  # "4x03": the third group of four tasks
        pa.field("num_tasks", pa.int64()),
        pa.field("task", pa.string()),  # also "macro" and "union"
        pa.field("held_out", pa.bool_()),  # the task is not in the group; never part of the means
        *_POINT,
        pa.field("num_examples", pa.int64()),  # test images
        pa.field("accuracy", pa.float64()),  # fraction in [0, 1]
        pa.field("loss", pa.float64()),  # mean cross-entropy, nats per image
        pa.field("normalized_accuracy", pa.float64()),  # accuracy / expert_accuracy
        pa.field("expert_accuracy", pa.float64()),  # the expert on its own task
        pa.field("expert_loss", pa.float64()),
        pa.field("base_accuracy", pa.float64()),  # the base under the same head
        pa.field("base_loss", pa.float64()),
        pa.field("merge_id", pa.string()),
        pa.field("expert_id", pa.string()),  # null for the means
    ]
)

EXPERTS_SCHEMA = pa.schema(
    [
        pa.field("study", pa.string()),
        pa.field("backbone", pa.string()),
        pa.field("weights", pa.string()),  # where the base's come from, as written in the study
        pa.field("pretrain_steps", pa.int64()),  # of the study's own pretraining; 0 for none
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
