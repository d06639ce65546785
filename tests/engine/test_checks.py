import warnings

import pytest
import torch

from lightning_uncertainty import CrossEntropy, UncertaintyWarning, UncertaintyWeighting


def leaf(value, **options):
    return torch.tensor(value, requires_grad=True, **options)


@pytest.fixture
def weighting():
    return UncertaintyWeighting({"depth": "laplace", "class": "softmax", "exact": "softmax_exact"})


@pytest.mark.parametrize(
    ("losses", "error", "message"),
    [
        ([1.0], TypeError, r"Expected losses by name.*type list"),
        (torch.tensor(1.0), TypeError, r"Expected losses by name.*type Tensor"),
        ({"dept": leaf(1.0)}, ValueError, r"no task 'dept'. Did you mean 'depth'\?"),
        ({"depth": 1.0}, TypeError, r"Task 'depth' got a float.*`.item\(\)`"),
        ({"depth": None}, TypeError, r"Task 'depth' got a NoneType"),
        ({"depth": leaf([1.0, 2.0])}, ValueError, r"Task 'depth' got a loss of shape \(2,\).*`loss.mean\(\)`"),
        ({"depth": leaf([1.0])}, ValueError, r"Task 'depth' got a loss of shape \(1,\)"),
        ({"depth": torch.tensor(1)}, TypeError, r"Task 'depth' got a loss of dtype torch.int64.*`loss.float\(\)`"),
        ({"depth": torch.tensor(True)}, TypeError, r"dtype torch.bool"),
        ({"depth": leaf(1j)}, TypeError, r"dtype torch.complex64.*real part"),
        ({"depth": torch.tensor(1.0, device="meta")}, ValueError, r"Task 'depth' got a loss on meta.*are on cpu"),
        ({"exact": leaf(1.0)}, ValueError, r"Task 'exact'.*acts on logits: pass `CrossEntropy\(logits, target\)`"),
        (
            {"depth": CrossEntropy(torch.randn(1, 2), torch.tensor([0]))},
            ValueError,
            r"Task 'depth' got a CrossEntropy, but its likelihood is 'laplace'",
        ),
        (
            {"exact": CrossEntropy(torch.randn(1, 2, device="meta"), torch.tensor([0]))},
            ValueError,
            r"Task 'exact' got a loss on meta",
        ),
    ],
)
def test_what_is_wrong_with_a_loss_is_said_and_the_task_is_named(weighting, losses, error, message):
    with pytest.raises(error, match=message):
        weighting(losses)


def test_losses_without_any_graph_are_refused_while_training(weighting):
    losses = {"depth": torch.tensor(1.0), "class": torch.tensor(2.0)}  # as after torch.tensor([...])
    with pytest.raises(ValueError, match=r"None of the losses 'depth', 'class' carries a graph"):
        weighting(losses)
    with torch.no_grad():
        assert torch.isfinite(weighting(losses))


def test_one_loss_without_a_graph_is_named_once(weighting):
    losses = {"depth": leaf(1.0), "class": torch.tensor(2.0)}
    with pytest.warns(UncertaintyWarning, match="The loss of task 'class' carries no graph"):
        weighting(losses)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        weighting(losses)


def test_a_refused_call_leaves_no_trace(weighting):
    before = weighting.state_dict()
    with pytest.raises(ValueError, match="no task"):
        weighting({"depth": leaf(1.0), "dept": leaf(1.0)})
    weighting.step()
    assert torch.equal(weighting.state_dict()["log_var"], before["log_var"])
    assert weighting.snapshot().tasks["depth"].raw_loss != weighting.snapshot().tasks["depth"].raw_loss
