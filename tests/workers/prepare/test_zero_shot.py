import importlib.util
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import pytest
import timm
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from eval.digests import sha256_of_file
from eval.suites import find_task
from workers.artifacts.manifests import Manifest
from workers.merging.merge_job import run_merge
from workers.models.backbones import create_backbone, embedding_width
from workers.models.fitted_weights import fit_weights
from workers.models.heads import CosineHead, head_of
from workers.models.pretrained_weights import WeightsError
from workers.models.tensor_files import TensorFile
from workers.models.text_towers import OpenClipTower, open_text_tower
from workers.prepare.zero_shot import prepare_head, zero_shot_weight
from workers.specs.expert import ExpertSpec
from workers.specs.head import HeadJob, ZeroShotSpec
from workers.specs.merge import MergeSpec
from workers.workspace import EXPERT_FILE, HEAD_FILE, Workspace

CPU = torch.device("cpu")
WIDTH = 256
"""Number of features of test_efficientnet, the tests' backbone."""
needs_open_clip = pytest.mark.skipif(
    importlib.util.find_spec("open_clip") is None, reason="open_clip is not installed"
)


class Letters:
    """A text tower whose embedding counts letters, so that tests can predict it."""

    logit_scale = 100.0

    def __init__(self, *, width: int = WIDTH) -> None:
        self._width = width
        self.texts: list[str] = []

    def encode(self, texts: Sequence[str]) -> Tensor:
        """Returns normalized counts."""
        self.texts += texts
        counts = torch.zeros(len(texts), self._width)
        for row, text in enumerate(texts):
            for letter in text:
                counts[row, ord(letter) % self._width] += 1
        return nn.functional.normalize(counts)


@pytest.fixture
def spec() -> ZeroShotSpec:
    return ZeroShotSpec(
        task="mnist_5k",
        model="ViT-B-32",
        weights="openai",
        classes=find_task("mnist_5k").classes,
        templates=("a photo of the number: {}.", "{}, drawn"),
    )


def prepare(spec: ZeroShotSpec, *, workspace: Workspace, width: int = WIDTH) -> Manifest:
    tower = Letters(width=width)
    job = HeadJob(spec=spec, path=None)
    return prepare_head(job, workspace=workspace, open_tower=lambda *_, **__: tower)


def test_class_is_the_direction_of_its_mean_text_times_the_scale() -> None:
    """By hand: the mean of two embeddings of norm 1, scaled to norm 1, times 100."""
    tower = Letters()
    weight = zero_shot_weight(("cat", "dog"), templates=("a {}", "no {}!"), tower=tower)
    assert tower.texts == ["a cat", "no cat!", "a dog", "no dog!"]
    mean = Letters().encode(["a dog", "no dog!"]).mean(dim=0)
    assert torch.allclose(weight[1], 100 * mean / mean.norm())
    assert torch.allclose(weight.norm(dim=1), torch.tensor(100.0))


def test_logits_are_scaled_cosines() -> None:
    """The norm of a feature does not matter, and no parameter is trained."""
    head = head_of({"weight": torch.tensor([[0.0, 10.0], [10.0, 0.0]])})
    assert isinstance(head, CosineHead)
    logits = head(torch.tensor([[3.0, 4.0], [0.3, 0.4]]))
    assert torch.allclose(logits, torch.tensor([[8.0, 6.0], [8.0, 6.0]]))
    assert not any(parameter.requires_grad for parameter in head.parameters())


def test_head_of_a_task_is_an_artifact_of_its_own(spec: ZeroShotSpec, workspace: Workspace) -> None:
    """Model, weights, classes and templates make its id; all trials of the task share it."""
    manifest = prepare(spec, workspace=workspace)
    assert (manifest.kind, manifest.id, manifest.outcome) == ("head", spec.id, "done")
    assert manifest.metrics == {"num_classes": 10, "width": WIDTH}
    weight = TensorFile(workspace.file("head", spec.id, HEAD_FILE))["weight"]
    expected = zero_shot_weight(spec.classes, templates=spec.templates, tower=Letters())
    assert torch.equal(weight, expected)
    changes = (
        {"task": "mnist_m"},
        {"model": "ViT-L-14"},
        {"weights": "laion2b_s34b_b79k"},
        {"classes": spec.classes[::-1]},
        {"templates": spec.templates[::-1]},
    )
    assert len({spec.id, *(replace(spec, **each).id for each in changes)}) == 6


