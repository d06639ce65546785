"""Scores of predictions, against sums by hand, torchmetrics and the noise that made the data."""

import math

import pytest
import torch
from torch.distributions import Categorical, Laplace, Normal
from torch.nn import functional as F
from torchmetrics.functional.classification import binary_calibration_error, multiclass_calibration_error

from lightning_uncertainty import Task, UncertaintyWarning
from lightning_uncertainty.snapshot import Score
from tests.paper import UncertaintyWeighting

GENERATOR = torch.Generator().manual_seed(0)
MEAN = torch.randn(3000, generator=GENERATOR)
NOISE = torch.randn(3000, generator=GENERATOR)
LOGITS = 3.0 * torch.randn(3000, 5, generator=GENERATOR)
LABELS = torch.multinomial(torch.softmax(LOGITS / 2.5, 1), 1, generator=GENERATOR).squeeze(1)


def engine(likelihood="gaussian", sigma=1.0, **options):
    weighting = UncertaintyWeighting({"a": likelihood}, init=0.0, **options)
    if likelihood != "nll":
        weighting.sigmas = {"a": sigma}
    return weighting


def scored(weighting, *batches, fit=False, **more):
    weighting.begin_scores()
    for batch in batches:
        weighting.score("a", *batch, **more)
    return weighting.end_scores(fit=fit)["a"]


@pytest.mark.parametrize(("kind", "family"), [("gaussian", Normal), ("laplace", Laplace)])
def test_a_regression_has_the_scores_of_its_distribution(kind, family):
    target = MEAN + 3.0 * NOISE
    got = scored(engine(kind, 2.0), (MEAN, target))
    law = family(MEAN.double(), torch.tensor(2.0, dtype=torch.float64))
    assert got.samples == 3000
    assert got.nll == pytest.approx(-law.log_prob(target).mean().item(), rel=1e-5)
    assert got.mean_squared_z == pytest.approx(((target - MEAN) ** 2 / law.variance).mean().item(), rel=1e-5)
    for percent in (50, 80, 90, 95):
        low, high = (law.icdf(torch.tensor(0.5 + sign * percent / 200).double()) for sign in (-1, 1))
        inside = ((low <= target) & (target <= high)).float().mean().item()
        assert got.numbers()[f"coverage_{percent}"] == pytest.approx(inside, abs=1e-3)
    # That of torchmetrics is of samples, with memory quadratic in their number; this is the definition.
    grid = torch.linspace(-30.0, 30.0, 6001, dtype=torch.float64)
    below = torch.stack([family(m, 2.0).cdf(grid) for m in MEAN.double()])
    integrals = torch.trapezoid((below - (grid >= target.double()[:, None]).double()) ** 2, grid)
    assert got.crps == pytest.approx(integrals.mean().item(), rel=1e-3)


def test_noise_that_is_right_gives_the_scores_of_a_calibrated_model():
    got = scored(engine("gaussian", 3.0), (MEAN, MEAN + 3.0 * NOISE))
    assert got.mean_squared_z == pytest.approx(1.0, abs=0.06)
    assert got.coverage == pytest.approx([place / 20 for place in range(1, 21)], abs=0.03)
    assert got.crps == pytest.approx(3.0 / math.sqrt(math.pi), rel=0.03)


def test_classes_have_the_calibration_error_of_torchmetrics():
    got = scored(engine("softmax"), (LOGITS, LABELS))
    probability = torch.softmax(LOGITS, 1)
    assert got.ece == pytest.approx(multiclass_calibration_error(probability, LABELS, 5, n_bins=20).item(), abs=1e-6)
    assert got.nll == pytest.approx(F.cross_entropy(LOGITS, LABELS).item(), rel=1e-5)
    assert sum(count for count, *_ in got.reliability) == 3000
    label = (NOISE > 0.0).float()
    got = scored(engine("bernoulli"), (MEAN, label))
    assert got.ece == pytest.approx(
        binary_calibration_error(torch.sigmoid(MEAN), label.long(), n_bins=20).item(), abs=1e-6
    )
    assert got.nll == pytest.approx(F.binary_cross_entropy_with_logits(MEAN, label).item(), rel=1e-5)


