import copy
import math
import warnings

import numpy as np
import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st

from lightning_uncertainty import CrossEntropy, Task, UncertaintyWarning
from lightning_uncertainty.likelihoods import get_likelihood
from lightning_uncertainty.regularizers import get_regularizer
from tests import oracle
from tests.paper import UncertaintyWeighting
from tests.trainer.test_matrix import difference

TASKS = {"g": "gaussian", "l": "laplace", "s": "softmax", "b": "bernoulli"}


def leaf(value, dtype=torch.float32):
    return torch.tensor(value, dtype=dtype, requires_grad=True)


def losses_of(**values):
    return {name: leaf(value) for name, value in values.items()}


def train(weighting, steps=1, **values):
    """Steps on constant losses; returns the last total."""
    for _ in range(steps):
        total = weighting(losses_of(**values))
        total.backward()
        weighting.step()
    return total


# ---------------------------------------------------------------------------------------------------- the formula


@pytest.mark.parametrize("regularizer", list(oracle.REGULARIZERS))
def test_total_and_network_gradient_are_the_formula_in_float64(regularizer):
    s = {"g": -1.3, "l": 0.4, "s": 2.0, "b": -0.2}
    values = {"g": 3.1, "l": 0.02, "s": 1.7, "b": 0.6}
    weighting = UncertaintyWeighting([Task(n, k, init=s[n]) for n, k in TASKS.items()], regularizer=regularizer)
    losses = losses_of(**values)
    total = weighting(losses)
    total.backward()

    exact = {name: oracle.double(value) for name, value in values.items()}
    expected = sum(oracle.term(TASKS[n], regularizer, oracle.double(s[n]).detach(), exact[n]) for n in TASKS)
    expected.backward()
    torch.testing.assert_close(total.double(), expected.detach(), rtol=1e-6, atol=1e-6)
    for name in TASKS:
        torch.testing.assert_close(losses[name].grad.double(), exact[name].grad, rtol=1e-6, atol=0)


def test_order_of_tasks_and_of_losses_is_irrelevant():
    values = {"g": 3.0, "l": 0.2, "s": 1.7, "b": 0.6}
    one = UncertaintyWeighting(TASKS)
    other = UncertaintyWeighting(dict(reversed(TASKS.items())))
    for scale in (1.0, 2.0, 0.5):
        a = train(one, **{n: scale * v for n, v in values.items()})
        b = train(other, **{n: scale * values[n] for n in ("s", "g", "b", "l")})
        torch.testing.assert_close(a, b)
    assert one.log_vars == {name: other.log_vars[name] for name in TASKS}


@pytest.mark.parametrize("c", [1e-4, 50.0])
def test_scaling_a_loss_leaves_the_gradient_at_the_optimum_unchanged(c):
    """At its optimum the weight is 1 / (2L), so c drops out of weight times gradient."""
    gradients = []
    for scale in (1.0, c):
        x = leaf(1.0)
        weighting = UncertaintyWeighting({"g": "gaussian", "l": "laplace"})
        for _ in range(2):  # the second call has the weights of the first step
            x.grad = None
            weighting({"g": scale * x.square(), "l": (x - 3).abs()}).backward()
            weighting.step()
        gradients.append(x.grad)
    torch.testing.assert_close(gradients[0], gradients[1], rtol=1e-5, atol=0)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_total_is_at_least_single_precision_and_gradients_keep_the_dtype_of_the_losses(dtype):
    weighting = UncertaintyWeighting({"a": "gaussian", "b": 1.0}, init=0.0)
    losses = {"a": leaf(2.0, dtype), "b": leaf(3.0)}
    total = weighting(losses)
    total.backward()
    assert total.dtype == (torch.float64 if dtype == torch.float64 else torch.float32)
    assert total.item() == 4.0
    assert losses["a"].grad.dtype == dtype
    weighting.step()
    assert weighting.log_var.dtype == torch.float32
    assert all(t.dtype in (torch.float32, torch.bool) for t in weighting.strategy.state.tensors().values())


def test_fixed_tasks_take_no_part():
    weighting = UncertaintyWeighting({"a": "gaussian", "aux": 0.25})
    for _ in range(20):
        losses = losses_of(a=3.0, aux=8.0)
        weighting(losses).backward()
        weighting.step()
    assert losses["aux"].grad.item() == 0.25
    assert weighting.weights["aux"] == 0.25
    assert weighting.sigmas.keys() == {"a"}


# ---------------------------------------------------------------------------------------------------- learning


