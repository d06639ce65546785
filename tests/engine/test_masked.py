"""Many targets in one tensor: vectors, elementwise losses, masks and missing labels."""

import math

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from tests.paper import UncertaintyWeighting
from tests.workers import loop_ranks
from tests.workers.processes import run_ranks

NAMES = ["gap", "homo", "lumo"]


def engine(**options):
    return UncertaintyWeighting(NAMES, **options)


def by_hand(prediction, target, mask):
    """The mean squared error of each column over its labels, in float64, one label at a time."""
    losses = {}
    for index, name in enumerate(NAMES):
        errors = [(prediction[i, index] - target[i, index]) ** 2 for i in range(len(target)) if mask[i, index]]
        if errors:
            losses[name] = torch.stack(errors).mean()
    return losses


@pytest.fixture
def batch():
    generator = torch.Generator().manual_seed(0)
    prediction, target = torch.randn(2, 8, 3, generator=generator).unbind()
    mask = torch.rand(8, 3, generator=generator) > 0.4
    return prediction.requires_grad_(), target * torch.tensor([1.0, 10.0, 0.1]), mask


def test_a_vector_is_the_same_as_the_losses_by_name():
    one, other = (
        engine(likelihood={"lumo": "laplace"}),
        UncertaintyWeighting({"gap": "gaussian", "homo": "gaussian", "lumo": "laplace"}),
    )
    for step in range(5):
        vector = torch.tensor([1.0, 20.0, 0.3]) * (1.0 + step)
        vector, twin = (vector.clone().requires_grad_() for _ in range(2))
        totals = one(vector), other(dict(zip(NAMES, twin, strict=True)))
        assert torch.equal(*totals)
        for total, each in zip(totals, (one, other), strict=True):
            total.backward()
            each.step()
        assert torch.equal(vector.grad, twin.grad)
    assert torch.equal(one.log_var, other.log_var)


@pytest.mark.parametrize("coded", [False, True], ids=["mask", "NaN labels"])
def test_elementwise_losses_give_the_total_and_gradient_of_a_loop_in_float64(batch, coded):
    prediction, target, mask = batch
    target = torch.where(mask, target, math.nan)
    weighting, oracle = engine(), engine()
    for _ in range(4):
        prediction.grad, target = None, 1.1 * target
        errors = F.mse_loss(prediction, target, reduction="none")
        total = weighting(errors) if coded else weighting(errors, mask=mask)
        total.backward()
        twin = prediction.detach().double().requires_grad_()
        losses = by_hand(twin, target.double(), mask)
        exact = oracle(losses, samples={name: mask[:, NAMES.index(name)].sum() for name in losses})
        exact.backward()
        torch.testing.assert_close(total.double(), exact, rtol=1e-5, atol=1e-6)
        torch.testing.assert_close(prediction.grad.double(), twin.grad, rtol=1e-5, atol=1e-6)
        weighting.step()
        oracle.step()
    torch.testing.assert_close(weighting.log_var, oracle.log_var)


FORMS = {
    "mse_loss": lambda p, y: F.mse_loss(p, y, reduction="none"),
    "l1_loss": lambda p, y: F.l1_loss(p, y, reduction="none"),
    "smooth_l1_loss": lambda p, y: F.smooth_l1_loss(p, y, reduction="none"),
    "huber_loss": lambda p, y: F.huber_loss(p, y, reduction="none"),
    "square": lambda p, y: (p - y) ** 2,
    "abs": lambda p, y: (p - y).abs(),
    "scaled and weighted": lambda p, y: 3.0 * ((p - y) / torch.tensor([1.0, 2.0, 3.0])) ** 2,
    "bce": lambda p, y: F.binary_cross_entropy_with_logits(p, y.sign().clamp(min=0.0), reduction="none"),
    "log cosh": lambda p, y: torch.log(torch.cosh(p - y)),
    "relative": lambda p, y: ((p - y) / y).abs(),
}


@pytest.mark.parametrize("missing", [math.nan, math.inf], ids=["NaN", "inf"])
@pytest.mark.parametrize("form", FORMS)
def test_labels_that_are_no_numbers_leave_the_gradients_finite_and_right(batch, form, missing):
    prediction, target, mask = batch
    gradients = []
    for fill in (missing, 0.5):
        net = nn.Linear(3, 3)
        with torch.random.fork_rng():
            torch.manual_seed(0)
            net.reset_parameters()
        errors = FORMS[form](net(prediction.detach()), torch.where(mask, target, fill))
        engine(init=0.0)(errors, mask=mask).backward()
        gradients.append(net.weight.grad)
    assert torch.isfinite(gradients[0]).all()
    torch.testing.assert_close(*gradients)


@pytest.mark.parametrize("masked", ["all", "the first"])
def test_losses_by_name_that_are_cut_from_one_matrix_leave_the_gradients_finite(batch, masked):
    prediction, target, mask = batch
    mask[:, 0] |= masked == "the first"  # a whole column, beside others with gaps
    gradients = []
    for fill in (math.nan, 0.5):
        prediction.grad = None
        errors = (prediction - torch.where(mask, target, fill)).square()
        losses = {"gap": errors[:, 0], "homo": errors[:, 1].unsqueeze(1)}
        engine(init=0.0)(losses, mask={"gap": mask[:, 0], "homo": mask[:, 1:2]}).backward()
        gradients.append(prediction.grad)
    assert torch.isfinite(gradients[0]).all()
    torch.testing.assert_close(*gradients)


