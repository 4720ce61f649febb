"""Messages about models that a study does not have yet."""

from collections.abc import Callable

import pytest

from orchestrator.export.choice import ChoiceError, Request, choose
from orchestrator.external.score import heads_of
from orchestrator.plan.plan import Plan
from orchestrator.record.ledger import Ledger
from orchestrator.results.study_results import StudyResults


def test_commands_in_messages_name_the_store(make_plan: Callable[..., Plan]) -> None:
    """A study's name alone would be looked for in the default store."""
    plan = make_plan()
    committed = Ledger(plan, manifests=[]).committed()
    results = StudyResults.of(committed)
    at = f"{plan.study.name} --store {plan.study.store}`"
    for request, verb in (
        (Request(best="macro"), "status"),
        (Request(merge=next(iter(plan.merges))), "resume"),
        (Request(expert=next(iter(plan.experts))), "resume"),
    ):
        with pytest.raises(ChoiceError) as caught:
            choose(request, committed=committed, results=results)
        assert f"`mergesweep {verb} {at}" in str(caught.value)
    with pytest.raises(ChoiceError) as caught:
        heads_of(committed, setting=plan.settings[0].name, group=None)
    assert f"`mergesweep resume {at}" in str(caught.value)
