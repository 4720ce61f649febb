"""Names the methods of a study."""

from collections.abc import Sequence

from orchestrator.study.schema import Merge


def method_labels(methods: Sequence[Merge]) -> tuple[str, ...]:
    """Names the study's methods: by method alone where it stands once, else with parameters.

    Surgery is always named: with it a method is another one.
    """
    names = [method.method for method in methods]
    return tuple(
        method.label or _described(method, is_only=names.count(method.method) == 1)
        for method in methods
    )


def _described(method: Merge, *, is_only: bool) -> str:
    given = {} if is_only else _given(method)
    inside = [f"{name}={value}" for name, value in sorted(given.items())]
    if method.surgery is not None:
        changed = method.surgery.model_dump(exclude_defaults=True)
        inside.append(" ".join(["surgery", *(f"{name}={each}" for name, each in changed.items())]))
    if is_only and not inside:
        return method.method
    return f"{method.method} ({', '.join(inside) or 'defaults'})"


def _given(method: Merge) -> dict[str, object]:
    given = dict(method.params)
    if method.batch_norm != "average":
        given["batch_norm"] = method.batch_norm
    return given
