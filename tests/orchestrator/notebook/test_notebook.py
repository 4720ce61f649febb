"""The result table as a data frame of pandas."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from orchestrator.notebook import results
from orchestrator.record.folder import StudyNotFoundError
from orchestrator.results.rows import results_table
from orchestrator.run.opened import open_study
from orchestrator.study.reader import parse_study
from workers.artifacts.layout import Layout
from workers.artifacts.manifests import Manifest


def test_results_are_the_result_table(
    study_fields: Callable[..., dict[str, Any]], all_manifests: Callable[..., list[Manifest]]
) -> None:
    """The rows that a run would store, from the store alone."""
    text = yaml.safe_dump(study_fields())
    opened = open_study(parse_study(text, source="study.yaml"), text=text)
    opened.folder.write_plan(opened.plan, study_text=text)
    for manifest in all_manifests(opened.plan):
        key = Layout.manifest(manifest.kind, manifest.id)
        opened.artifacts.store.put(key, manifest.to_json())
    frame = results(opened.store_url, "small")
    table = results_table(opened.reopened().ledger.committed())
    assert list(frame.columns) == table.column_names
    assert frame.shape == (3 * (2 + 2), table.num_columns)
    assert set(frame[frame.task == "macro"].accuracy) == {0.8}


def test_a_study_that_is_not_there_is_named(tmp_path: Path) -> None:
    """As on the command line."""
    (tmp_path / "store").mkdir()
    with pytest.raises(StudyNotFoundError, match="no study 'other'"):
        results(str(tmp_path / "store"), "other")
