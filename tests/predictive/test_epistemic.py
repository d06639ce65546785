"""What passes with dropout or networks do not agree on, against closed forms."""

import math
import weakref

import pytest
import torch
from torch import nn
from torch.distributions import Bernoulli, Categorical, Laplace, MultivariateNormal, Normal

from lightning_uncertainty import UncertaintyWarning, UncertaintyWeighting
from lightning_uncertainty.predictive import decompose, dropout_on

SAMPLES = 4000


def posterior(sigma=0.5, rows=12, seed=0):
    """Bayesian linear regression with a standard normal prior: data, and the exact posterior of its weights."""
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(rows, 3, generator=generator, dtype=torch.float64)
    y = x @ torch.tensor([1.0, -2.0, 0.5], dtype=torch.float64)
    y = y + sigma * torch.randn(rows, generator=generator, dtype=torch.float64)
    covariance = torch.linalg.inv(torch.eye(3, dtype=torch.float64) + x.T @ x / sigma**2)
    return covariance @ x.T @ y / sigma**2, covariance


def test_samples_of_an_exact_posterior_give_the_parts_of_its_predictive_distribution():
    """mean x'm, epistemic x'Sx, aleatoric sigma^2: also far from the data, where only the epistemic part grows."""
    sigma = 0.5
    mean, covariance = posterior(sigma)
    at = torch.tensor([[0.1, 0.0, 0.0], [1.0, 1.0, 1.0], [9.0, -7.0, 8.0]], dtype=torch.float64)
    torch.manual_seed(0)
    weights = MultivariateNormal(mean, covariance).sample((SAMPLES,))
    weighting = UncertaintyWeighting({"y": "gaussian"}, init=0.0)
    weighting.sigmas = {"y": sigma}
    parts = decompose(weighting.predictive("y", at @ w) for w in weights)
    epistemic = (at @ covariance * at).sum(1)
    error = 5.0 * math.sqrt(2.0 / SAMPLES)  # five standard errors of a variance
    torch.testing.assert_close(parts.epistemic, epistemic, rtol=error, atol=0.0)
    torch.testing.assert_close(parts.aleatoric, torch.full((3,), sigma**2).double(), rtol=1e-6, atol=0.0)
    torch.testing.assert_close(parts.total, epistemic + sigma**2, rtol=error, atol=0.0)
    assert (parts.mean - at @ mean).abs().lt(5.0 * (epistemic / SAMPLES).sqrt()).all()
    assert parts.epistemic[2] > 100.0 * parts.epistemic[0]
    torch.testing.assert_close(parts.distribution().variance, parts.total)


def test_equation_9_with_a_variance_head():
    generator = torch.Generator().manual_seed(0)
    means, log_vars = (torch.randn(7, 5, generator=generator, dtype=torch.float64) for _ in range(2))
    parts = decompose(Normal(m, torch.exp(0.5 * s)) for m, s in zip(means, log_vars, strict=True))
    total = (means**2).mean(0) - means.mean(0) ** 2 + log_vars.exp().mean(0)
    torch.testing.assert_close(parts.total, total)
    torch.testing.assert_close(parts.epistemic, means.var(0, correction=0))
    torch.testing.assert_close(parts.mean, means.mean(0))
    assert parts.samples == 7


def test_a_laplace_task_has_the_variance_of_its_distribution():
    parts = decompose(Laplace(torch.tensor([m]), 3.0) for m in (0.0, 2.0))
    assert parts.aleatoric.item() == pytest.approx(2.0 * 3.0**2)
    assert parts.epistemic.item() == 1.0


def test_classes_have_entropies_and_the_mutual_information():
    def entropy(*p):
        return -sum(x * math.log(x) for x in p if x)

    logits = [torch.tensor([[0.9, 0.1], [0.5, 0.5]]).log(), torch.tensor([[0.1, 0.9], [0.5, 0.5]]).log()]
    parts = decompose(Categorical(logits=each) for each in logits)
    assert parts.total.tolist() == pytest.approx([entropy(0.5, 0.5)] * 2)
    assert parts.aleatoric.tolist() == pytest.approx([entropy(0.9, 0.1), entropy(0.5, 0.5)])
    assert parts.epistemic.tolist() == pytest.approx([entropy(0.5, 0.5) - entropy(0.9, 0.1), 0.0], abs=1e-7)
    torch.testing.assert_close(parts.distribution().probs, torch.full((2, 2), 0.5))
    binary = decompose(Bernoulli(torch.tensor([p, 0.5])) for p in (0.9, 0.1))
    torch.testing.assert_close(binary.epistemic, parts.epistemic)
    torch.testing.assert_close(binary.distribution().probs, torch.tensor([0.5, 0.5]))


