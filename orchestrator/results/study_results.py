"""The results of a study: both tables and the means over groups, computed once."""

import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Self

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from orchestrator.plan.multi_task import MULTI_TASK
from orchestrator.record.committed import Committed
from orchestrator.record.folder import EXPERTS_FILE, RESULTS_FILE, StudyFolder
from orchestrator.results.means import Row, SettingMean, setting_means
from orchestrator.results.multi_task_rows import multi_task_table
from orchestrator.results.rows import experts_table, external_table, results_table
from orchestrator.results.schema import (
    EXPERTS_SCHEMA,
    EXTERNAL,
    JOINT,
    JOINT_CALIBRATED,
    LORA,
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
    multi_task: pa.Table | None = None
    """Rows of multi-task models, with the columns of `merges`; None if the study has none. They are
    apart because they are no merges: laws, predictors and exports are about merges."""

    @property
    def own_rows(self) -> pa.Table:
        """The rows of the study's merges, then of its multi-task models."""
        if self.multi_task is None:
            return self.merges
        return pa.concat_tables([self.merges, self.multi_task])

    @property
    def rows(self) -> pa.Table:
        """All rows, as `results.parquet` holds them: the study's own, then external ones."""
        own = self.own_rows
        if self.external is None:
            return own
        nulls = pa.nulls(own.num_rows, EXTERNAL.type)
        return pa.concat_tables([own.append_column(EXTERNAL, nulls), self.external])

    @property
    def all_means(self) -> tuple[SettingMean, ...]:
        """Means over the groups, those of multi-task and external models too."""
        is_alone = self.external is None and self.multi_task is None
        return self.means if is_alone else setting_means(self.rows)

    @cached_property
    def compared(self) -> Self:
        """The results in which multi-task models stand as a method among the merges, for views."""
        if self.multi_task is None:
            return self
        merges = self.own_rows
        return replace(self, merges=merges, means=setting_means(merges), multi_task=None)

    @classmethod
    def of(cls, committed: Committed) -> Self:
        """Computes the results from one snapshot of the committed artifacts."""
        return cls.of_tables(
            merges=results_table(committed),
            experts=experts_table(committed),
            external=external_table(committed) if committed.external else None,
            multi_task=multi_task_table(committed) if committed.plan.multi_task else None,
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
            optional = (*LORA, *TUNING, JOINT, JOINT_CALIBRATED, SKIPPED, MICRO_BATCH, EXTERNAL)
            further = [each for each in optional if each.name in found.names]
            if list(found) != [*schema, *further]:
                return None
        own, external = _parted(tables[0])
        is_merge = pc.not_equal(own["method"], MULTI_TASK)
        multi_task = own.filter(pc.invert(is_merge))
        return cls.of_tables(
            merges=own.filter(is_merge),
            experts=tables[1],
            external=external,
            multi_task=multi_task if multi_task.num_rows else None,
        )

    @classmethod
    def of_tables(
        cls,
        *,
        merges: pa.Table,
        experts: pa.Table,
        external: pa.Table | None = None,
        multi_task: pa.Table | None = None,
    ) -> Self:
        """Returns the results with the given tables.

        Raises:
            ValueError: The table mixes studies or bases, or holds a group twice.
        """
        return cls(
            merges=merges,
            experts=experts,
            means=setting_means(merges),
            external=external,
            multi_task=multi_task,
        )

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