@pytest.mark.parametrize("kind", ["gaussian", "softmax", "nll"])
def test_batches_add_up_and_what_is_masked_or_nan_is_left_out(kind):
    first, second = (LOGITS, LABELS) if kind == "softmax" else (MEAN, MEAN + NOISE)
    more = {"log_var": 0.3 * NOISE.abs()} if kind == "nll" else {}
    whole = scored(engine(kind), (first[:2000], second[:2000]), **{k: v[:2000] for k, v in more.items()})
    weighting = engine(kind)
    weighting.begin_scores()
    for part in (slice(0, 700), slice(700, 3000)):
        mask = torch.arange(3000)[part] < 2000
        target = second[part].masked_fill(~mask, 0 if kind == "softmax" else math.nan)
        weighting.score("a", first[part], target, mask=mask, **{key: value[part] for key, value in more.items()})
    masked = weighting.end_scores(fit=False)["a"]
    assert masked.samples == 2000
    assert masked.numbers() == pytest.approx(whole.numbers())
    if kind != "softmax":
        nan = scored(engine(kind), (first, second.where(torch.arange(3000) < 2000, math.nan)), **more)
        assert nan.numbers() == pytest.approx(whole.numbers())


@pytest.mark.parametrize("dtype", [torch.float32, torch.long], ids=str)
def test_of_yes_and_no_what_cross_entropy_ignores_is_left_out_and_what_is_neither_is_told_of(dtype):
    label = (NOISE > 0.0).to(dtype)
    whole = scored(engine("bernoulli"), (MEAN[:2000], label[:2000]))
    ignored = label.masked_fill(torch.arange(3000) >= 2000, -100)
    got = scored(engine("bernoulli"), (MEAN, ignored))
    assert got.numbers() == pytest.approx(whole.numbers())
    assert got.samples == 2000
    wrong = label.masked_fill(torch.arange(3000) >= 2000, -1)
    with pytest.warns(UncertaintyWarning, match=r"Task 'a': 1,000 of 3,000 predictions have no finite score"):
        got = scored(engine("bernoulli"), (MEAN, wrong), fit=True)
    assert got.numbers() == pytest.approx(whole.numbers())


def test_the_temperature_is_the_best_one_and_is_used_only_if_asked_for():
    weighting = engine("softmax")
    scored(weighting, (LOGITS, LABELS), fit=True)
    grid = torch.linspace(1.5, 4.0, 2501)
    costs = torch.stack([F.cross_entropy(LOGITS / t, LABELS) for t in grid])
    assert weighting.predictive("a", LOGITS).logits.softmax(1).max() == LOGITS.softmax(1).max()
    weighting.sigma_from = "validation"
    tempered = weighting.predictive("a", LOGITS).log_prob(LABELS)
    assert -tempered.mean().item() == pytest.approx(costs.min().item(), rel=1e-4)
    found = (LOGITS[0, 0] - LOGITS[0, 1]) / (weighting.predictive("a", LOGITS).logits[0, :2].diff().neg())
    assert found.item() == pytest.approx(grid[costs.argmin()].item(), rel=0.02)
    assert scored(weighting, (LOGITS, LABELS)).ece < 0.03


def test_a_test_fits_nothing_and_an_exact_softmax_takes_its_own_temperature():
    weighting = engine("softmax_exact", sigma_from="validation")
    scored(weighting, (LOGITS, LABELS))
    with pytest.warns(UncertaintyWarning, match=r"Task 'a': sigma_from is 'validation', but no .*uncertainty\.score\("):
        found = weighting.predictive("a", LOGITS)
    assert found.logits.softmax(1).max() == LOGITS.softmax(1).max()
    scored(weighting, (LOGITS, LABELS), fit=True)
    assert weighting.sigmas_val["a"] ** 2 == pytest.approx(2.5, rel=0.05)


