from collections.abc import Callable
from pathlib import Path

import pytest
import timm
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from merge.merge import MergeOptions
from merge.parameters.linear import AverageParams, TaskArithmeticParams
from workers.merging.merge_files import MergeFiles, MergeFilesError, merge_files

AVERAGE = MergeOptions(params=AverageParams(), num_threads=2)


def ignore(share: float) -> None:
    del share


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
    merge_files(files, options=AVERAGE, progress=ignore)
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
        merge_files(files, options=AVERAGE, progress=ignore)
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
    merge_files(files, options=AVERAGE, progress=ignore)
    assert {name: each.tolist() for name, each in load_file(output).items()} == {"w": [2.0, 2.0]}


def test_every_file_that_is_wrong_is_named_and_nothing_is_written(
    save: Callable[..., Path], tmp_path: Path
) -> None:
    """One message names a missing file, a file in another format, and one without the prefix."""
    base, expert = save("base", w=torch.ones(1)), save("expert", w=torch.ones(1))
    torn = tmp_path / "torn.safetensors"
    torn.write_bytes(expert.read_bytes()[:20])
    output = tmp_path / "out.safetensors"
    files = MergeFiles(
        base=base, experts=[tmp_path / "gone", torn, expert], output=output, prefix="backbone."
    )
    with pytest.raises(MergeFilesError) as raised:
        merge_files(files, options=AVERAGE, progress=ignore)
    lines = str(raised.value).splitlines()
    assert [line.partition(":")[0] for line in lines] == [
        str(tmp_path / "gone"),
        str(torn),
        str(expert),
    ]
    assert "begins with 'backbone.'" in lines[2]
    assert not output.exists()


def test_an_input_is_never_written_over(save: Callable[..., Path], tmp_path: Path) -> None:
    """This includes another name of the same file."""
    base, expert = save("base", w=torch.zeros(1)), save("a", w=torch.ones(1))
    link = tmp_path / "link.safetensors"
    link.hardlink_to(expert)
    files = MergeFiles(base=base, experts=[expert], output=link)
    with pytest.raises(MergeFilesError, match="is one of the inputs"):
        merge_files(files, options=AVERAGE, progress=ignore)
    assert torch.equal(load_file(expert)["w"], torch.ones(1))


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
        merge_files(files, options=AVERAGE, progress=ignore)
        merged = load_file(paths[2])
        is_same = all(torch.equal(merged[name], each) for name, each in state.items())
        assert is_same == is_aligned


def test_progress_is_the_fraction_of_entries(save: Callable[..., Path], tmp_path: Path) -> None:
    """One of four entries is merged first, then the other three."""
    base = save("base", a=torch.zeros(1), b=torch.zeros(3))
    files = MergeFiles(base=base, experts=[base], output=tmp_path / "out.safetensors")
    shares: list[float] = []
    options = MergeOptions(params=TaskArithmeticParams())
    merge_files(files, options=options, progress=shares.append)
    assert shares == [0.25, 1.0]
