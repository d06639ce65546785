"""Distributions of predictions: which family, with which noise."""

import io
import math

import pytest
import torch
from torch.distributions import Bernoulli, Categorical, Distribution, Laplace, Normal
from torch.nn import functional as F

from lightning_uncertainty import CrossEntropy, Task, UncertaintyWarning
from lightning_uncertainty.likelihoods import GAUSSIAN, LAPLACE, SOFTMAX, Likelihood
from lightning_uncertainty.predictive import distribution, noisy_cross_entropy
from lightning_uncertainty.tasks import parse_tasks
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


@pytest.mark.parametrize("likelihood", ["nll", 0.1])
def test_a_task_says_once_what_its_head_predicts_and_a_checkpoint_keeps_it(likelihood):
    log_var, log_std = torch.tensor([0.0, 2.0, -4.0]), torch.full((2, 1), -20.0)
    tasks = [Task(head, likelihood, head=head) for head in ("gaussian", "laplace", "softmax")]
    weighting = UncertaintyWeighting(tasks)
    for found in (weighting, UncertaintyWeighting.from_state_dict(weighting.state_dict())):
        assert type(found.predictive("gaussian", MEAN, log_var)) is Normal
        assert type(found.predictive("laplace", MEAN, log_var)) is Laplace
        torch.testing.assert_close(found.predictive("laplace", MEAN, log_var).scale, torch.exp(0.5 * log_var))
        assert type(found.predictive("softmax", LOGITS, log_std=log_std)) is Categorical
    assert parse_tasks({"wind": {"likelihood": likelihood, "head": "laplace"}})[0].head == "laplace"


def test_a_head_is_one_of_three_and_for_a_loss_in_nats():
    with pytest.raises(ValueError, match="head must be one of 'gaussian', 'laplace', 'softmax'; got 'nll'"):
        Task("a", "nll", head="nll")
    with pytest.raises(
        ValueError, match=r"head='laplace' and the likelihood 'gaussian'\. Expected .*; write `Task\('a', "
    ):
        Task("a", "gaussian", head="laplace")


# ---------------------------------------------------------------------------------------------------- noisy logits


@pytest.mark.parametrize(("task", "shape"), [("c", (2, 3)), ("c", (2, 3, 4)), ("n", (2, 3))])
def test_noisy_logits_predict_the_mean_of_the_softmax_over_the_noise(task, shape):
    """Against many samples of it in double precision; without noise, it is the softmax."""
    generator = torch.Generator().manual_seed(0)
    logits, log_std = torch.randn(shape, generator=generator), 0.3 * torch.randn(shape, generator=generator)
    weighting = UncertaintyWeighting([Task("c", "softmax"), Task("n", "nll", head="softmax")], init=0.0)
    got = weighting.predictive(task, logits, log_std=log_std)
    noise = torch.randn((20_000, *shape), generator=generator, dtype=torch.float64)
    expected = torch.softmax(logits + log_std.exp() * noise, 2).mean(0)
    torch.testing.assert_close(got.probs.movedim(-1, 1).double(), expected, rtol=0.0, atol=0.1)
    assert (got.probs.movedim(-1, 1) - expected).abs().mean() < 0.02
    again = weighting.predictive(task, logits, log_std=log_std)
    assert torch.equal(got.probs, again.probs)  # the same input, the same prediction
    label = got.probs.argmax(-1)
    loss = noisy_cross_entropy(logits, log_std, label, 5000, reduction="none", generator=generator)
    torch.testing.assert_close(-got.log_prob(label), loss, rtol=0.0, atol=0.15)
    sharp = weighting.predictive(task, logits, log_std=torch.full((2, *[1] * (len(shape) - 1)), -20.0))
    torch.testing.assert_close(sharp.probs, weighting.predictive(task, logits).probs, rtol=1e-5, atol=1e-6)


def test_a_prediction_of_noisy_logits_takes_nothing_from_the_random_numbers_of_the_training():
    torch.manual_seed(0)
    expected = torch.rand(1)
    torch.manual_seed(0)
    engine().predictive("c", LOGITS, log_std=torch.zeros(2, 1))
    assert torch.equal(torch.rand(1), expected)


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
        ("a", (MEAN,), r"self\.weigh\(losses\)` \(without UncertaintyMixin `callback\.weighting\(losses\)`"),
        ("a", (MEAN, MEAN), r"self\.uncertainty\.score\('a', \.\.\.\)` .*`callback\.weighting\.score\('a', \.\.\.\)`"),
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
        ({}, ("f", MEAN), r"'f' is 'nll' and has no sigma of its own.* Write `predictive\('f', mean, log_var\)`"),
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
            r"its likelihood is 'fixed'.*`Task\('g', \"nll\", head=\"gaussian\"\)",
        ),
        ({}, ("a", MEAN, MEAN[:2]), r"The mean has shape \(3,\) and log_var \(2,\)\. Expected one log-variance"),
        ({}, ("f", MEAN, MEAN[:, None]), r"log_var \(3, 1\)\. Expected one log-variance for each mean"),
        ({}, ("a", MEAN * math.nan), r"Expected parameter loc"),
        ({"init": "auto"}, ("a", MEAN), r"Task 'a' has no sigma to predict with. Expected one that was learned, or a"),
    ],
)
def test_what_cannot_be_predicted_is_refused_with_what_to_write(options, arguments, words):
    weighting = UncertaintyWeighting(KINDS, **{"init": 0.0, **options})
    with pytest.raises(ValueError, match=words):
        weighting.predictive(*arguments)