@pytest.mark.parametrize("kind", ["gaussian", "laplace"])
def test_the_scale_of_a_head_is_found_on_validation(kind):
    """A head that says half of the noise that there is."""
    log_var = 0.5 * MEAN
    noise = (Normal if kind == "gaussian" else Laplace)(0.0, 2.0).sample((3000,)) * torch.exp(0.5 * log_var)
    weighting = UncertaintyWeighting([Task("a", "nll", head=kind)], sigma_from="validation")
    before = scored(weighting, (MEAN, MEAN + noise, log_var), fit=True)
    assert before.mean_squared_z == pytest.approx(4.0, rel=0.1)
    assert weighting.sigmas_val["a"] == pytest.approx(2.0, rel=0.05)
    after = scored(weighting, (MEAN, MEAN + noise, log_var), fit=True)
    assert after.mean_squared_z == pytest.approx(1.0, rel=0.1)
    assert weighting.sigmas_val["a"] == pytest.approx(2.0, rel=0.05)  # of the head, not of what was predicted
    got = weighting.predictive("a", MEAN, log_var)
    torch.testing.assert_close(got.scale, weighting.sigmas_val["a"] * torch.exp(0.5 * log_var))
    twin = UncertaintyWeighting.from_state_dict(weighting.state_dict())
    torch.testing.assert_close(twin.predictive("a", MEAN, log_var).scale, got.scale)


def test_outside_of_a_validation_and_without_a_sigma_nothing_is_counted():
    weighting = UncertaintyWeighting({"a": "gaussian"})
    with pytest.warns(UncertaintyWarning, match=r"score\('a', \.\.\.\) counts nothing here: .*write `with weighting"):
        weighting.score("a", MEAN, MEAN)
    weighting.score("a", MEAN, MEAN)  # told once
    weighting.begin_scores()
    weighting.score("a", MEAN, MEAN)
    assert weighting.end_scores(fit=True) == {}
    assert weighting.end_scores(fit=True) == {}


def test_a_network_that_is_lost_has_no_score():
    weighting = engine()
    weighting.begin_scores()
    weighting.score("a", MEAN * math.nan, MEAN)
    with pytest.warns(UncertaintyWarning, match="Task 'a': 3,000 of 3,000 predictions have no finite score"):
        assert weighting.end_scores(fit=True) == {}


@pytest.mark.parametrize("fit", [False, True])
@pytest.mark.parametrize("kind", ["gaussian", "laplace", "nll", "softmax", "bernoulli"])
@pytest.mark.parametrize("bad", [math.nan, math.inf, 3e38])
def test_what_has_no_finite_score_is_left_out_with_one_warning(kind, bad, fit):
    log_var = (0.3 * NOISE,) if kind == "nll" else ()
    first = LOGITS.clone() if kind == "softmax" else MEAN.clone()
    second = {"softmax": LABELS, "bernoulli": (NOISE > 0.0).float()}.get(kind, MEAN + NOISE)
    rest = tuple(each[2:] for each in (first, second, *log_var))
    want = engine(kind)
    whole = scored(want, rest, fit=fit)
    first[:2] = bad
    if kind == "bernoulli":
        first[:2], second[:2] = bad, 1.0 - float(bad > 0.0)
    weighting = engine(kind)
    with pytest.warns(UncertaintyWarning, match=r"Task 'a': 2 of 3,000 predictions have no finite .* Look at") as told:
        got = scored(weighting, (first, second, *log_var), fit=fit)
    assert len(told) == 1
    assert got.numbers() == pytest.approx(whole.numbers())
    assert got.samples == 2998
    torch.testing.assert_close(weighting._state.val_shift, want._state.val_shift)
    scored(weighting, (first, second, *log_var))  # told once


@pytest.mark.parametrize("kind", ["gaussian", "nll", "softmax", "bernoulli"])
def test_an_empty_batch_counts_nothing(kind):
    first, second = {"softmax": (LOGITS, LABELS), "bernoulli": (MEAN, (NOISE > 0).float())}.get(kind, (MEAN, NOISE))
    log_var = (0.3 * NOISE,) if kind == "nll" else ()
    batch = (first, second, *log_var)
    empty = tuple(each[:0] for each in batch)
    one, other = engine(kind), engine(kind)
    assert scored(one, empty, batch, empty, fit=True) == scored(other, batch, fit=True)
    one.begin_scores()
    one.score("a", *empty)
    assert one.end_scores(fit=True) == {}
    torch.testing.assert_close(one._state.val_shift, other._state.val_shift)


@pytest.mark.parametrize("bad", [math.inf, -math.inf, math.nan])
def test_what_a_head_says_without_a_target_does_not_reach_its_scale(bad):
    mean, log_var, target = MEAN.clone(), 0.3 * NOISE, MEAN + 2.0 * NOISE
    weighting, twin = (engine("nll", sigma_from="validation") for _ in range(2))
    log_var[0], mean[1], mask = bad, bad, torch.arange(3000) > 1
    for _ in range(2):  # the second time with a shift
        got = scored(weighting, (mean, target, log_var), mask=mask, fit=True)
        assert got == scored(twin, (mean[2:], target[2:], log_var[2:]), fit=True)
        assert weighting.sigmas_val == twin.sigmas_val
    assert weighting.sigmas_val["a"] > 1.5