def test_all_tasks_at_once_and_an_ensemble_whose_members_have_sigmas_of_their_own():
    members = []
    for sigma in (1.0, 3.0):
        weighting = UncertaintyWeighting({"depth": "gaussian", "kind": "softmax"}, init=0.0)
        weighting.sigmas = {"depth": sigma}
        members.append((nn.Linear(2, 4), weighting))
    x = torch.randn(5, 2)

    def predict(net, weighting):
        output = net(x)
        return {
            "depth": weighting.predictive("depth", output[:, 0]),
            "kind": weighting.predictive("kind", output[:, 1:]),
        }

    parts = decompose(predict(*member) for member in members)
    assert parts["depth"].aleatoric.tolist() == pytest.approx([5.0] * 5)
    one, other = (net(x)[:, 0] for net, _ in members)
    torch.testing.assert_close(parts["depth"].epistemic, ((one - other) / 2).square().detach())
    assert parts["kind"].mean.shape == (5, 3)
    assert not parts["depth"].mean.requires_grad


def test_nothing_of_a_sample_is_kept():
    alive = []

    def passes():
        for _ in range(20):
            mean = torch.randn(1000)
            alive.append(weakref.ref(mean))
            yield Normal(mean, 1.0)
            del mean
            assert sum(each() is not None for each in alive) <= 2

    assert decompose(passes()).samples == 20


@pytest.mark.parametrize("count", [0, 1])
def test_one_sample_agrees_with_itself(count):
    with pytest.raises(ValueError, match=f"Got {count} samples. Expected the distributions of at least two"):
        decompose(Normal(torch.zeros(2), 1.0) for _ in range(count))


# ---------------------------------------------------------------------------------------------------- dropout


def net():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(3, 50), nn.BatchNorm1d(50), nn.ReLU(), nn.Dropout(0.5), nn.Linear(50, 1))


@pytest.mark.parametrize("training", [True, False])
def test_only_dropout_is_on_and_each_layer_is_as_it_was_afterwards(training):
    module, x = net().train(training), torch.randn(8, 3)
    module[0].eval()  # a layer that somebody has frozen
    before, statistics = [layer.training for layer in module.modules()], module[1].running_mean.clone()
    with dropout_on(module):
        assert [layer.training for layer in module] == [False, False, False, True, False]
        assert not torch.equal(module(x), module(x))
    assert [layer.training for layer in module.modules()] == before
    assert torch.equal(module[1].running_mean, statistics)
    with pytest.raises(RuntimeError, match="on the way"), dropout_on(module):
        raise RuntimeError("on the way")
    assert [layer.training for layer in module.modules()] == before


@pytest.mark.parametrize(
    "layer",
    [
        nn.TransformerEncoderLayer(4, 2, dropout=0.5, batch_first=True),
        nn.LSTM(4, 4, num_layers=2, dropout=0.5, batch_first=True),
        nn.Sequential(nn.Dropout1d(0.5)),
        nn.AlphaDropout(0.5),
    ],
    ids=lambda layer: type(layer).__name__,
)
def test_dropout_inside_other_layers_is_on_too(layer):
    x = torch.randn(2, 6, 4)
    with torch.no_grad(), dropout_on(layer.eval()):
        one, other = layer(x), layer(x)
    one, other = (each[0] if isinstance(each, tuple) else each for each in (one, other))
    assert not torch.equal(one, other)
    assert not any(each.training for each in layer.modules())


@pytest.mark.parametrize("module", [nn.Linear(1, 1), nn.Dropout(0.0), nn.LSTM(1, 1), nn.BatchNorm1d(1)], ids=str)
def test_a_module_without_dropout_is_refused_since_all_its_passes_are_the_same(module):
    with pytest.raises(ValueError, match="has no dropout layer with a probability above 0"), dropout_on(module):
        pass


class DropPath(nn.Module):
    """As in timm: in training it drops whole samples."""

    def forward(self, x):
        return x * torch.rand(len(x), *[1] * (x.dim() - 1)).lt(0.5) if self.training else x