def test_expert_keeps_its_zero_shot_head(
    spec: ZeroShotSpec,
    workspace: Workspace,
    make_expert: Callable[..., ExpertSpec],
    run: Callable[..., list[Manifest]],
) -> None:
    """Training changes the backbone alone; the expert contains the same head."""
    prepare(spec, workspace=workspace)
    expert = make_expert(head_id=spec.id, steps=2)
    (manifest,) = run(expert, workspace=workspace)
    tensors = TensorFile(workspace.file("expert", expert.id, EXPERT_FILE))
    weight = TensorFile(workspace.file("head", spec.id, HEAD_FILE))["weight"]
    assert torch.equal(tensors["head.weight"], weight)
    assert "head.bias" not in tensors
    assert spec.id in manifest.inputs
    base = workspace.base_tensors(expert.base_id)
    assert not torch.equal(tensors["backbone.conv_stem.weight"], base["conv_stem.weight"])
    assert isinstance(workspace.expert_head(expert.id), CosineHead)
    merge = MergeSpec(
        method="average",
        params={},
        batch_norm="average",
        recalibration_images=0,
        seed=0,
        base_id=expert.base_id,
        experts=(expert,),
        held_out=(),
    )
    merged = run_merge(merge, workspace=workspace)
    assert merged.metrics["tasks"]["mnist_5k"] == manifest.metrics["test"]


def test_trial_with_a_zero_shot_head_has_the_same_snapshots_as_shorter_trials(
    spec: ZeroShotSpec,
    workspace: Workspace,
    make_expert: Callable[..., ExpertSpec],
    run: Callable[..., list[Manifest]],
) -> None:
    """A snapshot equals a training of that many steps, whatever the head."""
    prepare(spec, workspace=workspace)
    first, last = run(make_expert(head_id=spec.id, steps=3), 1, 3, workspace=workspace)
    assert first.metrics["train_loss"] != last.metrics["train_loss"]


def test_head_of_another_model_is_refused(
    spec: ZeroShotSpec,
    workspace: Workspace,
    make_expert: Callable[..., ExpertSpec],
    run: Callable[..., list[Manifest]],
) -> None:
    """The message has both widths."""
    prepare(spec, workspace=workspace, width=512)
    with pytest.raises(WeightsError, match="width 512, but the backbone has 256 features"):
        run(make_expert(head_id=spec.id), workspace=workspace)


def test_file_with_another_digest_is_refused(
    spec: ZeroShotSpec, workspace: Workspace, tmp_path: Path
) -> None:
    """A text tower's file that has changed since it was planned is refused."""
    (tmp_path / "x.pt").write_bytes(b"changed")
    job = HeadJob(spec=replace(spec, weights="sha256:" + "0" * 64), path=str(tmp_path / "x.pt"))
    with pytest.raises(WeightsError, match=r"x\.pt: sha256 is .*, the plan expects sha256:0000"):
        prepare_head(job, workspace=workspace)


def test_missing_open_clip_is_told_with_the_command(monkeypatch: pytest.MonkeyPatch) -> None:
    """The message has the command that installs the optional package."""
    monkeypatch.setitem(sys.modules, "open_clip", None)
    with pytest.raises(WeightsError, match=r"need open_clip.*pip install 'mergesweep\[clip\]'"):
        open_text_tower("ViT-B-32", weights="openai")


