import pytest
import torch
from torch import Tensor, nn
from torch.func import functional_call

from workers.models.tangent import Tangent


class Attention(nn.Module):
    """Attention over the pixels of an image, called in the same way as in timm's models."""

    def __init__(self) -> None:
        super().__init__()
        self.qkv = nn.Linear(3, 24)

    def forward(self, images: Tensor) -> Tensor:
        """Returns (batch, 8)."""
        pixels = images.flatten(2).transpose(1, 2)
        query, key, value = self.qkv(pixels)[:, None].chunk(3, dim=-1)
        attended: Tensor = nn.functional.scaled_dot_product_attention(query, key, value)
        return attended.mean(dim=(1, 2))


def convolutions() -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(3, 4, 3),
        nn.BatchNorm2d(4),
        nn.ReLU6(),
        nn.Conv2d(4, 5, 1),
        nn.SiLU(),
        nn.Flatten(),
    )


MODULES = {"convolutions": convolutions, "attention": Attention}
INPUTS = torch.randn(2, 3, 4, 4, generator=torch.Generator().manual_seed(1))


@pytest.fixture(params=list(MODULES))
def module(request: pytest.FixtureRequest) -> nn.Module:
    """Returns a small network in evaluation mode."""
    torch.manual_seed(0)
    made: nn.Module = MODULES[request.param]()
    return made.eval()


def base_of(module: nn.Module) -> dict[str, Tensor]:
    return {name: tensor.clone() for name, tensor in module.state_dict().items()}


def direction(module: nn.Module) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(2)
    return {
        name: torch.randn(weight.shape, generator=generator)
        for name, weight in module.named_parameters()
    }


def move(module: nn.Module, *, along: dict[str, Tensor], by: float) -> None:
    with torch.no_grad():
        for name, weight in module.named_parameters():
            weight.add_(along[name], alpha=by)


def test_expansion_at_the_base_is_the_model(module: nn.Module) -> None:
    """Without any change of weights, the expansion equals the model."""
    tangent = Tangent(module, base=base_of(module))
    torch.testing.assert_close(tangent(INPUTS), module(INPUTS))


def test_expansion_is_linear_in_the_weights(module: nn.Module) -> None:
    """Three times the change of weights gives three times the change of the expansion only."""
    tangent = Tangent(module, base=base_of(module))
    there, along = module(INPUTS).detach(), direction(module)
    move(module, along=along, by=0.3)
    once = tangent(INPUTS).detach() - there
    move(module, along=along, by=0.6)
    torch.testing.assert_close(tangent(INPUTS).detach() - there, 3 * once, rtol=1e-4, atol=1e-4)
    assert float((module(INPUTS).detach() - there - 3 * once).abs().max()) > 0.01


def test_expansion_has_the_derivative_of_the_model_at_the_base(module: nn.Module) -> None:
    """The derivative equals central differences in float64."""
    module.double()
    base, along, inputs = base_of(module), direction(module), INPUTS.double()
    near = [
        functional_call(
            module, {**base, **{name: base[name] + by * along[name] for name in along}}, (inputs,)
        )
        for by in (1e-6, -1e-6)
    ]
    tangent = Tangent(module, base=base)
    move(module, along={name: each.double() for name, each in along.items()}, by=1.0)
    change = tangent(inputs).detach() - functional_call(module, base, (inputs,)).detach()
    torch.testing.assert_close(change, (near[0] - near[1]).detach() / 2e-6, rtol=1e-5, atol=1e-6)


def test_every_weight_has_a_gradient_that_does_not_depend_on_where_it_is(
    module: nn.Module,
) -> None:
    """The expansion is linear, so its gradient is the same at all weights."""
    tangent = Tangent(module, base=base_of(module))
    tangent(INPUTS).sum().backward()
    first = {name: weight.grad.clone() for name, weight in module.named_parameters()}  # type: ignore[union-attr]
    module.zero_grad()
    move(module, along=direction(module), by=0.5)
    tangent(INPUTS).sum().backward()
    for name, weight in module.named_parameters():
        torch.testing.assert_close(weight.grad, first[name], rtol=1e-4, atol=1e-5)


def test_expansion_works_without_gradients(module: nn.Module) -> None:
    """The expansion gives the same features in inference mode, which evaluation uses."""
    tangent = Tangent(module, base=base_of(module))
    move(module, along=direction(module), by=0.1)
    expected = tangent(INPUTS).detach()
    with torch.inference_mode():
        torch.testing.assert_close(tangent(INPUTS), expected)


def test_running_statistics_are_those_of_the_base() -> None:
    """Other statistics in the module do not change the expansion."""
    module = convolutions().eval()
    tangent = Tangent(module, base=base_of(module))
    expected = tangent(INPUTS).detach()
    norm = module[1]  # type: ignore[index]
    norm.running_mean.fill_(5.0)
    assert torch.equal(tangent(INPUTS).detach(), expected)
    assert float(norm.running_mean[0]) == 5.0