@pytest.mark.parametrize("inside", [False, True])
def test_layers_that_are_random_in_training_can_be_named_by_their_class(inside):
    x, layer = torch.randn(8, 2), DropPath()
    if inside:
        layer = nn.TransformerEncoderLayer(2, 1, dim_feedforward=2, dropout=0.0, batch_first=True)
        layer.dropout1, x = DropPath(), x[:, None]
    module = nn.Sequential(layer, nn.BatchNorm1d(1 if inside else 2)).eval()
    with pytest.raises(ValueError, match=r"named by their class: `dropout_on\(net, DropPath\)`"), dropout_on(module):
        pass
    with torch.no_grad(), dropout_on(module, DropPath):
        assert not torch.equal(module(x), module(x))
        assert not module[1].training
    assert not any(each.training for each in module.modules())
    for wrong in (layer, "DropPath", int):
        with pytest.raises(TypeError, match=r"Expected classes of further layers"), dropout_on(module, wrong):
            pass


def test_passes_with_dropout_disagree_more_far_from_the_data():
    torch.manual_seed(0)
    x = torch.randn(200, 1) * 0.5
    model = nn.Sequential(nn.Linear(1, 64), nn.ReLU(), nn.Dropout(0.2), nn.Linear(64, 1))
    optimizer = torch.optim.Adam(model.parameters(), 0.01)
    for _ in range(300):
        optimizer.zero_grad()
        (model(x) - x.sin()).square().mean().backward()
        optimizer.step()
    at = torch.tensor([[0.1], [4.0]])
    with dropout_on(model):
        parts = decompose(Normal(model(at), 1.0) for _ in range(100))
    assert parts.epistemic[1] > 10.0 * parts.epistemic[0]
    assert torch.equal(parts.aleatoric[0], parts.aleatoric[1])


# ---------------------------------------------------------------------------------------------------- misuse


def test_a_generator_that_is_consumed_after_dropout_is_off_again_is_told_of():
    module, x = net().eval(), torch.randn(8, 3)
    with dropout_on(module):
        late = (Normal(module(x), 1.0) for _ in range(5))
    with pytest.warns(
        UncertaintyWarning, match=r"All 5 samples predict the same.* inside of `with dropout_on\(net\):`"
    ):
        parts = decompose(late)
    assert not parts.epistemic.any()
    with dropout_on(module):
        assert decompose(Normal(module(x), 1.0) for _ in range(5)).epistemic.all()


def test_a_task_without_dropout_beside_one_that_has_it_is_no_fault():
    tasks = ({"a": Normal(torch.zeros(2), 1.0), "b": Normal(torch.tensor([m, m]), 1.0)} for m in (0.0, 1.0))
    assert decompose(tasks)["a"].epistemic.tolist() == [0.0, 0.0]
    assert decompose(Normal(torch.zeros(0), 1.0) for _ in range(2)).epistemic.shape == (0,)


def test_an_ensemble_is_a_function_of_its_trained_networks():
    nets = [nn.Linear(2, 1), nn.Linear(2, 1)]
    weighting, x = UncertaintyWeighting({"depth": "gaussian"}, init=0.0), torch.randn(4, 2)
    parts = decompose(weighting.predictive("depth", each(x)) for each in nets)
    torch.testing.assert_close(parts.mean, (nets[0](x) + nets[1](x)).detach() / 2)
    words = r"got Linear\(in_features=2.* of type Linear\. For an ensemble write `decompose\(predict\(net\) for net in"
    with pytest.raises(TypeError, match=words):
        decompose(nets)


@pytest.mark.parametrize(
    ("samples", "error", "words"),
    [
        (Normal(torch.zeros(2), 1.0), TypeError, r"got one Normal\. Write `decompose\(predict\(x\) for _ in range"),
        ({"a": Normal(0.0, 1.0)}, TypeError, "got one dict"),
        (7, TypeError, "got one int"),
        ([torch.zeros(2)] * 2, TypeError, "of type Tensor"),
        ([{"a": torch.zeros(2)}] * 2, TypeError, "of type Tensor"),
        ([{}, {}], ValueError, "Got 2 samples. Expected the distributions"),
        (
            [{"a": Normal(0.0, 1.0)}, {"b": Normal(0.0, 1.0)}],
            ValueError,
            "Sample 2 has the tasks 'b', and the first one 'a'",
        ),
        ([Normal(torch.zeros(2), 1.0), Normal(torch.zeros(3), 1.0)], ValueError, r"of shape \(3,\), and those before"),
        ([Normal(torch.zeros(2), 1.0), Laplace(torch.zeros(2), 1.0)], ValueError, "is a Laplace .* before are Normal"),
    ],
)
def test_samples_that_cannot_be_decomposed_are_refused_with_what_to_write(samples, error, words):
    with pytest.raises(error, match=words):
        decompose(samples)


def test_dropout_is_that_of_a_module():
    with (
        pytest.raises(TypeError, match=r"Expected the module .* got 0\.5 of type float\. Write `with dropout_on"),
        dropout_on(0.5),
    ):
        pass
