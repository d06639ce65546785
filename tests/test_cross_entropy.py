import pytest
import torch
from torch.nn import functional as F

from lightning_uncertainty import CrossEntropy, UncertaintyWeighting

N, C = 6, 4


def _indices(*shape):
    return torch.randint(0, C, shape)


def _probabilities(*shape):
    return torch.rand(shape, dtype=torch.float64).softmax(1)


CASES = {
    "plain": lambda: ((N, C), _indices(N), {}),
    "single": lambda: ((C,), _indices(), {}),
    "image": lambda: ((N, C, 3, 5), _indices(N, 3, 5), {}),
    "weights": lambda: ((N, C), _indices(N), {"weight": torch.rand(C).double() + 0.1}),
    "ignored": lambda: ((N, C), torch.tensor([0, 1, -100, 3, -100, 2]), {}),
    "other ignore_index": lambda: ((N, C), torch.tensor([0, 1, 2, 3, 2, 2]), {"ignore_index": 2}),
    "smooth": lambda: ((N, C), _indices(N), {"label_smoothing": 0.2}),
    "probabilities": lambda: ((N, C), _probabilities(N, C), {}),
    "probability image": lambda: ((N, C, 2, 3), _probabilities(N, C, 2, 3), {"label_smoothing": 0.1}),
    "everything": lambda: (
        (N, C, 2, 2),
        torch.where(torch.rand(N, 2, 2) < 0.3, 255, _indices(N, 2, 2)),
        {"weight": torch.rand(C).double() + 0.1, "ignore_index": 255, "label_smoothing": 0.3},
    ),
    "probabilities and weights": lambda: (
        (N, C),
        _probabilities(N, C),
        {"weight": torch.rand(C).double() + 0.1, "label_smoothing": 0.3},
    ),
}


@pytest.mark.parametrize("s", [-3.0, 0.0, 1.5])
@pytest.mark.parametrize("case", CASES)
def test_loss_and_slope_are_those_of_torch_and_autograd(case, s):
    torch.manual_seed(0)
    shape, target, options = CASES[case]()
    logits = 3 * torch.randn(shape, dtype=torch.float64)
    log_var = torch.tensor(s, dtype=torch.float64, requires_grad=True)
    expected = F.cross_entropy(logits * torch.exp(-log_var), target, **options)
    (slope,) = torch.autograd.grad(expected, log_var)

    inputs = CrossEntropy(logits, target, **options)
    torch.testing.assert_close(inputs.loss(log_var.detach()), expected.detach())
    torch.testing.assert_close(inputs.slope(log_var.detach()), slope)


def test_plain_slope_is_the_closed_form():
    torch.manual_seed(0)
    z, y, s = torch.randn(N, C).double(), _indices(N), torch.tensor(0.4).double()
    p = (z * torch.exp(-s)).softmax(1)
    expected = torch.exp(-s) * (z.gather(1, y[:, None])[:, 0] - (p * z).sum(1)).mean()
    torch.testing.assert_close(CrossEntropy(z, y).slope(s), expected)


def test_classes_masked_out_by_minus_infinity_leave_the_slope_finite():
    z = torch.tensor([[1.0, 2.0, -torch.inf], [0.5, -torch.inf, 0.1]])
    y, s = torch.tensor([0, 2]), torch.tensor(0.3)
    kept = (CrossEntropy(z[:1, :2], y[:1]).slope(s) + CrossEntropy(z[1:, [0, 2]], torch.tensor([1])).slope(s)) / 2
    torch.testing.assert_close(CrossEntropy(z, y).slope(s), kept)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_logits_are_tempered_in_single_precision(dtype):
    torch.manual_seed(0)
    z, y, s = torch.randn(N, C).to(dtype), _indices(N), torch.tensor(-9.0)  # exp(9) z overflows fp16 sums
    expected = F.cross_entropy(z.double() * torch.exp(-s.double()), y)
    loss = CrossEntropy(z, y).loss(s)
    assert loss.dtype == torch.float32
    torch.testing.assert_close(loss.double(), expected, rtol=1e-5, atol=1e-5)


def test_all_targets_ignored_is_a_loss_of_nan_like_in_torch():
    inputs = CrossEntropy(torch.randn(2, C), torch.tensor([-100, -100]))
    assert inputs.loss(torch.tensor(0.0)).isnan()


@pytest.mark.parametrize("logits", [torch.tensor([[1, 2]]), torch.tensor(1.0), [[1.0, 2.0]]])
def test_logits_must_be_a_floating_point_tensor_with_classes(logits):
    with pytest.raises(ValueError, match="logits"):
        CrossEntropy(logits, torch.tensor([0]))


def test_label_smoothing_must_be_a_fraction():
    with pytest.raises(ValueError, match="label_smoothing"):
        CrossEntropy(torch.randn(1, 2), torch.tensor([0]), label_smoothing=1.5)


def test_in_steps_of_the_plain_sum_logits_are_not_tempered_and_s_still_learns():
    """A guard begins with them: the network gets the gradient of the plain cross entropy, whatever s is."""
    logits, target = torch.tensor([[2.0, -1.0, 0.5]], requires_grad=True), torch.tensor([1])
    (plain,) = torch.autograd.grad(F.cross_entropy(logits, target), logits)
    weighting = UncertaintyWeighting({"a": "softmax_exact", "b": "gaussian"}, init=1.0)
    before = weighting.log_vars["a"]
    total = weighting({"a": CrossEntropy(logits, target), "b": torch.tensor(4.0, requires_grad=True)})
    assert total.item() == pytest.approx(F.cross_entropy(logits, target).item() + 4.0)
    total.backward()
    torch.testing.assert_close(logits.grad, plain)
    weighting.step()
    assert weighting.log_vars["a"] > before  # the logits are wrong, so they are to be flatter
