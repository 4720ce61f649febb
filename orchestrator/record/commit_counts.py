"""Counts of a plan's committed artifacts, kept as artifacts are committed."""

from collections import Counter

from orchestrator.plan.multi_task import MULTI_TASK
from orchestrator.plan.plan import Plan
from orchestrator.progress.state import Tally
from workers.artifacts.manifests import Manifest


class CommitCounts:
    """Counts the committed artifacts of a plan by stage, and cells of the result table by axis.

    A count takes time in proportion to the axes, and not to the study.
    """

    def __init__(self, plan: Plan) -> None:
        self._multi_task = plan.bases.multi_task_ids
        self._num_planned = {
            "bases": len(plan.bases.by_id) - len(self._multi_task),
            "images": len(plan.datasets),
            "experts": len(plan.experts),
            "merges": len(plan.merges),
            MULTI_TASK: len(self._multi_task),
        }
        self._num_done: Counter[str] = Counter()
        self._axes_of: dict[str, list[str]] = {}
        """The axis of each cell that a merge job fills, by the job's id."""
        for cell in plan.all_cells:
            self._axes_of.setdefault(cell.merge.id, []).append(cell.setting.axis)
        self._num_cells = Counter(cell.setting.axis for cell in plan.all_cells)
        self._num_cells_done: Counter[str] = Counter()

    def add(self, manifest: Manifest) -> None:
        """Counts an artifact of the plan; call it once for each."""
        is_multi_task = manifest.id in self._multi_task
        stage = MULTI_TASK if is_multi_task else _STAGES.get(manifest.kind, manifest.kind)
        self._num_done[stage] += 1
        if manifest.kind == "merge":
            self._num_cells_done.update(self._axes_of[manifest.id])

    def stages(self) -> tuple[Tally, ...]:
        """Returns the progress on each stage; bases only if several, multi-task models if any."""
        shown = dict(self._num_planned)
        if shown["bases"] <= 1:
            del shown["bases"]
        if not shown[MULTI_TASK]:
            del shown[MULTI_TASK]
        return tuple(
            Tally(name=name, num_done=self._num_done[name], num_planned=num_planned)
            for name, num_planned in shown.items()
        )

    def axes(self) -> tuple[Tally, ...]:
        """Returns the progress on the cells of the result table, by axis."""
        return tuple(
            Tally(name=axis, num_done=self._num_cells_done[axis], num_planned=num_planned)
            for axis, num_planned in self._num_cells.items()
        )


_STAGES = {"base": "bases", "data": "images", "expert": "experts", "merge": "merges"}
"""The stage that makes each kind of artifact; zero-shot heads belong to none."""
