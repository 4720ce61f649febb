import pytest
import timm
import torch
from torch import Tensor, nn

from workers.check.adapters import check_adapters
from workers.check.report import AdapterUse, use_of

pytest.importorskip("peft")


def test_adapters_of_a_model_that_computes_with_its_layers_are_fine() -> None:
    """Nothing is reported, and the question survives its way to the process that answers it."""
    use = AdapterUse(model="test_efficientnet", image_size=32, targets="auto")
    assert use_of(use.key) == use
    assert check_adapters(use).faults == ()


def test_targets_that_select_nothing_are_reported() -> None:
    """The message has names that would select layers."""
    report = check_adapters(AdapterUse(model="test_vit", image_size=32, targets="kqv"))
    (fault,) = report.faults
    assert fault.kind == "adapters"
    assert "qkv, fc1, fc2" in fault.fault


def test_model_that_reads_a_layers_weight_past_its_adapter_is_reported(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Such a model computes as without adapters, and would train to nothing in silence."""

    class Past(nn.Module):
        def __init__(self, inner: nn.Module) -> None:
            super().__init__()
            self.inner, self.default_cfg = inner, inner.default_cfg
            self.layer = nn.Linear(inner.num_features, inner.num_features)  # type: ignore[arg-type]
            self.num_features = inner.num_features

        def forward(self, inputs: Tensor) -> Tensor:
            return nn.functional.linear(self.inner(inputs), self.layer.weight, self.layer.bias)

    create = timm.create_model
    monkeypatch.setattr(timm, "create_model", lambda *args, **kwargs: Past(create(*args, **kwargs)))
    torch.manual_seed(0)
    report = check_adapters(AdapterUse(model="test_vit", image_size=160, targets="layer"))
    assert ["another effect" in fault.fault for fault in report.faults] == [True]
