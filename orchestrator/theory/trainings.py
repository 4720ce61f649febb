"""Reads from a plan how every expert is trained."""

from orchestrator.record.committed import Committed
from orchestrator.record.data_check import prepared_data
from orchestrator.theory.features import ExpertTraining, Trainings
from workers.sampling.batches import num_in_subset
from workers.specs.expert import ExpertSpec
from workers.train.accumulation import accumulation_of


def planned_trainings(committed: Committed) -> Trainings | str:
    """Returns the training of every task's expert at every setting, or why it is not known."""
    num_train = {task: each.num_train for task, each in prepared_data(committed).items()}
    plan = committed.plan
    if plan.study.experts:
        return "how experts of files were trained is not known"
    unknown = sorted(set(plan.study.task_names) - set(num_train))
    if unknown:
        return f"the store lacks the images of {', '.join(unknown)}, whose number is needed"
    return {
        setting.name: {
            task: training_of(spec, num_train=num_train[task]) for task, spec in experts.items()
        }
        for setting, experts in zip(plan.settings, plan.setting_experts, strict=True)
    }


def training_of(spec: ExpertSpec, *, num_train: int) -> ExpertTraining:
    """Returns the training of an expert whose task has some training images."""
    point = spec.hyperparameters
    return ExpertTraining(
        steps=point.steps,
        batch_size=point.batch_size,
        lr=point.lr,
        momentum=spec.constants.momentum,
        is_adam=point.optimizer != "sgd",
        num_examples=num_in_subset(num_train, data_ratio=point.data_ratio),
        accumulation=accumulation_of(point, spec.constants),
    )
