"""Exports a run's metrics through Ray, whose nodes serve them to Prometheus with prefix `ray_`."""

import contextlib
import threading
import time
from collections.abc import Callable, Iterable, Iterator

from ray.util.metrics import Gauge

from orchestrator.cluster.metric_names import METRICS, MetricValue
from orchestrator.progress.pause import pause_s

EXPORT_EVERY_S = 10.0
"""Ray itself passes values on as often as this."""


@contextlib.contextmanager
def exporting_metrics(read: Callable[[], Iterable[MetricValue]], *, study: str) -> Iterator[None]:
    """Exports metrics every few seconds for the length of a `with` block, from a thread.

    Args:
        read: Returns the present value of every metric.
        study: The value of the label `study`.
    """
    gauges = {
        name: Gauge(name, description=description, tag_keys=labels)
        for name, (description, labels) in METRICS.items()
    }
    closing = threading.Event()

    def export() -> None:
        while True:
            began_s = time.thread_time()
            for each in read():
                gauges[each.name].set(each.value, tags={"study": study, **each.labels})
            if closing.wait(pause_s(time.thread_time() - began_s, least_s=EXPORT_EVERY_S)):
                return

    thread = threading.Thread(target=export, name="gauges", daemon=True)
    thread.start()
    try:
        yield
    finally:
        closing.set()
        thread.join()
