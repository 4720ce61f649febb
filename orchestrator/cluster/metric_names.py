"""Names, labels and states of the metrics that a monitoring system gets."""

from collections.abc import Mapping
from dataclasses import dataclass, field

METRICS: Mapping[str, tuple[str, tuple[str, ...]]] = {
    "mergesweep_trials": ("Trials of a study, runs of pretraining included", ("study", "state")),
    "mergesweep_merges": ("Merge jobs of a study", ("study", "state")),
    "mergesweep_queue_depth": ("What could run now and no worker has", ("study", "queue")),
    "mergesweep_gpu_seconds": ("Seconds of workers times their share of a GPU", ("study",)),
    "mergesweep_cpu_seconds": ("Seconds of workers times their cores", ("study",)),
    "mergesweep_store_bytes": ("Bytes of a study's committed files in its store", ("study",)),
}
"""Every metric: its description, and the names of its labels. All are gauges: what earlier runs of
a study did counts, read from the store's manifests, so that none begins at 0."""

STATES: Mapping[str, tuple[str, ...]] = {
    "mergesweep_trials": ("done", "running", "waiting", "left_out", "failed"),
    "mergesweep_merges": ("done", "ready", "waiting", "left_out", "failed"),
}
"""The values of the label `state`. `ready` has all its experts, whether or not a worker has it;
`failed` cannot be made any more, by its own failure or that of what it needs; `left_out` has no
room in the budget."""


@dataclass(frozen=True, kw_only=True)
class MetricValue:
    """The value of a metric for one combination of labels."""

    name: str
    value: float
    labels: Mapping[str, str] = field(default_factory=dict)
