"""Names, labels and states of the exported metrics."""

from collections.abc import Mapping
from dataclasses import dataclass, field

METRICS: Mapping[str, tuple[str, tuple[str, ...]]] = {
    "mergesweep_trials": ("Trials of a study, pretraining included", ("study", "state")),
    "mergesweep_merges": ("Merge jobs of a study", ("study", "state")),
    "mergesweep_queue_depth": ("Trials and jobs that wait for a worker", ("study", "queue")),
    "mergesweep_gpu_seconds": ("Seconds of workers times their share of a GPU", ("study",)),
    "mergesweep_cpu_seconds": ("Seconds of workers times their cores", ("study",)),
    "mergesweep_store_bytes": ("Bytes of a study's committed files in its store", ("study",)),
}
"""Description and label names of every metric. All are gauges: they include the work of earlier
runs of the study, read from the store's manifests, so they do not begin at 0 with each run."""

STATES: Mapping[str, tuple[str, ...]] = {
    "mergesweep_trials": ("done", "running", "waiting", "left_out", "failed"),
    "mergesweep_merges": ("done", "ready", "waiting", "left_out", "failed"),
}
"""Values of the label `state`. `ready`: all experts of the merge are committed, whether or not a
worker has the job. `failed`: it, or an artifact that it needs, has failed for good. `left_out`: it
does not fit the budget."""


@dataclass(frozen=True, kw_only=True)
class MetricValue:
    """The value of a metric for one combination of labels."""

    name: str
    value: float
    labels: Mapping[str, str] = field(default_factory=dict)
