from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import timm
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor

from merge.errors import MergeError
from merge.merge import MergeOptions
from merge.parameters.linear import AverageParams, TaskArithmeticParams
from merge.parameters.sparse import TiesParams
from workers.merging.merge_files import merge_files
from workers.merging.merge_inputs import MergeFiles, check_files
from workers.models.tensor_files import METADATA_KEY

W = torch.tensor([2.0])
AVERAGE = MergeOptions(params=AverageParams(), num_threads=2)


def merge(files: MergeFiles, *, options: MergeOptions = AVERAGE) -> list[float]:
    """Merges files that are right; returns the reported progress."""
    checked, shares = check_files(files), list[float]()
    assert checked.problems == []
    merge_files(files, headers=checked.headers, options=options, progress=shares.append)
    return shares


@pytest.fixture
def save(tmp_path: Path) -> Callable[..., Path]:
    """Writes tensors to a named file."""

    def write(name: str, **tensors: Tensor) -> Path:
        path = tmp_path / f"{name}.safetensors"
        save_file(tensors, path)
        return path

    return write


def test_a_merged_model_loads_in_timm(tmp_path: Path) -> None:
    """Three states of a ResNet average to a file that timm loads, including BatchNorm."""
    model = timm.create_model("resnet10t", num_classes=0)
    paths = []
    for number in range(4):
        state = {
            name: each + 0.01 * number if each.is_floating_point() else each + 100 * number
            for name, each in model.state_dict().items()
        }
        paths.append(tmp_path / f"{number}.safetensors")
        save_file(state, paths[-1])
    output = tmp_path / "out.safetensors"
    files = MergeFiles(base=paths[0], experts=paths[1:], output=output)
    merge(files)
    loaded = timm.create_model("resnet10t", num_classes=0, checkpoint_path=str(output))
    for name, tensor in loaded.state_dict().items():
        if tensor.is_floating_point():
            torch.testing.assert_close(tensor, model.state_dict()[name] + 0.02)
        else:
            assert int(tensor) == 300


def test_equal_merges_are_equal_files(save: Callable[..., Path], tmp_path: Path) -> None:
    """The file contains no time and no path."""
    base, expert = save("base", w=torch.zeros(5)), save("a", w=torch.ones(5))
    outputs = [tmp_path / f"out{number}.safetensors" for number in range(2)]
    for output in outputs:
        files = MergeFiles(base=base, experts=[expert], output=output)
        merge(files)
    assert outputs[0].read_bytes() == outputs[1].read_bytes()


def test_the_experts_of_a_study_merge_under_their_prefix(
    save: Callable[..., Path], tmp_path: Path
) -> None:
    """Backbones are merged, and heads of different sizes are left out."""
    base = save("base", w=torch.zeros(2))
    experts = [
        save("a", **{"backbone.w": torch.ones(2), "head.b": torch.ones(10)}),
        save("b", **{"backbone.w": 3 * torch.ones(2), "head.b": torch.ones(26)}),
    ]
    output = tmp_path / "out.safetensors"
    files = MergeFiles(base=base, experts=experts, output=output, prefix="backbone.")
    merge(files)
    assert {name: each.tolist() for name, each in load_file(output).items()} == {"w": [2.0, 2.0]}


def test_every_file_that_is_wrong_is_named(save: Callable[..., Path], tmp_path: Path) -> None:
    """A missing file, a damaged one, one without the prefix and a bad output are said at once."""
    base, expert = save("base", w=torch.ones(1)), save("expert", w=torch.ones(1))
    torn = tmp_path / "torn.safetensors"
    torn.write_bytes(expert.read_bytes()[:20])
    files = MergeFiles(
        base=base,
        experts=[tmp_path / "gone", torn, expert],
        output=tmp_path / "out.pth",
        prefix="backbone.",
    )
    problems = check_files(files).problems
    assert [problem.partition(":")[0] for problem in problems] == [
        str(tmp_path / "gone"),
        str(torn),
        str(expert),
        str(files.output),
    ]
    assert "begins with 'backbone.'; its names begin with 'w'" in problems[2]
    assert f"name it {tmp_path / 'out.safetensors'}" in problems[3]


def test_a_url_is_no_file(save: Callable[..., Path], tmp_path: Path) -> None:
    """A path keeps only one of its slashes, so the message says what it was."""
    files = MergeFiles(
        base=save("base", w=torch.ones(1)),
        experts=[Path("s3://bucket/a.safetensors"), Path("https://host/b.safetensors")],
        output=tmp_path / "out.safetensors",
    )
    problems = check_files(files).problems
    assert "s3://... is a URL; download the file" in problems[0]
    assert "https://... is a URL" in problems[1]
    assert len(problems) == 2


def test_an_expert_that_is_given_twice_or_is_the_base_is_told(
    save: Callable[..., Path], tmp_path: Path
) -> None:
    """Copies count, too; experts that differ in one entry are different."""
    entries = torch.zeros(1 << 20)
    base, first = save("base", w=entries), save("a", w=entries + 1)
    copy, other = save("copy", w=entries + 1), save("b", w=torch.cat([entries[1:] + 1, W]))
    output = tmp_path / "out.safetensors"
    files = MergeFiles(base=base, experts=[first, base, copy, other, first], output=output)
    assert check_files(files).remarks == (
        f"{base}: expert 2 is the base, so its task vector is zero",
        f"{copy}: expert 3 is expert 1 again, which counts twice",
        f"{first}: expert 5 is expert 1 again, which counts twice",
    )
    assert check_files(replace(files, experts=[first, other])).remarks == ()