@pytest.mark.parametrize("accumulate", [1, 4])
def test_s_follows_a_parameter_trained_by_autograd(accumulate):
    """The textbook: a Parameter, the formula, torch's Adam, the mean over micro-batches."""
    torch.manual_seed(0)
    weighting = UncertaintyWeighting(TASKS, init=0.0, lr=1e-2)
    s = torch.nn.Parameter(torch.zeros(len(TASKS)))
    optimizer = torch.optim.Adam([s], lr=1e-2)
    for _ in range(500):
        optimizer.zero_grad()
        for _ in range(accumulate):
            values = torch.rand(len(TASKS)) * torch.tensor([5.0, 2.0, 1.0, 0.3])
            terms = [oracle.term(k, "log_sigma", s[i], values[i]) for i, k in enumerate(TASKS.values())]
            (sum(terms) / accumulate).backward()
            weighting({n: values[i].clone().requires_grad_() for i, n in enumerate(TASKS)}).backward()
        optimizer.step()
        weighting.step()
    torch.testing.assert_close(weighting.log_var, s.detach(), rtol=0, atol=1e-6)


@pytest.mark.parametrize("regularizer", list(oracle.REGULARIZERS))
@pytest.mark.parametrize("likelihood", list(oracle.TERMS))
def test_training_ends_at_the_closed_form_optimum(likelihood, regularizer):
    weighting = UncertaintyWeighting({"a": likelihood}, init=0.0, regularizer=regularizer)
    train(weighting, steps=1500, a=2.5)
    expected = get_likelihood(likelihood).optimum(torch.tensor(2.5), get_regularizer(regularizer)).item()
    assert weighting.log_vars["a"] == pytest.approx(expected, abs=1e-3)


def test_it_starts_at_the_optimum_of_the_first_losses():
    weighting = UncertaintyWeighting(TASKS)
    losses = losses_of(g=1e6, l=1e-3, s=0.7, b=30.0)
    total = weighting(losses)
    total.backward()
    # Already the first gradient has the weights 1 / (2L), 1 / L for Laplace.
    assert losses["g"].grad.item() == pytest.approx(0.5 / 1e6)
    assert losses["l"].grad.item() == pytest.approx(1.0 / 1e-3)
    weighting.step()
    expected = {"g": math.log(1e6), "l": 2 * math.log(1e-3), "s": math.log(1.4), "b": math.log(60.0)}
    assert weighting.log_vars == pytest.approx(expected, abs=1e-5)


def test_a_task_that_appears_late_starts_from_its_own_first_loss():
    weighting = UncertaintyWeighting({"a": "gaussian", "late": "gaussian"})
    train(weighting, steps=20, a=1.0)
    assert weighting.log_vars["late"] == 0.0
    losses = losses_of(a=1.0, late=1e4)
    weighting(losses).backward()
    assert losses["late"].grad.item() == pytest.approx(0.5e-4)
    weighting.step()
    assert weighting.log_vars["late"] == pytest.approx(math.log(1e4), rel=1e-6)


@pytest.mark.parametrize("absence", ["left out", "nan"])
@pytest.mark.filterwarnings("ignore:The loss of task 'half' was NaN")
def test_a_task_absent_half_of_the_time_ends_where_one_ends_that_is_always_present(absence):
    weighting = UncertaintyWeighting({"always": "gaussian", "half": "gaussian"}, init=0.0)
    for step in range(2000):
        losses = losses_of(always=3.0, half=3.0)
        if step % 2:
            losses["half"] = leaf(math.nan)
            if absence == "left out":
                del losses["half"]
        weighting(losses).backward()
        weighting.step()
    log_vars = weighting.log_vars
    assert log_vars["half"] == pytest.approx(log_vars["always"], abs=1e-3)
    assert log_vars["half"] == pytest.approx(math.log(3.0), abs=1e-3)


def test_an_absent_task_keeps_its_s_its_moments_and_leaves_the_total():
    weighting = UncertaintyWeighting({"a": "gaussian", "b": "laplace"}, init=0.3)
    train(weighting, steps=5, a=2.0, b=5.0)
    before = weighting.state_dict()
    total = train(weighting, steps=7, a=2.0)
    after = weighting.state_dict()
    for key in ("log_var", "exp_avg", "exp_avg_sq", "count"):
        assert before[key][1] == after[key][1]
        assert before[key][0] != after[key][0]
    s = weighting.log_vars["a"]
    assert total.item() == pytest.approx(0.5 * math.exp(-s) * 2.0 + 0.5 * s, abs=0.02)


def test_accumulation_takes_the_mean_of_the_micro_batches():
    whole, parts = (UncertaintyWeighting({"a": "gaussian"}, init=0.0) for _ in range(2))
    for _ in range(50):
        whole(losses_of(a=2.0)).backward()
        whole.step()
        for value in (1.0, 2.0, 3.0):
            (parts(losses_of(a=value)) / 3).backward()
        parts.step()
    assert whole.log_var == pytest.approx(parts.log_var, abs=1e-6)


