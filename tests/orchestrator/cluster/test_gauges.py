import time
from urllib.error import URLError
from urllib.request import urlopen

import pytest
import ray as ray_module

from orchestrator.cluster.gauges import exporting_metrics
from orchestrator.cluster.protocol import METRICS, MetricValue

TIMEOUT_S = 90


@pytest.mark.cluster
@pytest.mark.slow
@pytest.mark.usefixtures("ray")
def test_metrics_are_on_the_page_that_prometheus_scrapes() -> None:
    """Ray adds the prefix `ray_`; each line has the study's label and the metric's own."""
    values = {name: float(number) for number, name in enumerate(METRICS, start=1)}
    labels = {"state": "done", "queue": "jobs"}
    found = [
        MetricValue(
            name=name,
            value=values[name],
            labels={each: labels[each] for each in METRICS[name][1] if each in labels},
        )
        for name in METRICS
    ]
    with exporting_metrics(lambda: found, study="demo"):
        lines = _scraped(num_metrics=len(METRICS))
    for reading in found:
        (line,) = [each for each in lines if each.startswith(f"ray_{reading.name}{{")]
        assert float(line.rpartition(" ")[2]) == reading.value
        for label, value in {"study": "demo", **reading.labels}.items():
            assert f'{label}="{value}"' in line


def _scraped(*, num_metrics: int) -> list[str]:
    """Returns our lines of the node's metrics page, once they are complete."""
    (node,) = ray_module.nodes()
    url = f"http://{node['NodeManagerAddress']}:{node['MetricsExportPort']}/metrics"
    deadline_s = time.monotonic() + TIMEOUT_S
    lines: list[str] = []
    while time.monotonic() < deadline_s and len(lines) < num_metrics:
        time.sleep(0.2)
        try:
            with urlopen(url) as answer:
                text = answer.read().decode()
        except URLError:
            continue
        lines = [each for each in text.splitlines() if each.startswith("ray_mergesweep_")]
    return lines


def test_metrics_that_cannot_be_read_or_made_fail_nothing(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """One line is logged, and reading is tried again."""
    calls: list[int] = []

    def broken() -> list[MetricValue]:
        calls.append(1)
        raise KeyError("a trial")

    monkeypatch.setattr("orchestrator.cluster.gauges.EXPORT_EVERY_S", 0.01)
    monkeypatch.setattr("orchestrator.cluster.gauges.Gauge", _no_gauge)
    with exporting_metrics(broken, study="demo"):
        while len(calls) < 3:
            time.sleep(0.01)
    lines = [record.getMessage() for record in caplog.records]
    assert lines == ["the export of metrics failed; the run goes on: ValueError: bad name"]


def _no_gauge(*_: object, **__: object) -> None:
    raise ValueError("bad name")
