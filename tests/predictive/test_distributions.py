"""Distributions of predictions: which family, with which noise."""

import io
import math

import pytest
import torch
from torch.distributions import Bernoulli, Categorical, Laplace, Normal
from torch.nn import functional as F

from lightning_uncertainty import CrossEntropy, UncertaintyWarning
from lightning_uncertainty.likelihoods import GAUSSIAN, SOFTMAX, Likelihood
from lightning_uncertainty.predictive import distribution
from tests.paper import UncertaintyWeighting

KINDS = {"a": "gaussian", "b": "laplace", "c": "softmax", "d": "bernoulli", "e": "softmax_exact", "f": "nll", "g": 0.1}
LOG_VARS = {"a": math.log(4.0), "b": math.log(9.0), "c": 1.0, "d": 1.0, "e": math.log(2.0)}
MEAN = torch.tensor([1.0, -2.0, 0.5])
LOGITS = torch.tensor([[2.0, 0.0, -1.0], [0.5, 0.5, 3.0]])


def engine(**options):
    weighting = UncertaintyWeighting(KINDS, init=0.0, **options)
    weighting.log_vars = LOG_VARS
    return weighting


def validated(weighting, **losses):
    weighting.eval().held_out.begin()
    weighting({name: torch.tensor(loss) for name, loss in losses.items()})
    assert weighting.held_out.end()
    weighting.train()
    return weighting


@pytest.mark.parametrize(
    ("task", "prediction", "expected"),
    [
        ("a", MEAN, Normal(MEAN, 2.0)),
        ("b", MEAN, Laplace(MEAN, 3.0)),
        ("c", LOGITS, Categorical(logits=LOGITS)),  # although sigma^2 = e
        ("d", MEAN, Bernoulli(logits=MEAN)),
        ("e", LOGITS, Categorical(logits=LOGITS / 2.0)),  # its own sigma^2
    ],
)
def test_it_is_that_of_the_likelihood_with_the_noise_of_the_task(task, prediction, expected):
    got = engine().predictive(task, prediction)
    assert type(got) is type(expected)
    torch.testing.assert_close(got.mean, expected.mean, equal_nan=True)
    torch.testing.assert_close(
        got.log_prob(torch.ones(len(prediction))), expected.log_prob(torch.ones(len(prediction)))
    )


def test_intervals_cover_what_they_should_where_the_noise_is_known():
    noise = torch.randn(20_000, generator=torch.Generator().manual_seed(0)) * 2.0
    got = engine().predictive("a", torch.zeros(20_000))
    low, high = (got.icdf(torch.tensor(p)) for p in (0.05, 0.95))
    assert ((low < noise) & (noise < high)).float().mean().item() == pytest.approx(0.9, abs=0.01)


@pytest.mark.parametrize("task", ["a", "f"])
def test_with_a_log_var_of_a_head_the_noise_is_that_of_the_head(task):
    log_var = torch.tensor([0.0, 2.0, -4.0])
    got = engine().predictive(task, MEAN, log_var)
    torch.testing.assert_close(got.scale, torch.exp(0.5 * log_var))
    assert type(engine().predictive("b", MEAN, log_var)) is Laplace
    assert type(engine().predictive(task, MEAN, log_var, likelihood="laplace")) is Laplace


def test_classes_of_pixels_have_a_distribution_for_each_pixel():
    logits = torch.randn(2, 5, 3, 4, generator=torch.Generator().manual_seed(0))
    got = engine().predictive("c", logits)
    assert got.batch_shape == (2, 3, 4)
    target = torch.randint(5, (2, 3, 4), generator=torch.Generator().manual_seed(1))
    torch.testing.assert_close(-got.log_prob(target), F.cross_entropy(logits, target, reduction="none"))


def test_half_precision_is_lifted_and_the_gradient_reaches_the_network():
    mean = torch.tensor([1.0], dtype=torch.float16, requires_grad=True)
    got = engine().predictive("a", mean)
    assert got.scale.dtype == torch.float32
    got.log_prob(torch.tensor([3.0])).sum().backward()
    assert mean.grad.item() == 0.5


@pytest.mark.parametrize(("kind", "shape"), [(GAUSSIAN, (3,)), (SOFTMAX, (3, 2))], ids=str)
def test_the_noise_goes_to_the_device_of_the_prediction(kind, shape):
    got = distribution(kind, torch.zeros(shape, device="meta"), torch.tensor(1.0), checked=False)
    found = got.scale if kind is GAUSSIAN else got.logits
    assert found.device.type == "meta"


# ---------------------------------------------------------------------------------------------------- which data


def test_sigma_comes_from_the_data_that_are_asked_for_and_the_weights_from_training():
    weighting = validated(engine(), a=25.0, b=7.0)
    factors = weighting.weights
    assert weighting.predictive("a", MEAN).scale[0].item() == pytest.approx(2.0)
    weighting.sigma_from = "validation"
    assert weighting.predictive("a", MEAN).scale[0].item() == pytest.approx(5.0)
    assert weighting.predictive("b", MEAN).scale[0].item() == pytest.approx(7.0)
    assert weighting.weights == factors