@pytest.mark.parametrize("factor", [1e-30, 3.0, 65536.0])
def test_scaling_the_total_does_not_reach_s(factor):
    plain, scaled = (UncertaintyWeighting({"a": "gaussian"}, init=0.0) for _ in range(2))
    train(plain, steps=10, a=2.0)
    for _ in range(10):
        (scaled(losses_of(a=2.0)) * factor).backward()
        scaled.step()
    assert plain.log_vars == scaled.log_vars


def test_evaluation_changes_nothing():
    weighting = UncertaintyWeighting(TASKS)
    train(weighting, g=1.0, l=2.0, s=3.0, b=4.0)
    before = weighting.state_dict()
    with torch.no_grad():
        weighting({"g": torch.tensor(100.0)})
    weighting.eval()
    weighting(losses_of(g=100.0, l=math.nan))
    weighting(losses_of())
    weighting.step()
    after = weighting.state_dict()
    assert before.pop("steps") + 1 == after.pop("steps")
    assert (before.pop("absent") + 1).equal(after.pop("absent"))  # a step without losses is one that all sat out
    for key, value in before.items():
        assert torch.equal(value, after[key]) if isinstance(value, torch.Tensor) else value == after[key]


def test_warmup_holds_the_initial_weights():
    weighting = UncertaintyWeighting({"a": "gaussian"}, warmup_steps=5)
    train(weighting, a=4.0)
    train(weighting, steps=4, a=1.0)
    assert weighting.log_vars["a"] == pytest.approx(math.log(4.0))
    train(weighting, steps=5, a=1.0)
    assert weighting.log_vars["a"] < math.log(4.0) - 0.03


def test_equal_warmup_is_the_plain_sum_and_then_starts_from_the_losses_of_that_time():
    weighting = UncertaintyWeighting({"a": "gaussian", "b": "laplace", "c": 0.5}, warmup_steps=3, warmup="equal")
    for _ in range(3):
        losses = losses_of(a=100.0, b=7.0, c=2.0)
        total = weighting(losses)
        total.backward()
        assert total.item() == 108.0
        assert [loss.grad.item() for loss in losses.values()] == [1.0, 1.0, 0.5]
        weighting.step()
    losses = losses_of(a=9.0, b=7.0, c=2.0)
    weighting(losses).backward()
    weighting.step()
    assert losses["a"].grad.item() == pytest.approx(0.5 / 9.0)
    assert weighting.log_vars["a"] == pytest.approx(math.log(9.0))


def test_freezing_keeps_s_and_still_counts_losses():
    weighting = UncertaintyWeighting({"a": "gaussian"}, init=0.0, freeze_after=4)
    train(weighting, steps=4, a=9.0)
    frozen = weighting.log_vars["a"]
    assert frozen > 0.03
    train(weighting, steps=4, a=7.0)
    assert weighting.log_vars["a"] == frozen
    assert weighting.snapshot().tasks["a"].raw_loss == 7.0

    weighting = UncertaintyWeighting({"a": "gaussian"}, init=0.0)
    weighting.freeze()
    train(weighting, steps=4, a=9.0)
    assert weighting.log_vars["a"] == 0.0
    weighting.unfreeze()
    train(weighting, steps=4, a=9.0)
    assert weighting.log_vars["a"] > 0.03


# ---------------------------------------------------------------------------------------------------- exact softmax


def test_exact_softmax_learns_the_temperature_like_autograd_does():
    torch.manual_seed(0)
    logits, target = 4 * torch.randn(200, 3), torch.randint(0, 3, (200,))
    weighting = UncertaintyWeighting({"a": "softmax_exact"}, lr=1e-2)
    s = torch.nn.Parameter(torch.zeros(()))
    optimizer = torch.optim.Adam([s], lr=1e-2)
    for _ in range(300):
        optimizer.zero_grad()
        torch.nn.functional.cross_entropy(logits * torch.exp(-s), target).backward()
        optimizer.step()
        mine = logits.clone().requires_grad_()
        total = weighting({"a": CrossEntropy(mine, target)})
        (total * 1024.0).backward()  # a loss scale does not reach s
        weighting.step()
    assert weighting.log_vars["a"] == pytest.approx(s.item(), abs=1e-5)
    expected = torch.nn.functional.cross_entropy(logits.double() * math.exp(-s.item()), target)
    assert total.item() == pytest.approx(expected.item(), abs=1e-3)


