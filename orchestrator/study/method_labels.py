"""Names the merging methods of a study for tables and figures."""

from collections.abc import Sequence

from orchestrator.study.schema import Merge


def labelled_methods(methods: Sequence[Merge]) -> tuple[tuple[str, Merge], ...]:
    """Returns the methods of a study's tables with their labels.

    They are the study's merges, and before each one that is tuned over several groups the same
    merge tuned for each group alone: the choice is made from its scores. A study that lists that
    one itself has it once.
    """
    labels = method_labels(methods)
    known = [_unlabelled(each) for each in methods]
    found: list[tuple[str, Merge]] = []
    for method, label in zip(methods, labels, strict=True):
        alone = method.model_copy(
            update={"tuned_over": "group", "label": f"{label}, each group alone"}
        )
        if method.tuned_over != "group" and (entry := _unlabelled(alone)) not in known:
            known.append(entry)
            found.append((str(alone.label), alone))
        found.append((label, method))
    return tuple(found)


def method_labels(methods: Sequence[Merge]) -> tuple[str, ...]:
    """Returns a label for each merge of a study.

    The label that the study gives comes first. Otherwise the method's name is the label. The
    written parameters are added if the method occurs more than once; surgery, the names of tuned
    parameters and a choice of steps always are.
    """
    names = [method.name for method in methods]
    return tuple(
        method.label or _described(method, is_only=names.count(method.name) == 1)
        for method in methods
    )


def _unlabelled(method: Merge) -> dict[str, object]:
    return method.model_dump(exclude={"label"})


def _described(method: Merge, *, is_only: bool) -> str:
    written = {} if is_only else _written(method)
    inside = [f"{name}={value}" for name, value in sorted(written.items())]
    if method.tuned:
        by = "" if method.tuned_by == "loss" else f" by {method.tuned_by}"
        over = "" if method.tuned_over == "group" else f" over the {method.tuned_over}"
        inside.append(f"{' and '.join(sorted(method.tuned))} tuned{over}{by}")
    if method.step_rule is not None:
        inside.append(f"steps {method.step_rule}")
    if method.surgery is not None:
        changed = method.surgery.model_dump(exclude_defaults=True)
        inside.append(" ".join(["surgery", *(f"{name}={each}" for name, each in changed.items())]))
    if is_only and not inside:
        return method.name
    return f"{method.name} ({', '.join(inside) or 'defaults'})"


def _written(method: Merge) -> dict[str, object]:
    written = dict(method.params)
    if method.batch_norm != "average":
        written["batch_norm"] = method.batch_norm
    return written
