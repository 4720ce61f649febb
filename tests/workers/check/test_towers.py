"""Zero-shot heads. open_clip is an optional package, so a module in its place has its lists."""

import sys
from dataclasses import replace
from types import SimpleNamespace

import pytest

from workers.check.report import ModelReport, TowerUse, use_of
from workers.check.towers import check_tower

IMAGE_TOWER = "vit_base_patch32_clip_224.openai"
USE = TowerUse(model=IMAGE_TOWER, tower="ViT-B-32", tag="openai", has_open_clip=True)
LISTS = SimpleNamespace(
    list_models=lambda: ["RN50", "ViT-B-32", "ViT-L-14"],
    list_pretrained_tags_by_model=lambda _: ["openai", "laion2b"],
    get_model_config=lambda name: {"embed_dim": {"ViT-B-32": 512}.get(name, 768)},
)


@pytest.mark.parametrize(
    ("tower", "tag", "expected"),
    [
        ("ViT-B-32", "openai", ""),
        ("ViT-B-32", None, ""),
        ("vit_b_32", "openai", "tower: open_clip has no model 'vit_b_32'; did you mean 'ViT-B-32'"),
        ("ViT-B-32", "opena", "tower_weights: open_clip has no weights 'opena' of ViT-B-32; expec"),
        ("ViT-L-14", "openai", "tower: ViT-L-14 has embeddings of width 768, but the image tower"),
    ],
)
def test_names_and_widths_of_open_clip_are_checked(
    tower: str, tag: str | None, expected: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A name, a tag or a width that preparation would refuse is told before."""
    monkeypatch.setitem(sys.modules, "open_clip", LISTS)
    report = check_tower(TowerUse(model=IMAGE_TOWER, tower=tower, tag=tag, has_open_clip=True))
    texts = [f"{each.kind}: {each.fault}; {each.remedy}" for each in report.faults]
    assert "".join(texts).startswith(expected)
    assert bool(texts) == bool(expected)
    assert report.unchecked is None


def test_model_without_projection_has_no_zero_shot_head() -> None:
    """CLIP towers that were fine-tuned on ImageNet are classifiers."""
    tuned = TowerUse(
        model="vit_base_patch32_clip_224.laion2b_ft_in1k",
        tower="ViT-B-32",
        tag="x",
        has_open_clip=False,
    )
    (fault,) = check_tower(tuned).faults
    assert fault.kind == "model"
    assert "has no projection to the embeddings of CLIP" in fault.fault


def test_machine_without_open_clip_checks_the_image_tower_alone(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The nodes may have it, so this is no fault of the study."""
    monkeypatch.setitem(sys.modules, "open_clip", None)
    assert check_tower(replace(USE, has_open_clip=False)) == ModelReport()


def test_unknown_model_is_left_to_its_own_check() -> None:
    """One misspelt name gives one problem."""
    assert (
        check_tower(TowerUse(model="no_such", tower="ViT-B-32", tag=None, has_open_clip=True))
        == ModelReport()
    )
    assert use_of(USE.key) == USE
