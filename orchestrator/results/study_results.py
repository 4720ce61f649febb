"""The results of a study: both tables and the means over groups, computed once."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Self

import pyarrow as pa

from orchestrator.record.committed import Committed
from orchestrator.results.means import Row, SettingMean, setting_means
from orchestrator.results.rows import experts_table, results_table


@dataclass(frozen=True, kw_only=True)
class StudyResults:
    """The tables and means that report, MLflow and terminal show; they never change."""

    merges: pa.Table
    """The result table, with the columns of `RESULTS_SCHEMA`; `results.parquet` holds it."""
    experts: pa.Table
    """The experts table, with the columns of `EXPERTS_SCHEMA`; `experts.parquet` holds it."""
    means: tuple[SettingMean, ...]
    """Means over the groups, for every setting and method of the result table."""

    @classmethod
    def of(cls, committed: Committed) -> Self:
        """Computes the results from one snapshot of the committed artifacts."""
        return cls.of_tables(merges=results_table(committed), experts=experts_table(committed))

    @classmethod
    def of_tables(cls, *, merges: pa.Table, experts: pa.Table) -> Self:
        """Returns the results with the given tables.

        Raises:
            ValueError: The table mixes studies or bases, or holds a group twice.
        """
        return cls(merges=merges, experts=experts, means=setting_means(merges))

    def rows_by_merge(self) -> Mapping[str, Sequence[Row]]:
        """Returns the rows of every merge by its id, under the first setting that has the merge."""
        first: dict[str, tuple[str, str, str]] = {}
        rows: dict[str, list[Row]] = {}
        for row in self.merges.to_pylist():
            place = (row["axis"], row["value"], row["method"])
            if first.setdefault(row["merge_id"], place) == place:
                rows.setdefault(row["merge_id"], []).append(row)
        return rows
