"""The common factor of the learned tasks: the size of the total, and nothing else."""

import math

import pytest
import torch

from lightning_uncertainty import Task, UncertaintyWeighting

KINDS = {"a": "gaussian", "b": "laplace", "c": "softmax", "aux": 0.25}
SCALES = [None, "sum", "geometric", "b"]


def engine(scale, **options):
    return UncertaintyWeighting(KINDS, scale=scale, guard=False, **options)


def losses_at(step):
    noise = torch.rand(4, generator=torch.Generator().manual_seed(step)) + 0.5
    return noise * torch.tensor([300.0, 2.0, 0.01, 1.0]) * 0.98**step


def train(weighting, steps, first=0):
    """Return the factor of each loss, of shape (steps, 4), and the totals."""
    factors, totals = [], []
    for step in range(first, first + steps):
        values = losses_at(step).requires_grad_()
        total = weighting(dict(zip(weighting.tasks, values, strict=True)))
        total.backward()
        weighting.step()
        factors.append(values.grad)
        totals.append(total.item())
    return torch.stack(factors), totals


@pytest.mark.parametrize("scale", SCALES[1:])
@pytest.mark.parametrize("regularizer", ["log_sigma", "sigma", "log1p_var"])
def test_ratios_and_every_s_are_those_without_a_scale_and_fixed_tasks_keep_their_factor(scale, regularizer):
    plain, scaled = engine(None, regularizer=regularizer), engine(scale, regularizer=regularizer)
    (one, _), (other, _) = train(plain, 60), train(scaled, 60)
    assert torch.equal(plain.log_var, scaled.log_var)
    torch.testing.assert_close(other[:, :2] / other[:, 2:3], one[:, :2] / one[:, 2:3])
    assert (other[:, 3] == 0.25).all()


@pytest.mark.parametrize("regularizer", ["log_sigma", "sigma", "log1p_var"])
def test_sum_starts_at_the_plain_sum_and_goes_on_with_the_losses_that_s_expects(regularizer):
    weighting = engine("sum", regularizer=regularizer, lr=0.05)
    weights = torch.tensor([1.0, 1.0, 1.0, 0.25])
    _, totals = train(weighting, 1)
    assert totals[0] == pytest.approx((losses_at(0) * weights).sum().item(), rel=1e-5)
    _, totals = train(weighting, 300, first=1)
    plain = torch.stack([(losses_at(step) * weights).sum() for step in range(1, 301)])
    ratio = torch.tensor(totals) / plain
    assert ((ratio > 0.3) & (ratio < 3.0)).all()
    assert ratio[-50:].mean().item() == pytest.approx(1.0, abs=0.35)


def test_sum_in_float64_for_the_losses_whose_optimum_is_s():
    """From the formulas of the article: m = exp(s), exp(s / 2), exp(s) / 2."""
    weighting = UncertaintyWeighting(
        [Task("a", importance=3.0), Task("b", "laplace"), Task("c", "softmax")], scale="sum", guard=False, init=0.0
    )
    weighting.log_vars = {"a": 1.5, "b": -0.5, "c": 0.25}
    a, b, c = (torch.tensor(s, dtype=torch.float64) for s in (1.5, -0.5, 0.25))
    expected, factor = (
        torch.stack([a.exp(), (b / 2).exp(), c.exp() / 2]),
        torch.stack([(-a).exp() / 2, (-b / 2).exp(), (-c).exp()]),
    )
    importance = torch.tensor([3.0, 1.0, 1.0], dtype=torch.float64)
    common = (importance * expected).sum() / (importance * factor * expected).sum()
    values = torch.tensor([1.0, 2.0, 3.0], requires_grad=True)
    total = weighting(values)
    total.backward()
    torch.testing.assert_close(values.grad.double(), common * importance * factor, rtol=1e-6, atol=0.0)
    assert total.item() == pytest.approx(
        (common * importance * factor * values.detach().double()).sum().item(), rel=1e-6
    )


def test_geometric_keeps_the_product_of_the_factors_as_the_formula_says():
    plain, scaled = engine(None, lr=0.05), engine("geometric", lr=0.05)
    (one, _), (other, _) = train(plain, 80), train(scaled, 80)
    torch.testing.assert_close(other[:, :3].log().sum(1), one[:1, :3].log().sum(1).expand(80), rtol=1e-4, atol=1e-4)
    assert one[-1, :3].log().sum() > one[0, :3].log().sum() + 1.0


def test_a_reference_task_has_the_factor_of_its_importance():
    weighting = UncertaintyWeighting([Task("a"), Task("b", importance=2.0)], scale="b", guard=False)
    for step in range(20):
        values = losses_at(step)[:2].clone().requires_grad_()
        weighting(values).backward()
        weighting.step()
        assert values.grad[1].item() == pytest.approx(2.0)


@pytest.mark.parametrize("scale", SCALES)
def test_resumed_it_goes_on_bit_for_bit(scale):
    whole, first = engine(scale), engine(scale)
    train(whole, 30)
    train(first, 10)
    second = engine(scale)
    second.load_state_dict(first.state_dict())
    train(second, 20, first=10)
    assert whole.snapshot() == second.snapshot()


@pytest.mark.parametrize("scale", SCALES)
def test_a_task_that_comes_late_takes_part_from_its_first_loss(scale):
    weighting = engine(scale)
    for step in range(12):
        values = losses_at(step).requires_grad_()
        losses = dict(zip(weighting.tasks, values, strict=True))
        if step < 6:
            del losses["b"]
        total = weighting(losses)
        assert math.isfinite(total.item())
        if scale == "sum" and step == 0:
            assert total.item() == pytest.approx((values[0] + values[2] + 0.25 * values[3]).item(), rel=1e-5)
        total.backward()
        weighting.step()
    factors, _ = train(weighting, 1, first=12)
    assert torch.isfinite(factors).all()
    assert (factors > 0.0).all()


