"""The results of a study: both tables and the means over groups, computed once."""

import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Self

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from orchestrator.record.committed import Committed
from orchestrator.record.folder import EXPERTS_FILE, RESULTS_FILE, StudyFolder
from orchestrator.results.means import Row, SettingMean, setting_means
from orchestrator.results.rows import experts_table, external_table, results_table
from orchestrator.results.schema import (
    EXPERTS_SCHEMA,
    EXTERNAL,
    MICRO_BATCH,
    RESULTS_SCHEMA,
    SKIPPED,
    TUNING,
)


@dataclass(frozen=True, kw_only=True)
class StudyResults:
    """The tables and means that report, MLflow and terminal show; they never change."""

    merges: pa.Table
    """The result table, with the columns of `RESULTS_SCHEMA`; `results.parquet` holds it. It also
    has `TUNING` if parameters are chosen, and both tables have `SKIPPED` if images were skipped."""
    experts: pa.Table
    """The experts table, with the columns of `EXPERTS_SCHEMA`; `experts.parquet` holds it."""
    means: tuple[SettingMean, ...]
    """Means over the groups, for every setting and method of the result table."""
    external: pa.Table | None = None
    """Rows of models that other tools made, with the column `EXTERNAL` too; None if there are
    none. They are apart because they are at single settings and groups: comparisons of the study's
    own methods stay as they are."""

    @property
    def rows(self) -> pa.Table:
        """All rows, as `results.parquet` holds them: the study's own, then external ones."""
        if self.external is None:
            return self.merges
        nulls = pa.nulls(self.merges.num_rows, EXTERNAL.type)
        return pa.concat_tables([self.merges.append_column(EXTERNAL, nulls), self.external])

    @property
    def all_means(self) -> tuple[SettingMean, ...]:
        """Means over the groups, those of external models too."""
        return self.means if self.external is None else setting_means(self.rows)

    @classmethod
    def of(cls, committed: Committed) -> Self:
        """Computes the results from one snapshot of the committed artifacts."""
        return cls.of_tables(
            merges=results_table(committed),
            experts=experts_table(committed),
            external=external_table(committed) if committed.external else None,
        )

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
            optional = (*TUNING, SKIPPED, MICRO_BATCH, EXTERNAL)
            further = [each for each in optional if each.name in found.names]
            if list(found) != [*schema, *further]:
                return None
        merges, external = _parted(tables[0])
        return cls.of_tables(merges=merges, experts=tables[1], external=external)

    @classmethod
    def of_tables(
        cls, *, merges: pa.Table, experts: pa.Table, external: pa.Table | None = None
    ) -> Self:
        """Returns the results with the given tables.

        Raises:
            ValueError: The table mixes studies or bases, or holds a group twice.
        """
        return cls(merges=merges, experts=experts, means=setting_means(merges), external=external)

    def rows_by_merge(self) -> Mapping[str, Sequence[Row]]:
        """Returns the rows of every merge by its id, under the first setting that has the merge."""
        first: dict[str, tuple[str, str, str]] = {}
        rows: dict[str, list[Row]] = {}
        for row in self.merges.to_pylist():
            place = (row["axis"], row["value"], row["method"])
            if first.setdefault(row["merge_id"], place) == place:
                rows.setdefault(row["merge_id"], []).append(row)
        return rows


def _parted(rows: pa.Table) -> tuple[pa.Table, pa.Table | None]:
    """Returns the study's own rows of a stored table, and the external ones if there are any."""
    if EXTERNAL.name not in rows.column_names:
        return rows, None
    is_own = pc.is_null(rows[EXTERNAL.name])
    return rows.filter(is_own).drop_columns([EXTERNAL.name]), rows.filter(pc.invert(is_own))