def test_exact_softmax_averages_over_micro_batches():
    torch.manual_seed(0)
    logits, target = 4 * torch.randn(40, 3), torch.randint(0, 3, (40,))
    whole, parts = (UncertaintyWeighting({"a": "softmax_exact"}) for _ in range(2))
    for _ in range(50):
        whole({"a": CrossEntropy(logits.clone().requires_grad_(), target)}).backward()
        whole.step()
        for part in (slice(0, 20), slice(20, 40)):
            parts({"a": CrossEntropy(logits[part].clone().requires_grad_(), target[part])}).backward()
        parts.step()
    assert whole.log_vars["a"] == pytest.approx(parts.log_vars["a"], abs=1e-5)


def test_logits_may_also_be_passed_to_an_approximate_softmax():
    logits, target = torch.randn(8, 3), torch.tensor([0, 1, 2, 0, 1, 2, 0, 1])
    weighting = UncertaintyWeighting({"a": "softmax"}, init=0.7)
    total = weighting({"a": CrossEntropy(logits.requires_grad_(), target, label_smoothing=0.1)})
    raw = torch.nn.functional.cross_entropy(logits, target, label_smoothing=0.1)
    torch.testing.assert_close(total, math.exp(-0.7) * raw + 0.35)


# ---------------------------------------------------------------------------------------------------- odd losses


@pytest.mark.parametrize("value", [0.0, 1e-30, 1e30])
def test_extreme_losses_stay_finite_and_s_recovers(value):
    weighting = UncertaintyWeighting({**TASKS, "other": "gaussian"})
    normal = dict.fromkeys(TASKS, 2.0)
    train(weighting, steps=100, **normal, other=3.0)
    before = weighting.log_vars
    for _ in range(20):
        losses = losses_of(**dict.fromkeys(TASKS, value), other=3.0)
        total = weighting(losses)
        total.backward()
        weighting.step()
        # Losses near the largest number of single precision may add up to more than it holds.
        huge = sum(abs(loss.item()) for loss in losses.values() if torch.isfinite(loss)) > 1e38
        assert huge or torch.isfinite(total)
        assert all(torch.isfinite(loss.grad) for loss in losses.values())
    during = weighting.log_vars
    train(weighting, steps=4500, **normal, other=3.0)
    for name in TASKS:
        assert abs(during[name] - before[name]) > 0.1
        assert weighting.log_vars[name] == pytest.approx(before[name], abs=0.05)


@pytest.mark.parametrize("value", [0.0, 1e-30, 1e30, -1.0])
def test_an_implausible_first_loss_does_not_set_the_scale(value):
    weighting = UncertaintyWeighting({"a": "laplace"})
    total = train(weighting, steps=3, a=value)
    assert torch.isfinite(total)
    train(weighting, a=5.0)
    assert weighting.strategy.state.started.all()
    with pytest.warns(UncertaintyWarning, match="negative") if value < 0 else warnings.catch_warnings():
        weighting.check()
    assert weighting.log_vars["a"] == pytest.approx(2 * math.log(5.0), abs=1e-5)


@pytest.mark.parametrize("exponent", range(-8, 9, 4))
@pytest.mark.parametrize("likelihood", list(oracle.TERMS))
def test_absolute_bounds_do_not_bite_between_1e_8_and_1e8(likelihood, exponent):
    loss = 10.0**exponent
    weighting = UncertaintyWeighting({"a": likelihood})
    train(weighting, a=loss)
    expected = get_likelihood(likelihood).optimum(torch.tensor(loss)).item()
    assert weighting.log_vars["a"] == pytest.approx(expected, abs=1e-4)
    train(weighting, steps=20, a=loss)
    assert weighting.snapshot().tasks["a"].at_bound is None


def test_a_loss_that_goes_to_zero_stops_at_the_relative_bound_and_is_reported():
    weighting = UncertaintyWeighting({"a": "gaussian"}, min_variance_ratio=0.01, lr=0.1)
    train(weighting, a=2.0)
    train(weighting, steps=100, a=0.0)
    with pytest.warns(UncertaintyWarning, match="task 'a' is held by its lower bound"):
        weighting.check(snapshot := weighting.snapshot())
    assert snapshot.tasks["a"].at_bound == "lower"
    assert snapshot.tasks["a"].log_var == pytest.approx(math.log(2.0) + math.log(0.01), abs=1e-5)
    train(weighting, steps=1500, a=2.0)
    assert weighting.log_vars["a"] == pytest.approx(math.log(2.0), abs=0.05)


