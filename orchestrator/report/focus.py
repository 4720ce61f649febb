"""Chooses the one setting that the report shows group by group and task by task."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import pyarrow as pa
import pyarrow.compute as pc

from orchestrator.report.shown import shown_groups
from orchestrator.results.means import Row, SettingMean
from orchestrator.results.schema import MACRO
from orchestrator.results.whole import whole


@dataclass(frozen=True, kw_only=True)
class Focus:
    """The chosen setting with all its rows, and the reason for the choice."""

    setting: str
    reason: str
    rows: tuple[Row, ...]
    """Rows of the result table at this setting: tasks, held-out tasks and both means."""

    @cached_property
    def num_groups(self) -> int:
        """The number of groups at this setting."""
        return len({row["group"] for row in self.rows})

    def macro_by_group(self) -> dict[str, dict[str, Row]]:
        """Returns the macro row of every shown group and method, sorted by group."""
        table: dict[str, dict[str, Row]] = {}
        shown = shown_groups(row for row in self.rows if row["task"] == MACRO)
        for row in sorted(self.rows, key=lambda row: row["group"]):
            if row["task"] == MACRO and row["group"] in shown:
                table.setdefault(row["group"], {})[row["method"]] = row
        return table


def focus_of(results: pa.Table, settings: Sequence[SettingMean]) -> Focus | None:
    """Returns the default setting if several axes share it, else the most accurate setting.

    A point that several axes have in common appears under each of them with the same merge ids.
    With a single axis nothing distinguishes the default. Returns None if no merge has a result.
    """
    ranked = [s for s in settings if s.macro.accuracy.num_groups]
    if not ranked:
        return None
    shared = _num_axes_by_setting(results)
    most = max(shared[s.axis, s.value] for s in ranked)
    if most > 1:
        chosen = next(s for s in ranked if shared[s.axis, s.value] == most)
        reason = f"the default setting, which {most} axes share"
    else:
        chosen = max(whole(ranked) or ranked, key=lambda s: s.macro.accuracy.mean)
        reason = "the setting with the most accurate merge"
    here = pc.and_(pc.equal(results["axis"], chosen.axis), pc.equal(results["value"], chosen.value))
    return Focus(
        setting=chosen.setting, reason=reason, rows=tuple(results.filter(here).to_pylist())
    )


def _num_axes_by_setting(results: pa.Table) -> dict[tuple[str, str], int]:
    """Returns the largest number of axes that share a merge of a setting, by axis and value."""
    means = results.filter(pc.equal(results["task"], MACRO))
    axes_by_merge: dict[str, set[str]] = {}
    ids = means.select(["axis", "value", "merge_id"]).to_pylist()
    for row in ids:
        axes_by_merge.setdefault(row["merge_id"], set()).add(row["axis"])
    shared: dict[tuple[str, str], int] = {}
    for row in ids:
        key = (row["axis"], row["value"])
        shared[key] = max(shared.get(key, 0), len(axes_by_merge[row["merge_id"]]))
    return shared
