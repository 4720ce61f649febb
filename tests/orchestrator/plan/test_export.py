from collections.abc import Callable

from orchestrator.plan.export import plan_file
from orchestrator.plan.plan import Plan


def test_file_of_a_plan_names_every_artifact(make_plan: Callable[..., Plan]) -> None:
    """A person who reads the file finds each trial, expert, merge and cell."""
    plan = make_plan(
        finetune={"axes": {"steps": [10, 20]}}, evaluation={"held_out": True}, name="other"
    )
    written = plan_file(plan).to_json()
    assert written["study"] == "other"
    assert list(written["bases"]) == [plan.bases.jobs[0].spec.id]
    assert {task: each["id"] for task, each in written["data"].items()} == {
        data.task: data.id for data in plan.datasets
    }
    snapshots = {id_ for trial in written["trials"] for id_ in trial["snapshots"].values()}
    assert snapshots == set(plan.experts)
    assert [trial["id"] for trial in written["trials"]] == [trial.id for trial in plan.trials]
    assert set(written["merges"]) == set(plan.merges)
    for merge_id, spec in plan.merges.items():
        assert written["merges"][merge_id]["experts"] == [each.id for each in spec.experts]
        assert written["merges"][merge_id]["held_out"] == [each.id for each in spec.held_out]
    assert [cell["merge"] for cell in written["cells"]] == [cell.merge.id for cell in plan.cells]


def test_ids_of_the_file_are_those_of_the_plan_by_kind(make_plan: Callable[..., Plan]) -> None:
    """`gc` deletes what is missing here."""
    plan = make_plan(finetune={"axes": {"steps": [10, 20]}})
    assert plan_file(plan).artifact_ids() == {
        **plan.prepared_ids,
        "expert": plan.experts.keys(),
        "merge": plan.merges.keys(),
    }