def test_without_a_ratio_only_the_absolute_bound_holds():
    weighting = UncertaintyWeighting({"a": "gaussian"}, min_variance_ratio=0.0, bounds=(-12.0, 12.0), lr=0.5)
    train(weighting, a=2.0)
    train(weighting, steps=100, a=0.0)
    with pytest.warns(UncertaintyWarning, match="lower bound"):
        weighting.check()
    assert weighting.log_vars["a"] == -12.0


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_a_loss_that_is_not_finite_sits_out_is_counted_and_named_once(value):
    weighting = UncertaintyWeighting({"a": "gaussian", "b": "gaussian"}, init=0.5)
    train(weighting, steps=3, a=2.0, b=3.0)
    before = weighting.state_dict()["log_var"][0]
    losses = losses_of(a=value, b=3.0)
    total = weighting(losses)
    total.backward()
    weighting.step()
    assert torch.isfinite(total)
    assert losses["a"].grad.item() == 0.0
    assert losses["b"].grad.item() > 0.0
    with pytest.warns(UncertaintyWarning, match="The loss of task 'a' was NaN or infinite in 1 call,") as caught:
        weighting.check(snapshot := weighting.snapshot())
    assert len(caught) == 1
    assert snapshot.tasks["a"].nonfinite == 1
    assert snapshot.tasks["b"].nonfinite == 0
    assert weighting.log_var[0] == before
    weighting.check()  # said once


def test_a_float64_loss_beyond_single_precision_sits_out_and_is_counted():
    weighting = UncertaintyWeighting({"a": "gaussian"}, init=0.0)
    loss = leaf(1e39, torch.float64)
    weighting({"a": loss}).backward()
    weighting(losses_of(a=3.0)).backward()
    weighting.step()
    assert loss.grad.item() == 0.0
    with pytest.warns(UncertaintyWarning, match="'a' was NaN or infinite in 1 call,"):
        weighting.check()
    assert weighting.snapshot().tasks["a"].raw_loss == 3.0


def test_nonfinite_raise_names_the_task():
    weighting = UncertaintyWeighting({"a": "gaussian", "b": "gaussian", "c": "gaussian"}, nonfinite="raise")
    train(weighting, a=1.0, b=1.0)
    with pytest.raises(FloatingPointError, match="The loss of 'b' is NaN or infinite in step 1"):
        weighting(losses_of(a=1.0, b=math.nan))


@pytest.mark.parametrize("losses", [{}, {"a": math.nan}, {"a": math.nan, "b": math.inf}])
def test_if_all_tasks_sit_out_the_total_is_a_zero_that_can_be_back_propagated(losses):
    weighting = UncertaintyWeighting({"a": "gaussian", "b": "laplace"}, init=1.0)
    before = weighting.log_var
    losses = losses_of(**losses)
    total = weighting(losses)
    assert total.item() == 0.0
    total.backward()
    assert all(loss.grad.item() == 0.0 for loss in losses.values())
    weighting.step()
    assert torch.equal(weighting.log_var, before)


@pytest.mark.parametrize("losses", [{}, {"a": math.nan}, {"a": 2.0}, {"a": 2.0, "b": 3.0}])
def test_whatever_is_weighed_another_loss_can_be_added_in_place(losses):
    weighting = UncertaintyWeighting({"a": "gaussian", "b": "laplace"}, init=1.0)
    other, losses = leaf(3.0), losses_of(**losses)
    total = weighting(losses)
    alone = total.item()
    total *= 2.0
    total += other.square()
    assert total.item() == pytest.approx(2.0 * alone + 9.0)
    total.backward()
    assert other.grad.item() == 6.0
    assert (total.shape, total.dtype, total.is_leaf) == ((), torch.float32, False)
    assert all((loss.grad != 0.0) == torch.isfinite(loss) for loss in losses.values())


def test_a_nan_from_an_empty_mask_gives_the_network_a_finite_gradient():
    weight = torch.ones(3, requires_grad=True)
    weighting = UncertaintyWeighting({"a": "gaussian", "b": "gaussian"})
    output = weight * torch.tensor([1.0, 2.0, 3.0])
    mask = torch.tensor([False, False, False])
    weighting({"a": output.square().mean(), "b": output[mask].square().mean()}).backward()
    assert torch.isfinite(weight.grad).all()


@pytest.mark.parametrize("value", [math.nan, -3.0])
def test_a_loop_that_reads_nothing_is_told_too(value):
    weighting = UncertaintyWeighting({"a": "gaussian", "b": "gaussian"}, init=0.0)
    with pytest.warns(UncertaintyWarning, match="task 'a' was (NaN|negative)") as caught:
        train(weighting, steps=400, a=value, b=2.0)
    assert len([warning for warning in caught if "bound" not in str(warning.message)]) == 1


def test_an_evaluation_of_nothing_but_nan_is_nan_and_no_perfect_zero():
    weighting = UncertaintyWeighting({"a": "gaussian", "b": "laplace"}, init=0.0)
    with torch.no_grad():
        assert weighting({"a": torch.tensor(math.nan)}).isnan()
        assert weighting({"a": torch.tensor(math.nan), "b": torch.tensor(2.0)}).item() == 2.0
        assert weighting({}).item() == 0.0
    strict = UncertaintyWeighting({"a": "gaussian"}, nonfinite="raise")
    with torch.no_grad(), pytest.raises(FloatingPointError, match="'a' is NaN"):
        strict({"a": torch.tensor(math.nan)})


