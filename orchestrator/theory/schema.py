"""The columns of the theory tables, with types and meanings.

Every table has a column `label`: `measured` for a number of the study itself, `fit` for a number
that was fitted to measured ones, `score` for a formula whose scale means nothing. Numbers of a
stated and a proved form say which it is, behind the word that says what they are worth: `bound`,
`score` or `outside any local theory`. An interval has three parts, over groups, tasks and settings;
`low`, `high` and `over` are the widest of them.
"""

import pyarrow as pa

(
    PAIRS,
    LAWS,
    ESTIMATES,
    CORRELATIONS,
    PREDICTIONS,
    BOUNDS,
    CALIBRATIONS,
    OPERATORS,
    REACHES,
    DIAGNOSTICS,
    NOTES,
) = (
    "pairs",
    "laws",
    "estimates",
    "correlations",
    "predictions",
    "bounds",
    "calibrations",
    "operators",
    "reaches",
    "diagnostics",
    "notes",
)


def _interval(*over: str) -> list[pa.Field]:
    parts = [f"{each}_{end}" for each in over for end in ("low", "high")]
    return [
        pa.field("low", pa.float64()),
        pa.field("high", pa.float64()),
        pa.field("over", pa.string()),
        *(pa.field(name, pa.float64()) for name in parts),
    ]


_THREE = ("groups", "tasks", "settings")