@pytest.mark.parametrize(
    ("task", "prediction", "call"),
    [
        ("a", (MEAN,), r"self\.weigh\(losses\)"),
        ("a", (MEAN, MEAN), r"self\.uncertainty\.score\('a', \.\.\.\)"),
        ("f", (MEAN, MEAN), r"self\.uncertainty\.score\('f', "),
        ("c", (LOGITS,), r"self\.uncertainty\.score\('c', "),
    ],
)
def test_without_a_validation_the_noise_is_that_of_training_and_it_says_so_once(task, prediction, call):
    weighting, trained = engine(sigma_from="validation"), engine()
    with pytest.warns(UncertaintyWarning, match=rf"Task '{task}': sigma_from is 'validation', but .*{call}") as told:
        found = [weighting.predictive(task, *prediction) for _ in range(2)]
    assert len(told) == 1
    expected = trained.predictive(task, *prediction)
    for got in found:
        torch.testing.assert_close(got.mean, expected.mean, equal_nan=True)
        torch.testing.assert_close(got.variance, expected.variance, equal_nan=True)


def test_sigma_comes_from_one_of_two_places_also_if_set_later():
    weighting = engine()
    with pytest.raises(ValueError, match="sigma_from must be one of 'training', 'validation'; got 'valid'"):
        weighting.sigma_from = "valid"
    assert weighting.sigma_from == "training"


def test_a_strategy_without_a_sigma_predicts_with_that_of_the_validation():
    weighting = validated(UncertaintyWeighting({"a": "gaussian"}, strategy="fixed"), a=25.0)
    assert weighting.predictive("a", MEAN).scale[0].item() == pytest.approx(5.0)


def test_a_checkpoint_keeps_which_data_sigma_comes_from():
    file = io.BytesIO()
    torch.save(validated(engine(sigma_from="validation"), a=25.0).state_dict(), file)
    file.seek(0)
    twin = UncertaintyWeighting.from_state_dict(torch.load(file, weights_only=True))
    assert twin.predictive("a", MEAN).scale[0].item() == pytest.approx(5.0)


@pytest.mark.parametrize(
    ("options", "arguments", "words"),
    [
        ({}, ("z", MEAN), r"Unknown task 'z'. Known: 'a', "),
        ({}, ("f", MEAN), r"'nll' has no distribution here. .*`predictive\(name, mean, log_var, likelihood="),
        (
            {},
            ("c", LOGITS, LOGITS),
            r"log_var was given for task 'c'\. Expected .* 'softmax'\. .*`predictive\('c', logits\)",
        ),
        ({}, ("d", MEAN, MEAN), r"Expected it for a regression only.* its likelihood is 'bernoulli'"),
        ({}, ("e", LOGITS, LOGITS), r"its likelihood is 'softmax_exact'"),
        (
            {},
            ("g", MEAN, MEAN),
            r"its likelihood is 'fixed'.*`predictive\('g', mean, log_var, likelihood=\"gaussian\"\)",
        ),
        ({"init": "auto"}, ("a", MEAN), r"Task 'a' has no sigma to predict with. Expected one that was learned, or a"),
    ],
)
def test_what_cannot_be_predicted_is_refused_with_what_to_write(options, arguments, words):
    weighting = UncertaintyWeighting(KINDS, **{"init": 0.0, **options})
    with pytest.raises(ValueError, match=words):
        weighting.predictive(*arguments)


def test_a_likelihood_of_ones_own_has_no_distribution_and_no_other_data_than_two():
    weighting = UncertaintyWeighting({"a": Likelihood("own")}, init=0.0)
    with pytest.raises(ValueError, match="'own' has no distribution here"):
        weighting.predictive("a", MEAN)
    with pytest.raises(ValueError, match="sigma_from must be one of 'training', 'validation'; got 'test'"):
        UncertaintyWeighting(KINDS, sigma_from="test")


def test_an_exact_softmax_predicts_with_the_temperature_that_it_has_learned():
    """Logits that are three times too large, and labels that follow the softmax of a third of them."""
    generator = torch.Generator().manual_seed(0)
    logits = 3.0 * torch.randn(4000, 4, generator=generator)
    labels = Categorical(logits=logits / 3.0).sample()
    weighting = UncertaintyWeighting({"e": "softmax_exact"}, lr=0.05)
    for _ in range(300):
        weighting({"e": CrossEntropy(logits.clone().requires_grad_(), labels)}).backward()
        weighting.step()
    got = -weighting.predictive("e", logits).log_prob(labels).mean()
    assert got < 1.01 * F.cross_entropy(logits / 3.0, labels)
    assert got < 0.9 * F.cross_entropy(logits, labels)
