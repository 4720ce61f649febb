"""Computes the theory tables of a study."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import pyarrow as pa
import pyarrow.compute as pc

from orchestrator.results.schema import MACRO
from orchestrator.theory.base_features import Coefficients, MeasuredBases, base_predictors
from orchestrator.theory.comparison_rows import external_pair_rows, law_parts, pair_part
from orchestrator.theory.evidence.bound_panel import BoundsByCell, bound_predictors
from orchestrator.theory.evidence.bound_rows import bound_part, calibration_part
from orchestrator.theory.evidence.size_axis import Sizes, with_size_axis
from orchestrator.theory.evidence.snapshot_features import (
    NO_SNAPSHOTS,
    NO_VECTORS,
    Places,
    losses_of,
    snapshot_predictors,
)
from orchestrator.theory.evidence.validation_features import NO_VALIDATION, validation_predictors
from orchestrator.theory.evidence.vector_features import TaskVectors, vector_predictors
from orchestrator.theory.features import (
    Predictor,
    Trainings,
    baselines,
    hyperparameter_predictors,
    stability_predictors,
)
from orchestrator.theory.panel import Panel, panels
from orchestrator.theory.predictor_rows import correlation_part, prediction_part
from orchestrator.theory.schema import (
    BOUNDS,
    CALIBRATIONS,
    CORRELATIONS,
    ESTIMATES,
    LAWS,
    NOTES,
    PAIRS,
    PREDICTIONS,
    SCHEMAS,
)
from orchestrator.theory.table_rows import Columns, Note, Part

NOT_MEASURED = "the constants of the bases are not measured (`mergesweep measure NAME` does)"


@dataclass(frozen=True, kw_only=True)
class Answers:
    """The theory tables of a study, by their names in `SCHEMAS`."""

    tables: Mapping[str, pa.Table]

    def rows(self, name: str) -> list[Columns]:
        """Returns the rows of a table."""
        rows: list[Columns] = self.tables[name].to_pylist()
        return rows


def compute_answers(
    results: pa.Table,
    *,
    trainings: Trainings | str,
    measured: MeasuredBases | str = NOT_MEASURED,
    bounds: BoundsByCell | None = None,
    coefficients: Coefficients | None = None,
    vectors: TaskVectors | None = None,
    places: Places | None = None,
    sizes: Sizes | None = None,
    measured_rows: Mapping[str, Sequence[Columns]] | None = None,
) -> Answers:
    """Returns the theory tables. Equal arguments give equal tables.

    Args:
        results: The result table.
        trainings: How the experts are trained, or the reason why that is not known.
        measured: The constants of the settings' bases, or the reason why there are none.
        bounds: The theory's statements about merges.
        coefficients: Those of the methods that have some before they merge.
        vectors: The inner products of the experts' task vectors.
        places: The place of each setting in its trainings.
        sizes: The sizes of the models that the study varies.
        measured_rows: The rows of the tables that hold measurements alone, by table.
    """
    stated = bounds or {}
    every = panels(results)
    of_groups = panels(results, with_pools=False)
    losses = losses_of(of_groups)

    def predictors(panel: Panel) -> Sequence[Predictor]:
        return (
            *baselines(panel, mean=MACRO),
            *_of_plan(panel, trainings, measured, coefficients=coefficients),
            *vector_predictors(panel, vectors or {}),
            *snapshot_predictors(panel, places=places or {}, losses=losses, vectors=vectors or {}),
            *validation_predictors(panel),
            *bound_predictors(panel, stated),
        )

    laws, estimates = _laws(results, every, sizes=sizes or {})
    parts = {
        PAIRS: [pair_part(every)],
        LAWS: [laws],
        ESTIMATES: [estimates],
        CORRELATIONS: [correlation_part(panel, predictors) for panel in of_groups],
        PREDICTIONS: [prediction_part(panel, predictors) for panel in of_groups],
        BOUNDS: [bound_part(panel, stated) for panel in of_groups] if stated else [],
        CALIBRATIONS: [calibration_part(panel, stated) for panel in of_groups] if stated else [],
    }
    notes = [
        *_general_notes(every, trainings, measured),
        *_absent_notes(of_groups, places=places or {}, vectors=vectors or {}),
        *_notes_of(parts),
    ]
    rows = {name: [row for part in found for row in part.rows] for name, found in parts.items()}
    rows |= {name: list(found) for name, found in (measured_rows or {}).items()}
    rows[NOTES] = [{"topic": note.topic, "text": note.text} for note in dict.fromkeys(notes)]
    return Answers(tables=_tables(rows))


def _tables(rows: Mapping[str, list[Columns]]) -> dict[str, pa.Table]:
    return {
        name: pa.Table.from_pylist(rows.get(name, []), schema=schema)
        for name, schema in SCHEMAS.items()
    }


def paired_table(results: pa.Table, *, external: pa.Table | None = None) -> pa.Table:
    """Returns the paired comparisons alone, which take a second, as the table `pairs`.

    Args:
        results: The result table.
        external: Rows of models that other tools made. Each is compared with the study's methods
            in families of its own, so that the others keep their groups.
    """
    rows = list(pair_part(panels(results)).rows)
    if external is not None:
        rows += external_pair_rows(results, external)
    return pa.Table.from_pylist(rows, schema=SCHEMAS[PAIRS])


def _laws(results: pa.Table, every: Sequence[Panel], *, sizes: Sizes) -> tuple[Part, Part]:
    """Returns the laws, then their exponents and optima; models stand at their sizes."""
    has_held_out = pc.any(results["held_out"]).as_py()
    of_all_tasks = panels(results, with_held_out=True) if has_held_out else ()
    along = [with_size_axis(panel, sizes) for panel in every]
    return law_parts(along, of_all_tasks=of_all_tasks)


def _of_plan(
    panel: Panel,
    trainings: Trainings | str,
    measured: MeasuredBases | str,
    *,
    coefficients: Coefficients | None,
) -> Iterator[Predictor]:
    """Yields the predictors that are known before training, as far as their inputs are."""
    if isinstance(trainings, str):
        return
    yield from hyperparameter_predictors(panel, trainings=trainings, mean=MACRO)
    yield from stability_predictors(panel, trainings=trainings, mean=MACRO)
    if not isinstance(measured, str):
        yield from base_predictors(
            panel, trainings=trainings, measured=measured, mean=MACRO, coefficients=coefficients
        )


def _absent_notes(
    of_groups: Sequence[Panel], *, places: Places, vectors: TaskVectors
) -> Iterator[Note]:
    """Yields why predictors of snapshots and of validation images are left out."""
    if not of_groups:
        return
    if not any(each.earlier for each in places.values()):
        yield Note("predictors of snapshots", NO_SNAPSHOTS)
    elif not vectors:
        yield Note("predictors of snapshots", NO_VECTORS)
    if not any(each for panel in of_groups for each in validation_predictors(panel)):
        yield Note("predictor of validation images", NO_VALIDATION)


def _notes_of(parts: Mapping[str, Sequence[Part]]) -> list[Note]:
    return [note for found in parts.values() for part in found for note in part.notes]


def _general_notes(
    every: Sequence[Panel], trainings: Trainings | str, measured: MeasuredBases | str
) -> list[Note]:
    if not every:
        return [Note("everything", "no merge has a result yet")]
    notes = []
    if isinstance(trainings, str):
        notes.append(Note("predictors", f"only the baselines are compared: {trainings}"))
    elif isinstance(measured, str):
        notes.append(Note("predictors", f"none of the base's gradients: {measured}"))
    return notes