def test_an_input_is_never_written_over(save: Callable[..., Path], tmp_path: Path) -> None:
    """This includes another name of the same file."""
    base, expert = save("base", w=torch.zeros(1)), save("a", w=torch.ones(1))
    link = tmp_path / "link.safetensors"
    link.hardlink_to(expert)
    (problem,) = check_files(MergeFiles(base=base, experts=[expert], output=link)).problems
    assert problem == f"{link}: is one of the inputs; choose another output"


def test_the_result_keeps_the_metadata_of_the_base(tmp_path: Path) -> None:
    """An artifact's identity is left out, because the result is another model."""
    about = {"licence": "MIT", "arch": "resnet", "format": "pt", METADATA_KEY: "{}"}
    contents = set()
    for number in range(8):  # the safetensors library writes these entries in random order
        base, output = tmp_path / f"{number}.safetensors", tmp_path / "out.safetensors"
        save_file({"w": torch.ones(1)}, base, metadata=about)
        merge(MergeFiles(base=base, experts=[base], output=output))
        contents.add(output.read_bytes())
    assert len(contents) == 1
    with safe_open(output, framework="pt") as file:
        assert file.metadata() == {"licence": "MIT", "arch": "resnet", "format": "pt"}


def test_a_large_result_is_not_kept_in_memory(
    save: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The bytes do not depend on it, also where a method completes its tensors at the end."""
    torch.manual_seed(0)
    base, *experts = (save(name, w=torch.randn(64), v=torch.randn(8)) for name in "abcd")
    options = MergeOptions(params=TiesParams(), num_threads=2)
    contents = []
    for fraction in (1.0, 0.0):
        monkeypatch.setattr("workers.merging.merge_files.DEFERRED_MEMORY_FRACTION", fraction)
        output = tmp_path / f"{fraction}.safetensors"
        merge(MergeFiles(base=base, experts=experts, output=output), options=options)
        contents.append(output.read_bytes())
    assert contents[0] == contents[1]


def test_a_shuffled_twin_is_aligned_before_it_is_averaged(tmp_path: Path) -> None:
    """A ResNet and a copy with two channels exchanged average to the ResNet if they are aligned."""
    torch.manual_seed(0)
    state = timm.create_model("resnet18", num_classes=0).state_dict()
    inside = [*(f"layer1.0.{name}" for name in ("conv1.weight", "bn1.weight", "bn1.bias"))]
    inside += ["layer1.0.bn1.running_mean", "layer1.0.bn1.running_var"]
    swapped = torch.arange(64)
    swapped[:2] = torch.tensor([1, 0])
    twin = {name: each[swapped] if name in inside else each for name, each in state.items()}
    twin["layer1.0.conv2.weight"] = twin["layer1.0.conv2.weight"][:, swapped]
    paths = [tmp_path / f"{name}.safetensors" for name in ("base", "twin", "out")]
    save_file(state, paths[0])
    save_file({name: each.contiguous() for name, each in twin.items()}, paths[1])
    for is_aligned in (False, True):
        files = MergeFiles(base=paths[0], experts=paths[:2], output=paths[2], align=is_aligned)
        merge(files)
        merged = load_file(paths[2])
        is_same = all(torch.equal(merged[name], each) for name, each in state.items())
        assert is_same == is_aligned


def test_heads_of_an_unusual_vit_are_aligned_if_their_size_is_given(tmp_path: Path) -> None:
    """A ViT without class token and a copy with its two heads exchanged average to the ViT."""
    torch.manual_seed(0)
    size = {"img_size": 16, "patch_size": 8, "embed_dim": 8, "depth": 1, "num_heads": 2}
    pooling = {"class_token": False, "global_pool": "avg", "fc_norm": False, "num_classes": 0}
    state = timm.models.VisionTransformer(**size, **pooling).state_dict()
    heads = torch.arange(8).roll(4)
    qkv = torch.cat([heads + 8 * part for part in range(3)])
    twin = {
        **state,
        "blocks.0.attn.qkv.weight": state["blocks.0.attn.qkv.weight"][qkv],
        "blocks.0.attn.qkv.bias": state["blocks.0.attn.qkv.bias"][qkv],
        "blocks.0.attn.proj.weight": state["blocks.0.attn.proj.weight"][:, heads].contiguous(),
    }
    paths = [tmp_path / f"{name}.safetensors" for name in ("base", "twin", "out")]
    save_file(state, paths[0])
    save_file(twin, paths[1])
    files = MergeFiles(base=paths[0], experts=paths[:2], output=paths[2], align=True)
    with pytest.raises(MergeError, match="--head-dim"):
        merge(files)
    merge(replace(files, head_dim=4))
    merged = load_file(paths[2])
    assert all(torch.equal(merged[name], each) for name, each in state.items())


def test_progress_is_the_fraction_of_entries(save: Callable[..., Path], tmp_path: Path) -> None:
    """One of four entries is merged first, then the other three."""
    base = save("base", a=torch.zeros(1), b=torch.zeros(3))
    files = MergeFiles(base=base, experts=[base], output=tmp_path / "out.safetensors")
    assert merge(files, options=MergeOptions(params=TaskArithmeticParams())) == [0.25, 1.0]
