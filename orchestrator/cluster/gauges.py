"""Exports a run's metrics through Ray, whose nodes serve them to Prometheus with prefix `ray_`."""

import contextlib
import logging
import threading
import time
from collections.abc import Callable, Iterable, Iterator

from ray.util.metrics import Gauge

from orchestrator.cluster.protocol import METRICS, MetricValue
from orchestrator.progress.pause import pause_s
from orchestrator.progress.view_guard import ViewGuard

_log = logging.getLogger(__name__)

EXPORT_EVERY_S = 10.0
"""Ray itself passes values on as often as this."""


@contextlib.contextmanager
def exporting_metrics(read: Callable[[], Iterable[MetricValue]], *, study: str) -> Iterator[None]:
    """Exports metrics every few seconds for the length of a `with` block, from a thread.

    Args:
        read: Returns the present value of every metric.
        study: The value of the label `study`.
    """
    closing = threading.Event()
    guard = ViewGuard("the export of metrics", note=_log.warning)
    gauges: dict[str, Gauge] = {}
    with guard.trying():
        for name, (description, labels) in METRICS.items():
            gauges[name] = Gauge(name, description=description, tag_keys=labels)

    def export() -> None:
        while True:
            began_s = time.thread_time()
            with guard.trying():
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