def test_an_optimum_beyond_bounds_of_the_user_starts_at_the_bound_and_is_reported():
    weighting = UncertaintyWeighting([Task("a", "gaussian", bounds=(-2.0, 2.0))])
    train(weighting, steps=3, a=1e6)
    with pytest.warns(UncertaintyWarning, match="task 'a' is held by its upper bound"):
        weighting.check()
    assert weighting.log_vars["a"] == 2.0


def test_a_negative_loss_is_named_once():
    weighting = UncertaintyWeighting({"wind": "gaussian"})
    train(weighting, steps=3, wind=-2.0)
    with pytest.warns(
        UncertaintyWarning, match=r"'wind' was negative .* gaussian .*`tasks={'wind': \"nll\"}`"
    ) as caught:
        weighting.check()
    assert len(caught) == 1
    weighting.check()  # said once


NUMBERS = st.one_of(
    st.floats(allow_nan=True, allow_infinity=True, width=32),
    st.sampled_from([0.0, -0.0, 1e-30, 1e30, math.nan, math.inf, 65504.0]),
)
LARGE = dict.fromkeys(TASKS, (3e38, torch.float32))
DTYPES = st.sampled_from([torch.float32, torch.float16, torch.bfloat16, torch.float64])


@settings(max_examples=150, deadline=None)
@given(st.lists(st.dictionaries(st.sampled_from(list(TASKS)), st.tuples(NUMBERS, DTYPES)), max_size=12))
@example([LARGE, LARGE])  # whose sum over an epoch is infinite
def test_no_dictionary_of_losses_makes_anything_infinite_or_moves_an_absent_task(batches):
    weighting = UncertaintyWeighting(TASKS)
    for batch in batches:
        before = weighting.log_var
        losses = {name: leaf(value, dtype) for name, (value, dtype) in batch.items()}
        total = weighting(losses)
        total.backward()
        weighting.step()
        # Losses near the largest number of single precision may add up to more than it holds.
        huge = sum(abs(loss.item()) for loss in losses.values() if torch.isfinite(loss)) > 1e38
        assert huge or torch.isfinite(total)
        for index, name in enumerate(TASKS):
            absent = name not in losses or not torch.isfinite(losses[name])
            assert not absent or weighting.log_var[index] == before[index]
            # Half precision holds no gradient beyond 65504: a smaller loss than that allows is for the user to lift.
            tiny = name in losses and losses[name].dtype == torch.float16 and losses[name].abs() < 1e-4
            assert name not in losses or tiny or torch.isfinite(losses[name].grad)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UncertaintyWarning)
            assert all(0.0 < weight < math.inf for weight in weighting.weights.values())


# ---------------------------------------------------------------------------------------------------- what users read


def test_values_can_be_read_and_set_by_name():
    weighting = UncertaintyWeighting(TASKS)
    weighting.sigmas = {"g": 3.0, "l": 2.0}
    weighting.weights = {"s": 0.25}
    assert weighting.sigmas == pytest.approx({"g": 3.0, "l": 2.0, "s": 2.0, "b": 1.0})
    assert weighting.weights == pytest.approx({"g": 1 / 9, "l": 1 / 2, "s": 1 / 4, "b": 1.0})
    weighting.log_vars = {"b": -1.5}
    assert weighting.log_vars["b"] == -1.5
    train(weighting, g=1e5)  # what was set does not start from the data
    assert weighting.sigmas["g"] == pytest.approx(3.0, rel=0.02)


@pytest.mark.parametrize(
    ("attribute", "values", "message"),
    [
        ("log_vars", {"deph": 0.0}, "Did you mean 'depth'"),
        ("log_vars", {"depth": math.nan}, "'depth' cannot have a log-variance of nan"),
        ("log_vars", {"depth": 50.0}, "of 50.0: its bounds are -40 and 40"),
        ("sigmas", {"depth": 0.0}, "sigma of task 'depth' must be positive"),
        ("weights", {"depth": -1.0}, "weight of task 'depth' must be positive"),
        ("weights", {"aux": 2.0}, "Unknown learned task 'aux'"),
    ],
)
def test_setting_what_cannot_be_set_is_refused_by_name(attribute, values, message):
    weighting = UncertaintyWeighting({"depth": "laplace", "aux": 1.0})
    with pytest.raises(ValueError, match=message):
        setattr(weighting, attribute, values)


