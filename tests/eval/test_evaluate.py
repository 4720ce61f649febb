import math

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from eval import evaluate as module
from eval.evaluate import evaluate, evaluate_head, features_of
from eval.images.split import Split
from eval.model_inputs import Normalization

CPU = torch.device("cpu")
PLAIN = Normalization(mean=(0.0, 0.0, 0.0), std=(1.0, 1.0, 1.0))
BINARY = Split(
    images=np.array([0, 255, 255, 0], dtype=np.uint8).reshape(4, 1, 1, 1),
    labels=np.array([0, 1, 0, 0]),
)
"""Four grey images of one pixel: black, white, white, black."""


class FirstChannel(nn.Module):
    """A backbone whose feature is the mean of the first channel; it records its inputs."""

    def __init__(self) -> None:
        super().__init__()
        self.inputs: list[Tensor] = []

    def forward(self, images: Tensor) -> Tensor:
        """Returns features, (batch, 1)."""
        self.inputs.append(images)
        return images[:, 0].mean(dim=(1, 2))[:, None]


def linear(*, weight: list[list[float]], bias: list[float]) -> nn.Linear:
    head = nn.Linear(len(weight[0]), len(weight))
    head.load_state_dict({"weight": torch.tensor(weight), "bias": torch.tensor(bias)})
    return head


def test_sums_are_those_worked_out_by_hand() -> None:
    """Logits are (1, 0) for black and (0, 1) for white: three right, one wrong.

    A right answer costs ln(1 + 1/e) = 0.3133 nats, the wrong one ln(1 + e) = 1.3133.
    """
    head = linear(weight=[[-1.0], [1.0]], bias=[1.0, 0.0])
    sums = evaluate(FirstChannel(), head, split=BINARY, normalization=PLAIN, device=CPU)
    assert (sums.num_examples, sums.num_correct) == (4, 3)
    expected = 3 * math.log(1 + math.exp(-1)) + math.log(1 + math.e)
    assert sums.loss_sum == pytest.approx(expected, rel=1e-6)


def test_backbone_sees_normalized_colour_images_with_channels_last() -> None:
    """Grey images have three equal channels, in the layout that is fast for convolutions."""
    backbone = FirstChannel()
    features_of(backbone, split=BINARY, normalization=PLAIN, device=CPU)
    (inputs,) = backbone.inputs
    assert inputs.shape == (4, 3, 1, 1)
    assert inputs.is_contiguous(memory_format=torch.channels_last)
    assert inputs[:, 2].flatten().tolist() == [0.0, 1.0, 1.0, 0.0]


@pytest.mark.parametrize("batch_size", [1, 7, 64, 1000])
def test_batch_size_changes_no_count(batch_size: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every image is evaluated once, for every batch size."""
    rng = np.random.default_rng(0)
    split = Split(
        images=rng.integers(0, 256, (65, 4, 4, 3), dtype=np.uint8),
        labels=rng.integers(0, 3, 65),
    )
    torch.manual_seed(0)
    backbone, head = nn.Sequential(nn.Conv2d(3, 5, 3), nn.ReLU(), nn.Flatten()), nn.Linear(20, 3)
    whole = evaluate(backbone, head, split=split, normalization=PLAIN, device=CPU)
    monkeypatch.setattr(module, "CPU_BATCH_SIZE", batch_size)
    cut = evaluate(backbone, head, split=split, normalization=PLAIN, device=CPU)
    assert (cut.num_examples, cut.num_correct) == (65, whole.num_correct)
    assert cut.loss_sum == pytest.approx(whole.loss_sum, rel=1e-5)


def test_dropout_and_statistics_are_those_of_evaluation() -> None:
    """A model in training mode is switched to evaluation mode, and no statistic changes."""
    norm = nn.BatchNorm2d(3)
    backbone = nn.Sequential(norm, nn.Dropout(0.9), nn.Flatten())
    backbone.train()
    head = linear(weight=[[1.0, 0.0, 0.0], [0.0, 0.0, 0.0]], bias=[0.0, 0.5])
    first = evaluate(backbone, head, split=BINARY, normalization=PLAIN, device=CPU)
    assert evaluate(backbone, head, split=BINARY, normalization=PLAIN, device=CPU) == first
    assert norm.running_mean is not None
    assert norm.running_mean.tolist() == [0.0, 0.0, 0.0]


def test_collapsed_model_scores_chance() -> None:
    """Equal logits cost ln(classes) per image, and the answer is the first class."""
    head = linear(weight=[[0.0]] * 4, bias=[0.0] * 4)
    sums = evaluate(FirstChannel(), head, split=BINARY, normalization=PLAIN, device=CPU)
    assert sums.num_correct == 3
    assert sums.loss == pytest.approx(math.log(4))


def test_logits_of_nan_give_a_loss_of_nan_and_no_correct_answer() -> None:
    """Argmax would answer class 0, which must not count as correct."""
    head = linear(weight=[[math.nan], [0.0]], bias=[0.0, 0.0])
    sums = evaluate(FirstChannel(), head, split=BINARY, normalization=PLAIN, device=CPU)
    assert math.isnan(sums.loss_sum)
    assert sums.num_correct == 0
    assert sums.to_json()["loss_sum"] is None


def test_head_on_features_scores_what_the_whole_model_scores() -> None:
    """A head on stored features gives the same bits as the whole model."""
    head = linear(weight=[[-1.3], [0.7]], bias=[0.3, 0.1])
    features = features_of(FirstChannel(), split=BINARY, normalization=PLAIN, device=CPU)
    on_features = evaluate_head(head, features=features, labels=BINARY.labels)
    whole = evaluate(FirstChannel(), head, split=BINARY, normalization=PLAIN, device=CPU)
    assert on_features == whole


def test_empty_split_is_refused() -> None:
    """An accuracy over no image is undefined."""
    with pytest.raises(ValueError, match="empty split"):
        evaluate(
            FirstChannel(),
            nn.Linear(1, 2),
            split=BINARY.rows(0, 0),
            normalization=PLAIN,
            device=CPU,
        )