def test_image_tower_of_clip_ends_in_its_embedding() -> None:
    """Timm's last layer is the projection of CLIP, and the classifier of fine-tuned weights."""
    widths: Mapping[str, int] = {
        "vit_base_patch32_clip_quickgelu_224.openai": 512,
        "vit_large_patch14_clip_224.laion2b": 768,
        "resnet50_clip.openai": 1024,
        "vit_base_patch32_clip_224.laion2b_ft_in1k": 0,
        "resnet50": 0,
        "test_vit": 0,
    }
    assert {name: embedding_width(name) for name in widths} == widths


def test_every_embedding_of_timms_towers_is_known() -> None:
    """Every output width of timm's CLIP weights is known to be an embedding or a label space."""
    others = {0, 1000, 11821, 11841, 12000, 21841}
    for name in timm.list_pretrained("*clip*"):
        width = timm.get_pretrained_cfg(name).num_classes
        assert (embedding_width(name) == width) == (width not in others or width == 0), name


@needs_open_clip
def test_open_clip_file_gives_the_image_tower_and_the_head(
    spec: ZeroShotSpec, workspace: Workspace, tmp_path: Path
) -> None:
    """The image tower and head from one file have the logits of open_clip's own model."""
    import open_clip  # noqa: PLC0415 optional

    torch.manual_seed(0)
    whole = open_clip.create_model("ViT-B-32-quickgelu", pretrained=None).eval()
    path = tmp_path / "clip.safetensors"
    save_file({name: t.contiguous() for name, t in whole.state_dict().items()}, path)
    model = "vit_base_patch32_clip_quickgelu_224.openai"
    backbone = create_backbone(model, seed=0, device=CPU)
    backbone.module.load_state_dict(dict(fit_weights(path, model=model).tensors))
    images, tokenize = torch.randn(2, 3, 224, 224), open_clip.get_tokenizer("ViT-B-32-quickgelu")
    with torch.inference_mode():
        embedded = backbone.module.eval()(images)
        assert embedded.shape == (2, backbone.num_features) == (2, 512)
        assert torch.allclose(embedded, whole.encode_image(images), atol=1e-4)
    named = replace(
        spec,
        model="ViT-B-32-quickgelu",
        weights=f"sha256:{sha256_of_file(path)}",
        templates=("a {}",),
    )
    prepare_head(HeadJob(spec=named, path=str(path)), workspace=workspace)
    head = workspace.zero_shot_head(named.id)
    texts = tokenize([f"a {name}" for name in spec.classes])
    with torch.inference_mode():
        expected, scale = whole.encode_image(images, normalize=True), whole.logit_scale.exp()
        text = nn.functional.normalize(whole.encode_text(texts))
        logits = scale * expected @ text.T
        assert torch.allclose(head(embedded), logits, atol=1e-3)


@needs_open_clip
def test_tower_of_open_clip_encodes_in_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    """Many texts have the same embeddings as few at a time, each of norm 1."""
    import open_clip  # noqa: PLC0415 optional

    torch.manual_seed(0)
    whole = open_clip.create_model("ViT-B-32", pretrained=None)
    tower = OpenClipTower(whole, tokenizer=open_clip.get_tokenizer("ViT-B-32"))
    monkeypatch.setattr("workers.models.text_towers.TEXTS_AT_ONCE", 2)
    encoded = tower.encode([f"text {number}" for number in range(5)])
    assert encoded.shape == (5, 512)
    assert torch.allclose(encoded.norm(dim=1), torch.ones(5))
    assert torch.allclose(encoded[4:], tower.encode(["text 4"]), atol=1e-5)
    assert tower.logit_scale == pytest.approx(1 / 0.07, rel=1e-4)


@needs_open_clip
@pytest.mark.parametrize(
    ("model", "weights", "said"),
    [
        ("ViT-B-23", "openai", "no model 'ViT-B-23'; similar names: .*ViT-B-32"),
        ("ViT-B-32", "opeani", r"cannot load the weights opeani.*its tags \(openai"),
    ],
)
def test_what_open_clip_does_not_know_is_refused(model: str, weights: str, said: str) -> None:
    """The message lists the names that open_clip knows."""
    with pytest.raises(WeightsError, match=said):
        open_text_tower(model, weights=weights)
