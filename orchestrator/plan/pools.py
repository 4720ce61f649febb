"""Chooses the further experts of a pool: a merge of more experts than the tasks that are scored.

Pools of one group are nested: the pool of 12 experts has those of the pool of 8, in their order.
"""

from collections.abc import Iterator, Mapping, Sequence

from eval.counts import counted
from orchestrator.plan.groups import Group
from orchestrator.plan.settings import Setting
from orchestrator.study.problems import StudyError, wrong_value
from orchestrator.study.schema import IRRELEVANT
from workers.sampling.seeds import derive_seed
from workers.specs.expert import ExpertSpec

Experts = Mapping[str, ExpertSpec]
"""The expert of every task of the study at one setting, by task."""


def pool_of(
    setting: Setting, *, group: Group, experts: Experts, every: Sequence[Experts], seed: int
) -> tuple[ExpertSpec, ...]:
    """Returns the experts that a setting merges with those of a group; none outside the pools.

    Irrelevant experts are those of other tasks at the same setting, in an order that is random for
    each group. Relevant experts are those of the group's tasks at other settings with the same
    base: the first other setting's expert of each task, then the second's, and so on.

    Args:
        setting: The setting, which may lie on the axis of a pool.
        group: The tasks that are scored.
        experts: The experts of the setting.
        every: The experts of each of the study's settings, in their order.
        seed: The study's seed.

    Raises:
        StudyError: The study has too few experts.
    """
    if setting.pool is None:
        return ()
    wanted = setting.pool - group.size
    if setting.extra == IRRELEVANT:
        others = [task for task in experts if task not in group.tasks]
        others.sort(key=lambda task: derive_seed(seed, "pool", *group.tasks, task))
        found = [experts[task] for task in others[:wanted]]
    else:
        found = list(_relevant(group, experts=experts, every=every))[:wanted]
    if len(found) < wanted:
        raise _too_few(setting, group=group, num_found=len(found))
    return tuple(found)


def _relevant(group: Group, *, experts: Experts, every: Sequence[Experts]) -> Iterator[ExpertSpec]:
    seen = {experts[task].id for task in group.tasks}
    for others in every:
        for task in group.tasks:
            own, other = experts[task], others[task]
            alike = (
                own.base_id == other.base_id
                and own.hyperparameters.linearised == other.hyperparameters.linearised
            )
            if alike and other.id not in seen:
                seen.add(other.id)
                yield other


def _too_few(setting: Setting, *, group: Group, num_found: int) -> StudyError:
    remedy = (
        f"the study has {counted(num_found, 'further expert')} of the tasks of group {group.name} "
        f"({', '.join(group.tasks)}) with the same base, so a pool has at most "
        f"{group.size + num_found}"
    )
    problem = wrong_value("groups.pool", setting.pool, remedy=remedy)
    return StudyError("the study", problems=[problem])