@pytest.mark.parametrize("scale", SCALES)
def test_a_graph_has_the_same_factors(scale):
    eager, compiled = engine(scale), engine(scale)
    call = torch.compile(
        lambda values: compiled(dict(zip(KINDS, values, strict=True))), fullgraph=True, backend="aot_eager"
    )
    for step in range(3):
        grads = []
        for weighting, weigh in (
            (eager, lambda values: eager(dict(zip(KINDS, values, strict=True)))),
            (compiled, call),
        ):
            values = losses_at(step).requires_grad_()
            weigh(values).backward()
            weighting.step()
            grads.append(values.grad)
        torch.testing.assert_close(*grads)


def test_snapshots_show_the_factors_that_the_network_feels():
    weighting = engine("sum")
    train(weighting, 5)
    values = losses_at(5).requires_grad_()
    before = weighting.snapshot()
    weighting(dict(zip(KINDS, values, strict=True))).backward()
    assert values.grad.tolist() == pytest.approx([task.factor for task in before.tasks.values()])
    assert sum(before.shares.values()) == pytest.approx(1.0)
    assert before.total == pytest.approx(sum(task.weighted_loss for task in before.tasks.values()))


@pytest.mark.parametrize("scale", ["mean", "aux", 1.0])
def test_what_is_no_scale_is_refused(scale):
    with pytest.raises(ValueError, match=r"scale must be .* name of a learned task"):
        engine(scale)


@pytest.mark.parametrize("scale", SCALES[1:])
def test_no_factor_jumps_where_a_guard_lets_go_of_the_plain_sum(scale):
    weighting = UncertaintyWeighting(KINDS, scale=scale)
    weighting.expect(1000)  # 100 steps of the plain sum, and 100 on the way
    values, found = torch.tensor([300.0, 2.0, 0.01, 1.0]), []
    for _ in range(230):
        losses = values.clone().requires_grad_()
        weighting(losses).backward()
        weighting.step()
        found.append(losses.grad[:3].log())
    steps = torch.stack(found).diff(dim=0).abs()
    assert torch.stack(found)[0].tolist() == [0.0, 0.0, 0.0]
    assert steps.max() < 0.15  # of a way of about 10 in 100 steps
    assert torch.stack(found)[-1].abs().max() > 1.0


@pytest.mark.parametrize("losses", [[4.0, 0.01], [4.0, 3.0, 2.0], [100.0, 1.0, 1.0, 1.0, 1.0]])
@pytest.mark.parametrize("make", [torch.optim.Adam, torch.optim.RMSprop, torch.optim.SGD, None])
def test_with_adam_no_factor_falls_below_one_as_far_as_twice_the_plain_sum_allows(losses, make):
    """Adam remembers the gradients of the plain sum for a thousand steps; SGD would take longer steps."""
    optimizer = make([torch.nn.Parameter(torch.ones(()))], lr=0.1) if make else None
    weighting = UncertaintyWeighting([f"task{i}" for i in range(len(losses))], guard=False)
    weighting.suit([optimizer] if make else [])
    values = torch.tensor(losses, requires_grad=True)
    weighting(values).backward()
    weighting.step()
    values.grad = None
    total = weighting(values)
    total.backward()
    plain = sum(losses)
    expected = plain if make in (torch.optim.SGD, None) else min(2.0 * plain, len(losses) * max(losses))
    assert total.item() == pytest.approx(expected, rel=1e-5)
    factors = torch.tensor([expected / len(losses) / loss for loss in losses])  # all terms are equal at the optimum
    torch.testing.assert_close(values.grad, factors)


def test_one_optimizer_that_does_not_forgive_is_enough():
    weighting = UncertaintyWeighting(["a", "b"], guard=False)
    x, y = (torch.nn.Parameter(torch.ones(())) for _ in range(2))
    weighting.follow(torch.optim.Adam([x]), torch.optim.SGD([y], lr=0.1))
    assert weighting._scale.most == 1.0


def test_optimizers_that_are_followed_one_by_one_count_together():
    weighting = UncertaintyWeighting(["a", "b"])
    x, y = (torch.nn.Parameter(torch.ones(())) for _ in range(2))
    sgd, adam = torch.optim.SGD([y], lr=0.1), torch.optim.Adam([x])
    weighting.follow(sgd)
    weighting.follow(adam)
    assert weighting._scale.most == 1.0
    assert weighting._guard.strict


@pytest.mark.parametrize("strategy", ["dwa", "equal", "geometric_mean", "initial", "log_sum", "uw_so"])
@pytest.mark.parametrize("nats", [0.5, -0.5])
def test_with_other_strategies_a_likelihood_in_nats_keeps_its_factor_and_is_not_counted(strategy, nats):
    options = {"strategy": strategy, "scale": "sum", "guard": False}
    mixed, alone = (
        UncertaintyWeighting({"a": "gaussian", "b": "nll"}, **options),
        UncertaintyWeighting(["a"], **options),
    )
    for loss in (8.0, 2.0):
        values, one = torch.tensor([loss, nats], requires_grad=True), torch.tensor([loss], requires_grad=True)
        for weighting, losses in ((mixed, values), (alone, one)):
            weighting(losses).backward()
            weighting.step()
        assert values.grad.tolist() == [*one.grad.tolist(), 1.0]