def test_classes_that_cross_entropy_ignores_are_not_scored():
    whole = scored(engine("softmax"), (LOGITS[:2000], LABELS[:2000]))
    ignored = LABELS.where(torch.arange(3000) < 2000, -100)
    assert scored(engine("softmax"), (LOGITS, ignored)).numbers() == pytest.approx(whole.numbers())
    mask = torch.arange(3000) < 2500
    got = scored(engine("softmax"), (LOGITS, ignored), mask=mask)
    assert got.samples == 2000
    assert got.numbers() == pytest.approx(whole.numbers())


def test_shapes_that_would_be_broadcast_are_refused():
    mean, target, mask = torch.zeros(4), torch.zeros(4), torch.ones(4, dtype=torch.bool)
    column = mean[:, None]
    for kind, arguments, words in (
        ("gaussian", (column, target), r"The mean has shape \(4, 1\) and the target \(4,\)\. Expected the same"),
        ("bernoulli", (column, target), r"The logit has shape \(4, 1\) and the target .* `logit\.squeeze\(-1\)`"),
        ("nll", (mean, target, column), r"log_var \(4, 1\)\. Expected one log-variance for each mean"),
        ("nll", (mean, target, mean[:3]), r"log_var \(3,\)\. Expected one log-variance for each mean"),
        ("softmax", (LOGITS, LABELS[:, None]), r"logits of shape \(3000, 5\) and a target of shape \(3000, 1\)"),
        ("softmax_exact", (mean, target.long()), r"logits of shape \(4,\) and a target of shape \(4,\)"),
    ):
        weighting = engine(kind)
        weighting.begin_scores()
        with pytest.raises(ValueError, match=words):
            weighting.score("a", *arguments)
        assert weighting.end_scores(fit=True) == {}
    for kind, first, second, wrong in (
        ("gaussian", mean, target, mask[:, None]),
        ("gaussian", mean, target, mask.float()),
        ("softmax", LOGITS[:4], LABELS[:4], mask[:, None]),
        ("bernoulli", mean, target, mask[:1]),
    ):
        weighting = engine(kind)
        weighting.begin_scores()
        with pytest.raises(ValueError, match=r"Expected a mask of bools of the shape of the target, \(4,\)"):
            weighting.score("a", first, second, mask=wrong)


def test_a_score_comes_back_from_plain_numbers():
    for score in (scored(engine(), (MEAN, MEAN + NOISE)), scored(engine("softmax"), (LOGITS, LABELS))):
        assert Score.read(score.plain()) == score
    assert Score.read(None) is None


def test_classes_as_a_mean_confidence_are_on_the_diagonal_where_they_are_right():
    labels = Categorical(logits=LOGITS).sample()
    got = scored(engine("softmax"), (LOGITS, labels))
    assert got.ece < 0.03
    for count, sure, right in got.reliability:
        assert abs(sure - right) < 4.0 * math.sqrt(0.25 / count)


# ---------------------------------------------------------------------------------------------------- temperatures


def test_the_temperature_can_be_read_and_a_checkpoint_keeps_it():
    weighting = UncertaintyWeighting([Task("a", "softmax"), Task("b", "nll", head="softmax"), Task("c")], init=0.0)
    assert weighting.temperatures == {}
    with weighting.validating():
        weighting.score("a", LOGITS, LABELS)
        weighting.score("b", LOGITS / 2.0, LABELS, log_std=torch.full((3000, 1), -20.0))
        weighting.score("c", MEAN, MEAN + NOISE)
    assert weighting.temperatures == pytest.approx({"a": 2.5, "b": 1.25}, rel=0.05)
    assert weighting.scores["a"].temperature == pytest.approx(weighting.temperatures["a"], rel=1e-6)
    assert weighting.scores["a"].numbers()["temperature"] == weighting.scores["a"].temperature
    assert weighting.scores["c"].temperature is None
    assert weighting.sigmas_val == {}  # a temperature is no sigma
    assert UncertaintyWeighting.from_state_dict(weighting.state_dict()).temperatures == weighting.temperatures
    with weighting.validating(fit=False):
        weighting.score("a", LOGITS / 2.5, LABELS)
    assert weighting.scores["a"].temperature == pytest.approx(1.0, rel=0.05)
    assert weighting.temperatures["a"] == pytest.approx(2.5, rel=0.05)


