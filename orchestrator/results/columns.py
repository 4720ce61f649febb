"""Chooses the columns of a study's tables, which depend on the kinds of its experts and merges."""

from collections.abc import Mapping

import pyarrow as pa

from orchestrator.plan.plan import Plan
from orchestrator.results.joint_columns import JOINT_OF
from orchestrator.results.schema import (
    EXPERTS_SCHEMA,
    LORA,
    POOL,
    RESULTS_SCHEMA,
    SKIPPED,
    TUNING,
)


def results_schema(plan: Plan, *, skipped: Mapping[str, int]) -> pa.Schema:
    """Returns the columns of a study's result table."""
    chooses = any(spec.chooses for spec in plan.merges.values())
    pools = POOL if plan.study.groups.pool else ()
    further = (
        *(LORA if _has_adapters(plan) else ()),
        *pools,
        *(TUNING if chooses else ()),
        *JOINT_OF[plan.study.evaluation.joint],
    )
    schema = pa.schema([*RESULTS_SCHEMA, *further]) if further else RESULTS_SCHEMA
    return _with_skipped(schema, skipped=skipped)


def experts_schema(plan: Plan, *, skipped: Mapping[str, int]) -> pa.Schema:
    """Returns the columns of a study's experts table, except that on micro-batches."""
    schema = pa.schema([*EXPERTS_SCHEMA, *LORA]) if _has_adapters(plan) else EXPERTS_SCHEMA
    return _with_skipped(schema, skipped=skipped)


def _has_adapters(plan: Plan) -> bool:
    """Returns whether some experts of a study are trained as LoRA adapters."""
    return any(spec.hyperparameters.trains_adapters for spec in plan.experts.values())


def _with_skipped(schema: pa.Schema, *, skipped: Mapping[str, int]) -> pa.Schema:
    return schema.append(SKIPPED) if skipped else schema