SCHEMAS = {
    PAIRS: pa.schema(
        [
            pa.field("kind", pa.string()),  # "values" of an axis, or "methods" at a setting
            pa.field("family", pa.string()),  # the method, or the setting, that all pairs share
            pa.field("axis", pa.string()),  # of "values"; empty for "methods"
            pa.field("mean", pa.string()),  # "macro" or "union"
            pa.field("quantity", pa.string()),  # "loss" or "accuracy"
            pa.field("label", pa.string()),
            pa.field("best", pa.string()),  # the member of the family with the best mean
            pa.field("other", pa.string()),
            pa.field("difference", pa.float64()),  # best minus other, mean over the groups
            *_interval("groups", "tasks"),  # 95 %, Student's t
            pa.field("num_better", pa.int64()),  # groups in which the best one is better
            pa.field("num_groups", pa.int64()),
            pa.field("p_value", pa.float64()),  # two-sided, of the wider interval
            pa.field("p_holm", pa.float64()),  # corrected for all pairs of the family
            pa.field("num_pairs", pa.int64()),
        ]
    ),
    LAWS: pa.schema(
        [
            pa.field("axis", pa.string()),
            pa.field("method", pa.string()),
            pa.field("mean", pa.string()),  # also "all tasks": held-out tasks too, along num_tasks
            pa.field("label", pa.string()),
            pa.field("form", pa.string()),
            pa.field("formula", pa.string()),
            pa.field("params", pa.list_(pa.float64())),  # the formula's letters; b or p last
            pa.field("error_in_sample", pa.float64()),  # root mean square, nats per image
            pa.field("error_held_out", pa.float64()),  # each value predicted from the others
            pa.field("num_values", pa.int64()),
            pa.field("num_groups", pa.int64()),
            pa.field("values", pa.list_(pa.float64())),
            pa.field("losses", pa.list_(pa.float64())),  # means over groups that all values share
            pa.field("is_preferred", pa.bool_()),
            pa.field("is_description", pa.bool_()),  # too few values to test the form
        ]
    ),
    ESTIMATES: pa.schema(
        [
            pa.field("axis", pa.string()),
            pa.field("method", pa.string()),
            pa.field("mean", pa.string()),
            pa.field("label", pa.string()),
            pa.field("quantity", pa.string()),  # "exponent" or "optimum"
            pa.field("value", pa.float64()),  # null for an optimum that was not seen
            *_interval(*_THREE),
            pa.field("note", pa.string()),  # the reason why no optimum was seen
        ]
    ),
    CORRELATIONS: pa.schema(
        [
            pa.field("method", pa.string()),
            pa.field("axis", pa.string()),  # "all" for all settings together
            pa.field("predictor", pa.string()),
            pa.field("label", pa.string()),
            pa.field("target", pa.string()),  # "loss" or "excess"
            pa.field("kind", pa.string()),  # "within groups", "across groups" or "pooled"
            pa.field("spearman", pa.float64()),
            pa.field("kendall", pa.float64()),  # tau-b
            pa.field("num_values", pa.int64()),  # values that each coefficient ranks
            pa.field("num_coefficients", pa.int64()),
            pa.field("least_p", pa.float64()),  # the least that so many values allow
            *_interval(*_THREE),
        ]
    ),
    PREDICTIONS: pa.schema(
        [
            pa.field("method", pa.string()),
            pa.field("target", pa.string()),  # "excess" or "recovery"
            pa.field("left_out", pa.string()),  # "setting", "task" or "setting and task"
            pa.field("predictor", pa.string()),
            pa.field("label", pa.string()),
            pa.field("needs", pa.string()),  # everything that must exist first
            pa.field("is_baseline", pa.bool_()),
            pa.field("score", pa.string()),  # "rmse", "spearman" or "regret"
            pa.field("value", pa.float64()),
            pa.field("best_baseline", pa.string()),
            pa.field("difference", pa.float64()),  # value minus the best baseline's
            *_interval(*_THREE),
            pa.field("is_better", pa.bool_()),  # the whole widest interval is on the better side
            pa.field("num_settings", pa.int64()),
            pa.field("num_groups", pa.int64()),
        ]
    ),
    BOUNDS: pa.schema(
        [
            pa.field("axis", pa.string()),
            pa.field("value", pa.string()),
            pa.field("method", pa.string()),
            pa.field("quantity", pa.string()),  # a term, a loss, a stability or a squared gradient
            pa.field("form", pa.string()),  # "stated" or "proved"
            pa.field("label", pa.string()),  # "bound", "score" or "outside any local theory"
            pa.field("number", pa.float64()),  # mean over the groups
            pa.field("measured", pa.float64()),  # mean macro loss of the merges, nats per image
            pa.field("excess", pa.float64()),  # the same minus the best experts' losses
            pa.field("reach", pa.float64()),  # curvature times training length, largest
            pa.field("path_reach", pa.float64()),  # of the experts' paths, farthest from 0
            pa.field("num_groups", pa.int64()),
        ]
    ),
    CALIBRATIONS: pa.schema(
        [
            pa.field("method", pa.string()),
            pa.field("quantity", pa.string()),
            pa.field("form", pa.string()),
            pa.field("label", pa.string()),
            pa.field("intercept", pa.float64()),  # A of log10 excess = A + C log10 number
            pa.field("slope", pa.float64()),  # C
            pa.field("r_squared", pa.float64()),
            pa.field("error", pa.float64()),  # root mean square, decades
            pa.field("error_left_out", pa.float64()),  # each axis predicted from the others
            pa.field("num_settings", pa.int64()),
            pa.field("num_groups", pa.int64()),
        ]
    ),
    OPERATORS: pa.schema(
        [
            pa.field("setting", pa.string()),
            pa.field("method", pa.string()),
            pa.field("group", pa.string()),
            pa.field("label", pa.string()),
            pa.field("spread_before", pa.float64()),  # of the task vectors, weights^2
            pa.field("spread_after", pa.float64()),  # of the parts that the method adds
            pa.field("relative_before", pa.float64()),  # spread / squared length of the mean
            pa.field("relative_after", pa.float64()),
            pa.field("flipped_before", pa.float64()),  # signs without one expert, of the average
            pa.field("flipped_after", pa.float64()),  # of the method's merge
            pa.field("moved_before", pa.float64()),  # squared distance without one expert
            pa.field("moved_after", pa.float64()),
        ]
    ),
    REACHES: pa.schema(
        [
            pa.field("setting", pa.string()),
            pa.field("task", pa.string()),
            pa.field("label", pa.string()),
            pa.field("slope", pa.float64()),  # of the loss along the path, nats
            pa.field("curvature", pa.float64()),  # nats
            pa.field("reach", pa.float64()),  # curvature / |slope|
            pa.field("reach_error", pa.float64()),
            pa.field("predicted_change", pa.float64()),  # to second order, nats
            pa.field("measured_change", pa.float64()),
            pa.field("length", pa.float64()),  # of the task vector
        ]
    ),
    DIAGNOSTICS: pa.schema(
        [
            pa.field("topic", pa.string()),
            pa.field("subject", pa.string()),
            pa.field("label", pa.string()),
            pa.field("number", pa.float64()),
            pa.field("text", pa.string()),  # the finding, with its unit
        ]
    ),
    NOTES: pa.schema(
        [
            pa.field("topic", pa.string()),
            pa.field("text", pa.string()),  # what could not be computed, and why
        ]
    ),
}
"""The schema of each table, by the table's name."""