@pytest.mark.parametrize(("logits", "bound"), [(100.0 * LOGITS, 20), (LOGITS / 50.0, 0.22)], ids=["sure", "unsure"])
def test_a_temperature_at_its_bound_says_so_when_it_is_used(logits, bound):
    weighting = engine("softmax")
    scored(weighting, (logits, LABELS), fit=True)
    assert weighting.temperatures["a"] == pytest.approx(bound, rel=0.02)
    weighting.predictive("a", logits)
    weighting.sigma_from = "validation"
    with pytest.warns(UncertaintyWarning, match=rf"'a': the prediction divides its logits by a temperature of {bound}"):
        weighting.predictive("a", logits)
    weighting.predictive("a", logits)  # told once


def test_logits_that_say_nothing_have_a_temperature_of_one():
    weighting = engine("softmax")
    scored(weighting, (torch.zeros(4, 2), torch.tensor([0, 1, 0, 1])), fit=True)
    assert weighting.temperatures in ({}, {"a": pytest.approx(1.0)})


# ---------------------------------------------------------------------------------------------------- one validation


def test_noisy_logits_are_scored_as_they_are_predicted():
    weighting, log_std = engine("softmax"), torch.full((3000, 1), 1.0)
    got = scored(weighting, (LOGITS, LABELS), log_std=log_std)
    law = weighting.predictive("a", LOGITS, log_std=log_std)
    assert got.nll == pytest.approx(-law.log_prob(LABELS).mean().item(), rel=1e-5)
    assert got.ece < scored(engine("softmax"), (LOGITS, LABELS)).ece


def test_a_loop_without_a_trainer_has_the_numbers_of_one_validation():
    weighting, twin = engine("nll", sigma_from="validation"), engine("nll", sigma_from="validation")
    log_var, target = 0.3 * NOISE, MEAN + 2.0 * NOISE
    with weighting.validating():
        weighting.score("a", MEAN, target, log_var)
    assert weighting.scores["a"] == scored(twin, (MEAN, target, log_var), fit=True)
    assert weighting.sigmas_val == twin.sigmas_val != {}
    with weighting.validating(fit=False), torch.no_grad():
        weighting({"a": torch.tensor(9.0)})
        weighting.score("a", MEAN, MEAN, log_var)
    assert weighting.scores["a"].data == "test"
    assert weighting.sigmas_val == twin.sigmas_val

    def failing():
        with weighting.validating():
            weighting.score("a", MEAN, MEAN, log_var)
            raise RuntimeError("on the way")

    with pytest.raises(RuntimeError, match="on the way"):
        failing()
    with weighting.validating():
        pass
    assert weighting.scores["a"].data == "test"
    assert weighting.sigmas_val == twin.sigmas_val


def test_two_kinds_of_noise_in_one_validation_are_refused_since_one_scale_cannot_be_both():
    weighting, log_var = engine("gaussian"), 0.3 * NOISE
    for first, second, words in (
        ((log_var,), (), "was scored with log_var in this validation, and is now with no head"),
        ((), (log_var,), "was scored with no head in this validation, and is now with log_var"),
    ):
        weighting.begin_scores()
        weighting.score("a", MEAN, MEAN + NOISE, *first)
        with pytest.raises(ValueError, match=words):
            weighting.score("a", MEAN, MEAN + NOISE, *second)
    with weighting.validating():  # in another validation it may
        weighting.score("a", MEAN, MEAN + NOISE)


def test_targets_that_are_scored_twice_in_the_same_way_change_no_scale():
    weighting, twin = engine("nll"), engine("nll")
    batch = MEAN, MEAN + 2.0 * NOISE, 0.3 * NOISE
    once, twice = scored(weighting, batch, fit=True), scored(twin, batch, batch, fit=True)
    assert twice.numbers() == pytest.approx(once.numbers())
    assert twin.sigmas_val == pytest.approx(weighting.sigmas_val)
