"""Exports a run's metrics through Ray, whose nodes serve them to Prometheus with prefix `ray_`."""

import contextlib
import threading
from collections.abc import Callable, Iterable, Iterator

from ray.util.metrics import Gauge

from orchestrator.cluster.metric_names import METRICS, MetricValue

EXPORT_EVERY_S = 10.0
"""As often as Ray itself passes values on."""


@contextlib.contextmanager
def exporting_metrics(read: Callable[[], Iterable[MetricValue]], *, study: str) -> Iterator[None]:
    """Reads and exports for the length of a `with` block, in a thread of its own.

    Args:
        read: Returns every metric as it is now.
        study: Becomes the label `study`.
    """
    gauges = {
        name: Gauge(name, description=description, tag_keys=labels)
        for name, (description, labels) in METRICS.items()
    }
    closing = threading.Event()

    def export() -> None:
        while True:
            for reading in read():
                gauges[reading.name].set(reading.value, tags={"study": study, **reading.labels})
            if closing.wait(EXPORT_EVERY_S):
                return

    thread = threading.Thread(target=export, name="gauges", daemon=True)
    thread.start()
    try:
        yield
    finally:
        closing.set()
        thread.join()
