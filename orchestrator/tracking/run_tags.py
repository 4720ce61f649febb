"""The tags of an MLflow run, which also hold whatever MLflow would refuse elsewhere."""

import logging
import math
from collections.abc import Mapping

from orchestrator.tracking.mlflow_run import MlflowRun

KEY_TAG = "mergesweep.key"
DIGEST_TAG = "mergesweep.digest"
INFINITE_TAG = "mergesweep.infinite"
CHANGED_PARAM_TAG = "mergesweep.changed_param."

_log = logging.getLogger(__name__)


def mlflow_tags(run: MlflowRun, *, stored_params: Mapping[str, str]) -> dict[str, str]:
    """Returns the tags, with changed parameters and infinite metrics, which MLflow refuses."""
    changed = {k: v for k, v in run.params.items() if stored_params.get(k, v) != v}
    if changed:
        _log.warning(
            "MLflow run %s: parameters cannot change, so the new values became tags: %s",
            run.key,
            changed,
        )
    infinite = [f"{m.name}@{m.step}={m.value}" for m in run.metrics if math.isinf(m.value)]
    return {
        **run.tags,
        **{f"{CHANGED_PARAM_TAG}{key}": value for key, value in changed.items()},
        **({INFINITE_TAG: " ".join(infinite)} if infinite else {}),
        "kind": run.kind,
        KEY_TAG: run.key,
        DIGEST_TAG: run.digest,
    }


def finite(value: float) -> float:
    """Returns NaN for infinity: MLflow draws infinity as 1.8e308 and leaves NaN out."""
    return math.nan if math.isinf(value) else value
