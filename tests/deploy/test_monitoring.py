import json
import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import promql_parser
import pytest
import yaml

from orchestrator.cluster.protocol import METRICS, STATES

MONITORING = Path(__file__).parents[2] / "deploy" / "monitoring"
BOARD: dict[str, Any] = json.loads((MONITORING / "board.json").read_text("utf-8"))
RULES: list[dict[str, Any]] = [
    rule
    for group in yaml.safe_load((MONITORING / "rules.yaml").read_text("utf-8"))["groups"]
    for rule in group["rules"]
]
BOARD_EXPRESSIONS = [each["expr"] for panel in BOARD["panels"] for each in panel["targets"]]
EXPRESSIONS = [rule["expr"] for rule in RULES] + BOARD_EXPRESSIONS


def selectors(expression: str) -> Iterator[promql_parser.VectorSelector]:
    found: list[promql_parser.VectorSelector] = []

    def note(node: promql_parser.Expr) -> bool:
        if isinstance(node, promql_parser.VectorSelector):
            found.append(node)
        return True

    promql_parser.walk(promql_parser.parse(expression), note)
    yield from found


def problems(expression: str) -> list[str]:
    """Returns the metrics, labels and states in an expression that the program does not export."""
    found: list[str] = []
    for selector in selectors(expression):
        name = str(selector.name).removeprefix("ray_")
        if name not in METRICS or not str(selector.name).startswith("ray_"):
            found.append(f"metric {selector.name}")
            continue
        for matcher in selector.matchers.matchers:
            if matcher.name not in METRICS[name][1]:
                found.append(f"label {matcher.name} of {name}")
            if matcher.name == "state" and matcher.value not in STATES[name]:
                found.append(f"state {matcher.value} of {name}")
    return found


@pytest.mark.parametrize("expression", EXPRESSIONS)
def test_expression_names_only_what_is_exported(expression: str) -> None:
    """Rules and panels use only exported metrics, labels and states, also after a renaming."""
    assert len(list(selectors(expression))) > 0
    assert problems(expression) == []


@pytest.mark.parametrize(
    "broken",
    [
        'ray_mergesweep_trial{state="done"}',
        'mergesweep_trials{state="done"}',
        'ray_mergesweep_trials{stage="done"}',
        'ray_mergesweep_merges{state="running"}',
        "deriv((max by (study) (ray_mergesweep_gpu_hours))[10m:30s])",
    ],
)
def test_expression_that_names_anything_else_is_found(broken: str) -> None:
    """The check finds an unknown metric, label or state at any depth of an expression."""
    assert len(problems(broken)) == 1


@pytest.mark.parametrize("broken", ["max by (study (ray_mergesweep_trials)", "deriv(x)[5m", "x ="])
def test_expression_that_is_no_promql_is_found(broken: str) -> None:
    """The parser refuses expressions that break the grammar of Prometheus."""
    with pytest.raises(ValueError, match=r"."):
        promql_parser.parse(broken)


def test_every_metric_is_on_the_board() -> None:
    """The board shows every exported metric: a metric that is not shown need not be exported."""
    assert {str(each.name) for text in BOARD_EXPRESSIONS for each in selectors(text)} == {
        f"ray_{name}" for name in METRICS
    }


def test_every_metric_is_documented() -> None:
    """deploy/README.md lists every metric with its labels and states."""
    readme = (MONITORING.parent / "README.md").read_text("utf-8")
    for name, (_, labels) in METRICS.items():
        (line,) = [each for each in readme.splitlines() if f"`{name}`" in each]
        assert [each for each in (*labels, *STATES.get(name, ())) if each not in line] == []


def test_every_alert_says_what_to_do() -> None:
    """Every alert has a severity, a summary with the study, a description, and no unknown key."""
    for rule in RULES:
        if "record" in rule:
            assert rule.keys() == {"record", "expr"}
        else:
            assert rule.keys() - {"for"} == {"alert", "expr", "labels", "annotations"}
            assert rule["annotations"].keys() == {"summary", "description"}
            assert "{{ $labels.study }}" in rule["annotations"]["summary"]
            assert rule["labels"]["severity"] in ("warning", "critical")
        assert re.fullmatch(r"\d+[mh]", rule.get("for", "1m"))


def test_board_has_no_overlap_and_no_server_of_its_own() -> None:
    """The board's panels do not overlap, and users choose its Prometheus server on the page."""
    ids = [panel["id"] for panel in BOARD["panels"]]
    assert len(set(ids)) == len(ids)
    cells = [
        (x, y)
        for panel in BOARD["panels"]
        for x in range(panel["gridPos"]["x"], panel["gridPos"]["x"] + panel["gridPos"]["w"])
        for y in range(panel["gridPos"]["y"], panel["gridPos"]["y"] + panel["gridPos"]["h"])
    ]
    assert len(set(cells)) == len(cells)
    assert max(x for x, _ in cells) < 24
    sources = [panel["datasource"]["uid"] for panel in BOARD["panels"]]
    assert set(sources) == {"${source}"}


@pytest.mark.skipif(shutil.which("promtool") is None, reason="promtool is in no Python package")
def test_rules_fire_when_they_should() -> None:
    """Promtool confirms that alerts fire at the right times over series of 40 minutes."""
    cases = Path(__file__).with_name("rules_cases.yaml")
    tested = subprocess.run(["promtool", "test", "rules", cases], check=False)
    assert tested.returncode == 0
    checked = subprocess.run(
        ["promtool", "check", "config", MONITORING / "prometheus.yml"], check=False
    )
    assert checked.returncode == 0
