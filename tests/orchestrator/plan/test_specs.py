from collections.abc import Callable
from hashlib import sha256
from pathlib import Path
from typing import Any

import pytest

from eval.suites import find_task
from merge.catalogue import CARDS, PARAMS
from orchestrator.plan.plan import Plan
from orchestrator.plan.specs import base_job, data_spec
from orchestrator.study.finetune import Head
from orchestrator.study.method_labels import method_labels
from orchestrator.study.schema import Merge, Study
from workers.models.pretrained_weights import PACKAGED
from workers.specs.merge import SurgerySpec

L2 = Head().l2


def labels(*entries: dict[str, Any]) -> tuple[str, ...]:
    return method_labels([Merge.model_validate(entry) for entry in entries])


def test_method_that_stands_once_is_called_by_its_name() -> None:
    """A label that is unique without parameters has none."""
    assert labels({"method": "ties", "density": 0.1}, {"method": "dare"}) == ("ties", "dare")


def test_method_that_stands_twice_is_told_apart_by_what_was_written() -> None:
    """Written parameters and the BatchNorm policy are added; without any, `defaults` is."""
    assert labels(
        {"method": "ties"},
        {"method": "ties", "scaling": 1, "density": 0.1},
        {"method": "ties", "batch_norm": "base"},
    ) == ("ties (defaults)", "ties (density=0.1, scaling=1)", "ties (batch_norm=base)")


def test_surgery_is_part_of_every_label() -> None:
    """Surgery is always named, with the values that differ from its defaults."""
    assert labels(
        {"method": "ties", "density": 0.1, "surgery": {}},
        {"method": "average"},
        {"method": "average", "surgery": {"rank": 16}},
        {"method": "average", "batch_norm": "base", "surgery": {"rank": 8, "steps": 5}},
    ) == (
        "ties (surgery)",
        "average (defaults)",
        "average (surgery)",
        "average (batch_norm=base, surgery rank=8 steps=5)",
    )


def test_label_of_the_study_comes_first() -> None:
    """A label from the study file is used as it is."""
    assert labels({"method": "ties", "label": "mine"}, {"method": "ties"}) == (
        "mine",
        "ties (defaults)",
    )


def test_packaged_weights_are_known_by_their_digest() -> None:
    """The id does not depend on the place of the installation."""
    job = base_job(model="tf_efficientnet_lite0", weights="package", seed=3)
    assert job.spec.weights == f"sha256:{PACKAGED['tf_efficientnet_lite0'].sha256}"
    assert (job.path, job.spec.seed) == (None, 0)


def test_checkpoint_is_known_by_its_content_and_not_by_its_path(tmp_path: Path) -> None:
    """A copy under another name is the same base; a file with other content is another base."""
    specs = []
    for name, content in (("a.pth", b"1"), ("b.pth", b"1"), ("c.pth", b"2")):
        path = tmp_path / name
        path.write_bytes(content)
        job = base_job(model="resnet18", weights=str(path), seed=3)
        assert job.path == str(path)
        specs.append(job.spec)
    assert specs[0].weights == f"sha256:{sha256(b'1').hexdigest()}"
    assert specs[0].id == specs[1].id != specs[2].id


def test_checkpoint_is_found_from_any_directory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Workers run in other directories, so a relative path becomes absolute."""
    (tmp_path / "a.pth").write_bytes(b"1")
    monkeypatch.chdir(tmp_path)
    job = base_job(model="resnet18", weights="a.pth", seed=0)
    assert job.path == str(tmp_path / "a.pth")


@pytest.mark.parametrize(("weights", "seed"), [("none", 3), ("timm", 0)])
def test_seed_enters_random_weights_alone(weights: str, seed: int) -> None:
    """A pretrained base is the same for every seed."""
    spec = base_job(model="resnet18", weights=weights, seed=3).spec
    assert (spec.weights, spec.seed) == (weights, seed)


@pytest.mark.parametrize(
    ("changes", "same"),
    [
        ({"head": {"mode": "frozen"}}, {"head": {"mode": "frozen", "l2": L2}}),
        ({"optimizer": {"weight_decay": 0}}, {"optimizer": {"weight_decay": 0.0}}),
        (
            {"axes": {"optimizer": ["adam"]}, "optimizer": {"nesterov": True}},
            {"optimizer": {"name": "adam"}},
        ),
    ],
    ids=str,
)
def test_unused_settings_make_no_other_expert(
    make_plan: Callable[..., Plan], changes: dict[str, Any], same: dict[str, Any]
) -> None:
    """Written defaults, whole numbers and settings of unused techniques do not change an id."""
    assert make_plan(finetune=changes).experts.keys() == make_plan(finetune=same).experts.keys()


def test_images_are_specified_by_task_size_and_selection(
    make_study: Callable[..., Study],
) -> None:
    """The specification has every field of the study that changes an image or a label."""
    tasks = {"names": ["mnist_5k"], "max_train": 7, "max_test": 5, "evaluate_on": "validation"}
    study = make_study(tasks=tasks, groups={"size": 1})
    spec = data_spec(study, task=find_task("mnist_5k"))
    assert (spec.task, spec.image_size, spec.max_train, spec.max_test, spec.evaluate_on) == (
        "mnist_5k",
        32,
        7,
        5,
        "validation",
    )
    assert len(spec.fingerprint) == 64


@pytest.mark.parametrize("method", PARAMS)
def test_merge_carries_every_parameter_of_its_method(
    make_plan: Callable[..., Plan], method: str
) -> None:
    """Defaults are written too, so that a later default does not change an older manifest."""
    plan = make_plan(merge=[{"method": method}], seed=3)
    for spec in plan.merges.values():
        assert set(spec.params) == set(PARAMS[method].__dataclass_fields__)
        assert spec.seed == (3 if CARDS[method].is_random else 0)


def test_surgery_is_carried_with_every_field_and_draws_from_the_studys_seed(
    make_plan: Callable[..., Plan],
) -> None:
    """A learning rate of 1 is that of 1.0."""
    entry = {"method": "average", "surgery": {"rank": 8, "lr": 1}}
    for spec in make_plan(merge=[entry], seed=3).merges.values():
        assert spec.surgery == SurgerySpec(rank=8, steps=1000, lr=1.0, batch_size=16)
        assert repr(spec.surgery.lr) == "1.0"
        assert spec.seed == 3


def test_recalibration_images_count_only_for_that_policy(
    make_plan: Callable[..., Plan],
) -> None:
    """Policies that do not recalibrate have 0 images."""
    entries = [
        {"method": "average", "batch_norm": policy, "recalibration_images": 9}
        for policy in ("recalibrate", "pooled")
    ]
    found = {
        spec.batch_norm: spec.recalibration_images
        for spec in make_plan(merge=entries).merges.values()
    }
    assert found == {"recalibrate": 9, "pooled": 0}
