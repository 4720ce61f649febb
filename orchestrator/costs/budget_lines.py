"""Says how much of a study's budget is used and what it leaves out."""

from collections.abc import Collection, Iterator

from orchestrator.costs.budget import Allowance
from orchestrator.plan.plan import Plan

_UNITS = {
    "gpu_hours": "GPU-hours",
    "cpu_hours": "CPU-core-hours",
    "usd": "USD",
    "gigabytes": "GB in the store",
}


def budget_lines(plan: Plan, *, allowance: Allowance) -> Iterator[str]:
    """Says what was used of the budget, what is left out, and which limit would be enough."""
    if not allowance.is_limited:
        return
    budget, choice = plan.study.budget, allowance.choice()
    used, limits = choice.used.amounts(budget), budget.limits()
    shown = (f"{used[name]:.3g} of {limits[name]:g} {_UNITS[name]}" for name in limits)
    yield f"budget: used {', '.join(shown)}"
    if not choice.left_out:
        return
    num_merges = len(choice.left_out & plan.merges.keys())
    num_pretrained = len(choice.left_out & plan.bases.by_id.keys())
    num_trials = len(choice.left_out) - num_merges - num_pretrained
    pretraining = f"{num_pretrained} pretrainings, " if num_pretrained else ""
    yield (
        f"left out, as estimated: {pretraining}{num_trials} trials and {num_merges} "
        f"merge jobs: {'; '.join(_settings_left_out(plan, left_out=choice.left_out))}"
    )
    proposed = ", ".join(f"budget.{name}: {each:g}" for name, each in allowance.proposals().items())
    yield f"enough for all: {proposed or 'more'}; raise it in the study file and run that again"


def _settings_left_out(plan: Plan, *, left_out: Collection[str]) -> Iterator[str]:
    """Names settings with merges, or else trials, that are left out."""
    for setting, experts in zip(plan.settings, plan.setting_experts, strict=True):
        merges = {cell.merge.id for cell in plan.cells if cell.setting == setting}
        wanted = merges or {expert.id for expert in experts.values()}
        missing = wanted.intersection(left_out)
        if missing:
            part = "" if missing == wanted else f" ({len(missing)} of {len(wanted)})"
            yield f"{setting.name}{part}"
