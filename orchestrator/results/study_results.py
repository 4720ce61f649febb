"""The results of a study: both tables and the means over groups, computed once."""

import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Self

import pyarrow as pa
import pyarrow.parquet as pq

from orchestrator.record.committed import Committed
from orchestrator.record.folder import EXPERTS_FILE, RESULTS_FILE, StudyFolder
from orchestrator.results.means import Row, SettingMean, setting_means
from orchestrator.results.rows import experts_table, results_table
from orchestrator.results.schema import EXPERTS_SCHEMA, MICRO_BATCH, RESULTS_SCHEMA, SKIPPED


@dataclass(frozen=True, kw_only=True)
class StudyResults:
    """The tables and means that report, MLflow and terminal show; they never change."""

    merges: pa.Table
    """The result table, with the columns of `RESULTS_SCHEMA`; `results.parquet` holds it. Both
    tables also have `SKIPPED` if images were skipped."""
    experts: pa.Table
    """The experts table, with the columns of `EXPERTS_SCHEMA`; `experts.parquet` holds it."""
    means: tuple[SettingMean, ...]
    """Means over the groups, for every setting and method of the result table."""

    @classmethod
    def of(cls, committed: Committed) -> Self:
        """Computes the results from one snapshot of the committed artifacts."""
        return cls.of_tables(merges=results_table(committed), experts=experts_table(committed))

    @classmethod
    def stored(cls, folder: StudyFolder) -> Self | None:
        """Returns the results in the tables that a study's last run wrote.

        None if a table is missing, or if another release wrote it with other columns.
        """
        tables = []
        for name, schema in ((RESULTS_FILE, RESULTS_SCHEMA), (EXPERTS_FILE, EXPERTS_SCHEMA)):
            content = folder.read_bytes(name)
            if content is None:
                return None
            tables.append(pq.read_table(io.BytesIO(content)))
            found = tables[-1].schema
            further = [each for each in (SKIPPED, MICRO_BATCH) if each.name in found.names]
            if list(found) != [*schema, *further]:
                return None
        return cls.of_tables(merges=tables[0], experts=tables[1])

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