def test_a_column_without_labels_sits_out_and_is_not_taken_for_a_fault(batch):
    prediction, target, mask = batch
    mask[:, 1] = False
    weighting = engine()
    for _ in range(3):
        weighting(F.mse_loss(prediction, torch.where(mask, target, math.nan), reduction="none")).backward()
        weighting.step()
    task = weighting.snapshot().tasks["homo"]
    assert (task.nonfinite, task.absent, task.started) == (0, 3, False)
    assert torch.isfinite(prediction.grad).all()
    assert (prediction.grad[:, 1] == 0.0).all()


def test_a_network_that_has_diverged_is_not_taken_for_missing_labels(batch):
    _, target, mask = batch
    prediction = torch.full((8, 3), math.nan, requires_grad=True)
    for options in ({}, {"mask": mask}):
        weighting = engine()
        weighting((prediction - target) ** 2, **options).backward()
        weighting.step()
        assert [task.nonfinite for task in weighting.snapshot().tasks.values()] == [1, 1, 1]


def test_more_axes_a_mask_that_broadcasts_and_half_precision():
    generator = torch.Generator().manual_seed(3)
    errors = torch.rand(4, 5, 3, generator=generator)
    mask = torch.rand(4, 5, 1, generator=generator) > 0.5
    expected = {name: errors[..., i][mask[..., 0]].mean() for i, name in enumerate(NAMES)}
    with torch.no_grad():
        assert engine(init=0.0)(errors, mask=mask) == pytest.approx(engine(init=0.0)(expected).item(), rel=1e-6)
        for dtype in (torch.float16, torch.bfloat16):
            total = engine(init=0.0)(errors.to(dtype), mask=mask)
            assert total.dtype == torch.float32
            assert total.item() == pytest.approx(engine(init=0.0)(expected).item(), rel=1e-2)


def test_losses_by_name_take_masks_by_name(batch):
    prediction, target, mask = batch
    target = torch.where(mask, target, math.nan)
    weighting, oracle = (
        UncertaintyWeighting({"a": "gaussian", "b": "laplace"}),
        UncertaintyWeighting({"a": "gaussian", "b": "laplace"}),
    )
    for engine_, options in ((weighting, {"mask": {"a": mask}}), (oracle, {"samples": {"a": mask.sum(), "b": 1}})):
        errors = (prediction - target) ** 2
        losses = {
            "a": errors if engine_ is weighting else (prediction[mask] - target[mask]).square().mean(),
            "b": prediction.abs().mean(),
        }
        engine_(losses, **options).backward()
        engine_.step()
    torch.testing.assert_close(weighting.log_var, oracle.log_var)


def test_micro_batches_with_uneven_masks_learn_the_mean_over_labels(batch):
    prediction, target, mask = batch
    whole, parts = engine(), engine()
    errors = (prediction - target) ** 2
    whole(errors, mask=mask).backward()
    for rows in (slice(0, 3), slice(3, 8)):
        parts(((prediction - target) ** 2)[rows], mask=mask[rows]).backward()
    for each in (whole, parts):
        each.step()
    losses = [[task.raw_loss for task in each.snapshot().tasks.values()] for each in (whole, parts)]
    assert losses[0] == pytest.approx(losses[1], rel=1e-6)


@pytest.mark.parametrize(
    ("losses", "mask", "error", "words"),
    [
        (torch.ones(4, 3), torch.ones(4, 3), TypeError, r"mask must be a bool tensor.*`mask=mask.bool\(\)`"),
        (torch.ones(3, 3), torch.ones(3).bool(), ValueError, r"mask has shape \(3,\)"),
        (torch.ones(4, 3), [[True]], TypeError, "mask must be a bool tensor.*type list"),
        (torch.ones(4, 3), torch.ones(2, 3).bool(), ValueError, r"mask has shape \(2, 3\).*\(4, 3\)"),
        (torch.ones(3), torch.ones(3).bool(), ValueError, "mask for losses of which the mean was taken"),
        ({"gap": torch.tensor(1.0)}, torch.ones(3).bool(), TypeError, "Expected the mask as the losses: by name"),
        ({"gap": torch.ones(3)}, {"gap": torch.ones(2).bool()}, ValueError, r"mask of task 'gap' is \(2,\)"),
        ({"gap": torch.ones(3)}, {"homo": torch.ones(2).bool()}, ValueError, "'homo' has a mask and no elementwise"),
        ({"gap": torch.ones(3)}, {"gpa": torch.ones(3).bool()}, ValueError, "Did you mean 'gap'"),
        ({"gap": torch.ones(3)}, None, ValueError, r"`loss.mean\(\)`; or pass a mask"),
    ],
)
def test_what_does_not_fit_is_said(losses, mask, error, words):
    with pytest.raises(error, match=words):
        engine().eval()(losses, mask=mask)


def test_a_graph_holds_vectors_and_masks(batch):
    prediction, target, mask = batch
    weighting = engine()

    @torch.compile(fullgraph=True, backend="aot_eager")
    def step(prediction, target, mask):
        return weighting(F.mse_loss(prediction, target, reduction="none"), mask=mask)

    plain = engine()
    for factor in (1.0, 2.0):  # at the same losses the gradient of s would be one of rounding
        step(prediction, factor * target, mask).backward()
        again = prediction.detach().requires_grad_()
        plain(F.mse_loss(again, factor * target, reduction="none"), mask=mask).backward()
        weighting.step()
        plain.step()
    torch.testing.assert_close(weighting.log_var, plain.log_var)


def test_two_ranks_with_uneven_masks_learn_what_one_process_learns(tmp_path):
    one, other = run_ranks(loop_ranks.masks_of_each_rank, folder=tmp_path)
    assert one["s"] == other["s"] == pytest.approx(one["alone"], abs=1e-5)
    assert one["losses"] == other["losses"] == pytest.approx(one["losses alone"], rel=1e-5)