def test_learned_weights_can_be_exported_as_fixed_ones():
    learned = UncertaintyWeighting({**TASKS, "aux": 0.5})
    train(learned, steps=30, g=1e4, l=3.0, s=0.1, b=0.4, aux=1.0)
    fixed = UncertaintyWeighting(learned.fixed_weights())
    ours, theirs = (losses_of(g=9e3, l=2.0, s=0.2, b=0.3, aux=1.0) for _ in range(2))
    learned(ours).backward()
    fixed(theirs).backward()
    for name in ours:
        torch.testing.assert_close(ours[name].grad, theirs[name].grad)


def test_an_exact_softmax_is_exported_as_the_weight_of_its_approximation():
    learned = UncertaintyWeighting([Task("a", "softmax_exact", init=0.7)])
    fixed = UncertaintyWeighting(learned.fixed_weights())
    logits = torch.randn(6, 3, requires_grad=True)
    target = torch.tensor([0, 1, 2, 0, 1, 2])
    expected = math.exp(-0.7) * torch.nn.functional.cross_entropy(logits, target)
    torch.testing.assert_close(fixed({"a": CrossEntropy(logits, target)}), expected)


def test_values_set_in_inference_mode_can_still_be_trained():
    with torch.inference_mode():
        weighting = UncertaintyWeighting(TASKS)
        weighting.sigmas = {"g": 3.0}
        weighting.load_state_dict(weighting.state_dict())
        weighting.to("cpu")
    train(weighting, steps=2, g=1.0, l=1.0, s=1.0, b=1.0)
    assert weighting.sigmas["g"] != 3.0


def test_snapshot_is_made_of_plain_floats_and_shares_sum_to_one():
    weighting = UncertaintyWeighting({**TASKS, "aux": 0.5})
    train(weighting, steps=3, g=1e4, l=3.0, s=0.1, b=0.4, aux=1.0)
    snapshot = weighting.snapshot()
    metrics = snapshot.metrics("u")
    assert all(type(value) is float for value in metrics.values())
    assert sum(snapshot.shares.values()) == pytest.approx(1.0)
    assert metrics["u/loss_sum"] == pytest.approx(1e4 + 3.0 + 0.1 + 0.4 + 1.0)
    assert "u/sigma/aux" not in metrics
    assert metrics["u/weight/l"] == pytest.approx(1 / 3.0, rel=1e-3)


def test_nothing_seen_yet_is_nan_and_not_zero():
    metrics = UncertaintyWeighting({"a": "gaussian"}).snapshot().metrics()
    assert math.isnan(metrics["uncertainty/loss/a"])
    assert math.isnan(metrics["uncertainty/loss_sum"])
    assert metrics["uncertainty/weight/a"] == 1.0


def test_log_var_is_a_copy():
    weighting = UncertaintyWeighting({"a": "gaussian"})
    weighting.log_var.fill_(9.0)
    assert weighting.log_vars["a"] == 0.0


@pytest.mark.filterwarnings("error")
def test_reading_changes_nothing_and_warns_of_nothing():
    weighting = UncertaintyWeighting({"a": "gaussian", "b": "laplace", "late": "softmax"})
    train(weighting, steps=3, a=-2.0, b=math.nan)
    weighting({"a": leaf(3.0)}).backward()  # a window that is open
    before = copy.deepcopy(vars(weighting))
    for read in (
        lambda: (weighting.weights, weighting.sigmas, weighting.log_vars, weighting.log_var, weighting.fixed_weights()),
        lambda: (weighting.snapshot(), weighting.waiting, weighting.state_dict(), repr(weighting)),
    ):
        assert str(read()) == str(read())
        assert same(before, copy.deepcopy(vars(weighting)))  # a copy knows no optimizer


def same(one, other):
    """All that two objects hold, tensors bit for bit, NaN equal to NaN."""
    if isinstance(one, torch.Tensor):
        return one.dtype == other.dtype and torch.equal(one.detach().nan_to_num(7.0), other.detach().nan_to_num(7.0))
    if isinstance(one, (list, tuple)):
        return len(one) == len(other) and all(map(same, one, other))
    if isinstance(one, dict):
        return one.keys() == other.keys() and all(same(one[key], other[key]) for key in one)
    if type(one).__module__.startswith("lightning_uncertainty") and hasattr(one, "__dict__"):
        return same(vars(one), vars(other))
    if isinstance(one, (bool, int, float, str)):
        return one == other or one != one
    return type(one) is type(other)


def test_the_check_of_reading_sees_a_change():
    one = UncertaintyWeighting({"a": "gaussian"})
    other = copy.deepcopy(one)
    assert same(vars(one), vars(other))
    train(other, steps=1, a=2.0)
    assert not same(vars(one), vars(other))


def test_it_shows_what_it_is():
    assert repr(UncertaintyWeighting({"a": "laplace"})) == "UncertaintyWeighting({'a': 'laplace'}, steps=0)"


