import pytest
import torch

from lightning_uncertainty.strategies.adam import MaskedAdam


class Adam(MaskedAdam):
    """With moments and counts of its own."""

    def __init__(self, size, **settings):
        super().__init__(**settings)
        self.moments, self.count = torch.zeros(2, size), torch.zeros(size)

    def update(self, gradient, present):
        return super().update(self.moments, self.count, gradient, present)


def test_without_absences_it_is_torch_adam():
    torch.manual_seed(0)
    target = torch.tensor([1.0, -2.0, 30.0])
    parameter = torch.nn.Parameter(torch.zeros(3))
    optimizer = torch.optim.Adam([parameter], lr=0.03)
    ours, value = Adam(3, lr=0.03), torch.zeros(3)
    for _ in range(500):
        noise = torch.randn(3)
        parameter.grad = parameter.detach() - target + noise
        optimizer.step()
        value -= ours.update(value - target + noise, torch.ones(3, dtype=torch.bool))
    torch.testing.assert_close(value, parameter.detach(), rtol=0, atol=1e-5)


def test_an_absent_entry_takes_the_same_path_later():
    torch.manual_seed(0)
    gradients = torch.randn(40)
    always, sometimes = Adam(1, lr=0.1), Adam(1, lr=0.1)
    path = [always.update(g[None], torch.tensor([True])).item() for g in gradients]
    seen = []
    for g in gradients:
        assert sometimes.update(torch.tensor([1e3]), torch.tensor([False])).item() == 0.0
        seen.append(sometimes.update(g[None], torch.tensor([True])).item())
    assert seen == path


@pytest.mark.parametrize("setting", [{"lr": -1.0}, {"lr": 0.1, "betas": (0.9, 1.0)}, {"lr": 0.1, "eps": 0.0}])
def test_settings_out_of_range_are_refused(setting):
    with pytest.raises(ValueError, match="must"):
        MaskedAdam(**setting)