def test_a_number_that_is_not_finite_is_refused_whatever_the_compiler_has_done():
    """Once torch has compiled anything, its distributions check nothing by default."""
    Distribution.set_default_validate_args(False)
    try:
        with pytest.raises(ValueError, match="Expected parameter loc"):
            UncertaintyWeighting(KINDS, init=0.0).predictive("a", MEAN * math.nan)
    finally:
        Distribution.set_default_validate_args(True)


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


@pytest.mark.parametrize("call", ["predictive", "score"])
@pytest.mark.parametrize(
    ("task", "noise", "words"),
    [
        (
            "a",
            {"log_std": MEAN},
            r"log_std was given for task 'a'.* is 'gaussian'.*`Task\('a', \"nll\", head=\"softmax\"\)",
        ),
        ("d", {"log_std": MEAN}, "log_std was given for task 'd'. Expected it for logits of several classes"),
        ("c", {"log_std": MEAN}, r"The logits have shape \(2, 3\) and log_std \(1, 2, 3\)"),
    ],
)
def test_noise_of_logits_that_does_not_fit_is_refused(call, task, noise, words):
    weighting = engine()
    noise = {"log_std": LOGITS[None]} if task == "c" else noise
    first, target = (LOGITS, torch.tensor([0, 1])) if task == "c" else (MEAN, MEAN)
    weighting.begin_scores()
    with pytest.raises(ValueError, match=words):
        getattr(weighting, call)(task, *([first] if call == "predictive" else [first, target]), **noise)


def test_what_is_no_tensor_cannot_be_predicted_or_scored():
    weighting = engine()
    weighting.begin_scores()
    for call in (
        lambda: weighting.predictive("a", 3.0),
        lambda: weighting.predictive("c", [[1.0, 2.0]]),
        lambda: weighting.predictive("f", MEAN, 0.5),
        lambda: weighting.predictive("c", LOGITS, log_std=0.5),
        lambda: weighting.score("a", 3.0, MEAN),
        lambda: weighting.score("a", MEAN, 3.0),
        lambda: weighting.score("f", MEAN, MEAN, 0.5),
        lambda: weighting.score("c", LOGITS, [0, 1]),
        lambda: weighting.score("a", MEAN, MEAN, mask=True),
        lambda: distribution(GAUSSIAN, 3.0, 0.0),
    ):
        with pytest.raises(TypeError, match=r"Expected \w+ as a tensor; got "):
            call()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16], ids=str)
@pytest.mark.parametrize("s", [-20000.0, -400.0, 400.0, 20000.0])
def test_a_head_whose_log_variance_is_far_out_has_a_distribution_all_the_same(s, dtype):
    got = engine().predictive("f", torch.zeros(2, dtype=dtype), torch.full((2,), s, dtype=dtype))
    assert got.scale.tolist() == pytest.approx([math.exp(math.copysign(15.0, s))] * 2, rel=1e-5)
    assert got.log_prob(torch.zeros(2)).isfinite().all()


@pytest.mark.parametrize("regularizer", ["log_sigma", "sigma", "log1p_var"])
@pytest.mark.parametrize("source", ["training", "validation"])
def test_whatever_the_regularizer_the_interval_is_that_of_the_likelihood(regularizer, source):
    weighting = UncertaintyWeighting(
        {"a": "gaussian", "b": "laplace"}, regularizer=regularizer, sigma_from=source, min_variance_ratio=0.0
    )
    loss = {"a": 0.04, "b": 7.0}
    kinds = {"a": GAUSSIAN, "b": LAPLACE}
    weighting.log_vars = {
        name: kinds[name].optimum(torch.tensor(x), weighting.regularizer).item() for name, x in loss.items()
    }
    validated(weighting, **loss)
    assert weighting.predictive("a", MEAN).scale[0].item() == pytest.approx(0.2, rel=1e-4)
    assert weighting.predictive("b", MEAN).scale[0].item() == pytest.approx(7.0, rel=1e-4)
    assert weighting.sigmas_val == pytest.approx({"a": 0.2, "b": 7.0}, rel=1e-4)
