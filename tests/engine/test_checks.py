import copy
import warnings

import numpy as np
import pytest
import torch

from lightning_uncertainty import CrossEntropy, UncertaintyWarning
from tests.paper import UncertaintyWeighting
from tests.workers import loop_ranks
from tests.workers.processes import run_ranks


def leaf(value, **options):
    return torch.tensor(value, requires_grad=True, **options)


@pytest.fixture
def weighting():
    return UncertaintyWeighting({"depth": "laplace", "class": "softmax", "exact": "softmax_exact"})


@pytest.mark.parametrize(
    ("losses", "error", "message"),
    [
        ([1.0], TypeError, r"Expected losses by name.*type list"),
        (leaf(1.0), ValueError, r"tensor of shape \(\). Expected one for each of 3 tasks.*\(3,\), or elementwise"),
        (leaf([1.0, 2.0]), ValueError, r"tensor of shape \(2,\)"),
        (torch.ones(3, dtype=torch.long), TypeError, "dtype torch.int64"),
        (torch.ones(3, device="meta"), ValueError, "a loss on meta"),
        (torch.ones(3), ValueError, r"Task 'exact'.*acts on logits"),
        ({"dept": leaf(1.0)}, ValueError, r"no task 'dept'. Did you mean 'depth'\?"),
        ({"depth": 1.0}, TypeError, r"Task 'depth' got a float.*`.item\(\)`"),
        ({"depth": None}, TypeError, r"Task 'depth' got None.*leave its key out: .*if loss is not None}"),
        *(
            ({"depth": off}, TypeError, r"Task 'depth' got an? \w+\..*leave its key out: `del losses\['depth'\]`")
            for off in (0.0, 0, False, np.float32(0.0), np.array(0.0), [], {}, "off")
        ),
        *(
            (
                {"depth": parts},
                TypeError,
                r"got a (list|tuple).*`sum\(losses\['depth'\]\)` or .*\.mean\(\)`",
            )
            for parts in ([leaf(1.0), leaf(2.0)], (leaf(1.0),))
        ),
        ({"depth": {"x": leaf(1.0)}}, TypeError, r"got a dict.*`sum\(losses\['depth'\].values\(\)\)`"),
        ({"depth": torch.nn.L1Loss()}, TypeError, r"got a L1Loss.*Call it, for example `criterion\("),
        ({"depth": leaf([1.0, 2.0])}, ValueError, r"Task 'depth' got a loss of shape \(2,\).*`loss.mean\(\)`"),
        ({"depth": leaf([1.0])}, ValueError, r"Task 'depth' got a loss of shape \(1,\)"),
        (
            {"depth": torch.tensor(1)},
            TypeError,
            r"'depth' got a loss of dtype torch.int64.*`loss.float\(\)`.*leave its key out",
        ),
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
        weighting(losses).backward()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        weighting(losses).backward()


def test_a_refused_call_leaves_no_trace(weighting):
    before = weighting.state_dict()
    with pytest.raises(ValueError, match="no task"):
        weighting({"depth": leaf(1.0), "dept": leaf(1.0)})
    weighting.step()
    assert torch.equal(weighting.state_dict()["log_var"], before["log_var"])
    assert weighting.snapshot().tasks["depth"].raw_loss != weighting.snapshot().tasks["depth"].raw_loss


class Scan(torch.Tensor):
    """A tensor of the data with a class of its own, as those of MONAI and of torchvision are."""


class Sticky(Scan):
    """One that gives its class to the result of every operation, whatever the operation says."""

    @classmethod
    def __torch_function__(cls, func, types, args=(), kwargs=None):
        made = super().__torch_function__(func, types, args, kwargs or {})
        return made.as_subclass(cls) if isinstance(made, torch.Tensor) else made


def tensors_in(one, seen):
    """All tensors that an object holds, at any depth."""
    if id(one) not in seen:
        seen[id(one)] = one
        if isinstance(one, torch.Tensor):
            yield one
        parts = one.values() if isinstance(one, dict) else one if isinstance(one, (list, tuple)) else ()
        for part in (*parts, *getattr(one, "__dict__", {}).values()):
            yield from tensors_in(part, seen)


@pytest.mark.parametrize("kind", [Scan, Sticky, torch.nn.Parameter])
@pytest.mark.parametrize("calls", [1, 2])
def test_no_class_of_the_data_gets_into_the_engine(kind, calls, tmp_path):
    tasks = {"depth": "laplace", "class": "softmax", "exact": "softmax_exact", "aux": 0.5}
    foreign, plain = UncertaintyWeighting(tasks), UncertaintyWeighting(tasks)
    for weighting, made in ((foreign, lambda tensor: tensor.as_subclass(kind)), (plain, lambda tensor: tensor)):
        generator = torch.Generator().manual_seed(0)
        for _ in range(3 * calls):
            x, z = (torch.randn(4, 3, generator=generator).requires_grad_() for _ in range(2))
            counts = {"depth": made(torch.tensor(4.0)), "class": 4, "exact": made(torch.tensor(4.0)), "aux": 3}
            target = torch.randint(3, (4,), generator=generator)
            target = target if kind is torch.nn.Parameter else made(target)  # which has a gradient
            losses = {
                "depth": made(x).abs().mean(),
                "class": CrossEntropy(made(z), target, weight=made(torch.ones(3))),
                "exact": CrossEntropy(made(z), target),
                "aux": made(x.square().mean()),
            }
            total = weighting(losses, samples=counts)
            total.backward()
            assert type(total) is torch.Tensor
            assert x.grad.abs().sum() > 0.0
            if weighting.steps % calls == 0:
                weighting.step()
        weighting(losses, samples=counts)  # a window that is open
        assert {type(tensor) for tensor in tensors_in(weighting, {})} == {torch.Tensor}
        copy.deepcopy(weighting).step()
    torch.save(foreign.state_dict(), tmp_path / "engine.pt")
    loaded = torch.load(tmp_path / "engine.pt", weights_only=True)
    assert all(torch.equal(loaded[key], plain.state_dict()[key]) for key in ("log_var", "raw_loss", "exp_avg"))


def test_a_loss_that_is_spread_over_ranks_counts_as_a_whole(tmp_path):
    """A DTensor, of which each rank has a part."""
    one, other = run_ranks(loop_ranks.losses_as_dtensors, folder=tmp_path)
    assert one == other
    assert one["kinds"] == {"Tensor"}
    assert one["s"] == pytest.approx(one["s in one piece"])
    assert one["gradient"] == pytest.approx(one["gradient in one piece"])