# ---------------------------------------------------------------------------------------------------- arguments


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"lr": -1}, "lr must be"),
        ({"init": "data"}, "init must be"),
        ({"init": 99.0}, "outside its bounds"),
        ({"regularizer": "l2"}, "Unknown regularizer"),
        ({"bounds": (3, 1)}, "bounds must be"),
        ({"min_variance_ratio": 1.5}, "min_variance_ratio"),
        ({"warmup_steps": -1}, "warmup_steps"),
        ({"warmup_steps": 1.5}, "warmup_steps"),
        ({"warmup": "linear"}, "warmup must be one of 'initial', 'equal'"),
        ({"freeze_after": -3}, "freeze_after"),
        ({"nonfinite": "ignore"}, "nonfinite must be one of 'skip', 'raise'"),
    ],
)
def test_arguments_that_are_not_valid_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        UncertaintyWeighting({"a": "gaussian"}, **options)


NUMBERS = {
    "warmup_steps": 3,
    "freeze_after": 7,
    "lr": 0.25,
    "betas": (0.5, 0.75),
    "eps": 0.125,
    "init": 0.5,
    "bounds": (-4.0, 4.0),
    "min_variance_ratio": 0.25,
}


@pytest.mark.parametrize("kind", [np.asarray, np.float32, torch.tensor])
@pytest.mark.parametrize("option", NUMBERS)
def test_every_option_takes_numbers_of_numpy_as_numbers(option, kind):
    plain = NUMBERS[option]
    kind = np.int64 if isinstance(plain, int) and kind is np.float32 else kind
    foreign = tuple(map(kind, plain)) if isinstance(plain, tuple) else kind(plain)
    one, other = (UncertaintyWeighting({"a": "gaussian"}, **{option: value}) for value in (plain, foreign))
    for weighting in (one, other):
        train(weighting, steps=9, a=3.0)
    assert all(torch.equal(one.state_dict()[key], other.state_dict()[key]) for key in ("log_var", "start", "exp_avg"))
    assert getattr(one, option, None) == getattr(other, option, None)


@pytest.mark.parametrize("value", [True, np.True_, "3", np.str_("3"), np.array([3, 3, 3]), None])
@pytest.mark.parametrize("option", [name for name in NUMBERS if name != "freeze_after"])
def test_no_option_takes_booleans_or_strings_as_numbers(option, value):
    value = (value, value) if option == "betas" else value
    with pytest.raises((ValueError, TypeError), match=option):
        UncertaintyWeighting({"a": "gaussian"}, **{option: value})


# ---------------------------------------------------------------------------------------------------- memory


def test_no_graph_is_kept_after_backward():
    import gc
    import weakref

    weighting = UncertaintyWeighting(TASKS)

    class Square(torch.autograd.Function):
        @staticmethod
        def forward(ctx, x):
            ctx.save_for_backward(x)
            return x.square()

        @staticmethod
        def backward(ctx, gradient):
            return 2.0 * ctx.saved_tensors[0] * gradient

    x = leaf(2.0)
    losses = {name: Square.apply(x) for name in TASKS}
    references = [weakref.ref(object_) for loss in losses.values() for object_ in (loss, loss.grad_fn)]
    weighting(losses).backward()
    weighting.step()
    del losses
    gc.collect()
    assert all(reference() is None for reference in references)


def test_a_copy_shares_nothing():
    weighting = UncertaintyWeighting(TASKS)
    train(weighting, g=1.0, l=1.0, s=1.0, b=1.0)
    twin = copy.deepcopy(weighting)
    train(twin, steps=10, g=9.0)
    assert twin.log_vars["g"] != weighting.log_vars["g"]


OPTIONS = [{}, {"warmup": "equal", "warmup_steps": 2}, {"strategy": "fixed"}, {"init": 0.5, "freeze_after": 3}]


@pytest.mark.parametrize("options", OPTIONS, ids=str)
def test_a_reset_is_the_start_with_the_same_tasks_and_options(options):
    def train(weighting, losses):
        for a, b in losses:
            values = {"a": a, "b": b}
            weighting({name: torch.tensor(value, requires_grad=True) for name, value in values.items()})
            weighting.step()
        return weighting

    tasks = {"a": "gaussian", "b": "laplace"}
    used, fresh = (UncertaintyWeighting(tasks, **options) for _ in range(2))
    train(used, [(2.0, math.nan), (3.0, 4.0), (0.5, 1.0)])
    used({"a": torch.tensor(9.0, requires_grad=True)})  # waits for its step
    used.freeze()
    used.reset()
    assert not used.waiting
    for losses in ([], [(5.0, 0.1), (4.0, 0.2), (3.0, math.nan)]):
        train(used, losses), train(fresh, losses)
        assert used.weights == fresh.weights
        assert difference(used.state_dict(), fresh.state_dict()) is None
