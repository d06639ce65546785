"""The way from the plain sum to the learned weights, and the tasks that are held at it."""

import math

import pytest
import torch

from lightning_uncertainty import UncertaintyWeighting

KINDS = {"a": "gaussian", "b": "laplace", "c": "softmax", "aux": 0.25}


def losses_at(step, rising=None):
    noise = torch.rand(4, generator=torch.Generator().manual_seed(step)) + 0.5
    values = noise * torch.tensor([300.0, 2.0, 0.01, 1.0]) * 0.99**step
    if rising is not None:  # at first it falls
        values[rising] = 1e-4 * (max(1.0 - 0.2 * step, 0.3) if step < 8 else min(1.0 + 3.0 * (step - 7), 100.0))
    return values


def engine(steps=20, **options):
    weighting = UncertaintyWeighting(KINDS, **{"lr": 0.01, **options})
    weighting.expect(10 * steps)
    return weighting


def train(weighting, steps, first=0, rising=None, after=lambda: None):
    """Return the factor of each loss, of shape (steps, 4)."""
    factors = []
    for step in range(first, first + steps):
        values = losses_at(step, rising).requires_grad_()
        weighting(dict(zip(weighting.tasks, values, strict=True))).backward()
        weighting.step()
        factors.append(values.grad)
        after()
    return torch.stack(factors)


class Oracle:
    """The rule in float64, one number at a time, from the text of the class."""

    kinds = ((1.0, 0.5), (0.5, 1.0), (1.0, 1.0))  # rate and coefficient

    def __init__(self, n):
        self.last, self.spread = None, [0.0] * 3
        self.n, self.s, self.held, self.mean, self.first, self.lowest = n, None, [False] * 3, None, None, None

    def factors(self, step, losses):
        """Return the factors of a step: those from what came before it."""
        trust = min(1.0, max(0.0, (step - self.n + 1) / self.n))
        if self.s is None or trust == 0.0:
            return [1.0, 1.0, 1.0]
        free = [k for k in range(3) if not self.held[k]]
        rates = [self.kinds[k][0] for k in range(3)]
        full = [c * math.exp(-r * s) for (r, c), s in zip(self.kinds, self.s, strict=True)]
        expected = [0.5 / (r * f) for r, f in zip(rates, full, strict=True)]
        common = sum(expected[k] for k in free) / sum(full[k] * expected[k] for k in free)
        return [(common * full[k]) ** trust if k in free else 1.0 for k in range(3)]

    def learn(self, step, losses):
        logs = [math.log(loss) for loss in losses]
        if self.mean is None:
            self.mean, self.first, self.lowest = logs, logs, logs
        last, part = self.last or logs, 1.0 / min(max(step, 1), 50)
        self.spread = [a + (abs(x - y) - a) * part for a, x, y in zip(self.spread, logs, last, strict=True)]
        self.last, part = logs, 1.0 / min(step + 1, 10)
        self.mean = [mean + (log - mean) * part for mean, log in zip(self.mean, logs, strict=True)]
        if step < self.n:
            self.lowest = [min(pair) for pair in zip(self.lowest, self.mean, strict=True)]
        low = self.lowest if step < self.n else self.first
        limits = [base + 3.0 * spread + math.log(3.0) for base, spread in zip(low, self.spread, strict=True)]
        risen = [mean > limit for mean, limit in zip(self.mean, limits, strict=True)]
        self.held = [one or other for one, other in zip(self.held, risen, strict=True)]
        means = [math.exp(mean) for mean in self.mean]
        self.s = [math.log(means[0]), 2.0 * math.log(means[1]), math.log(2.0 * means[2])]


@pytest.mark.parametrize("rising", [None, 0, 1, 2])
def test_the_factors_are_those_of_the_rule_in_float64(rising):
    """Until 2n - 1 steps, in which s follows the means; afterwards it learns."""
    weighting, oracle = engine(), Oracle(20)
    factors = train(weighting, 39, rising=rising)
    expected = []
    for step in range(39):
        losses = losses_at(step, rising).double().tolist()[:3]
        expected.append(oracle.factors(step, losses))
        oracle.learn(step, losses)
    torch.testing.assert_close(
        factors[:, :3].double(), torch.tensor(expected, dtype=torch.float64), rtol=2e-4, atol=1e-6
    )
    assert (factors[:, 3] == 0.25).all()
    assert [task.held for task in weighting.snapshot().tasks.values()] == [*oracle.held, False]
    assert sum(oracle.held) == (rising is not None)


def test_it_begins_with_the_plain_sum_and_ends_with_the_learned_weights():
    guarded, free = engine(lr=0.05), engine(guard=False, lr=0.05)
    start = train(guarded, 20)
    assert (start[:, :3] == 1.0).all()
    train(guarded, 300, first=20)
    train(free, 320)
    torch.testing.assert_close(guarded.log_var, free.log_var, rtol=0.0, atol=0.15)
    assert guarded.snapshot().metrics()["uncertainty/trust"] == 1.0


def test_sigma_is_there_from_the_first_step_and_follows_the_losses():
    weighting = engine()
    train(weighting, 1)
    loss = losses_at(0)
    assert weighting.sigmas["a"] ** 2 == pytest.approx(loss[0].item(), rel=1e-5)
    assert weighting.sigmas["b"] == pytest.approx(loss[1].item(), rel=1e-5)


@pytest.mark.parametrize(("run", "steps"), [(math.inf, 200), (5000, 200), (400, 40), (10, 1), (1, 1)])
def test_a_short_run_has_fewer_steps_of_the_plain_sum(run, steps):
    weighting = UncertaintyWeighting(KINDS)
    weighting.expect(run)
    factors = train(weighting, steps + 1)
    assert (factors[:steps, :3] == 1.0).all()
    assert (factors[steps, :3] != 1.0).all()


@pytest.mark.parametrize("at", [5, 20, 30, 39, 60])
@pytest.mark.parametrize("rising", [None, 2])
def test_resumed_it_goes_on_bit_for_bit(at, rising):
    whole, first, second = engine(), engine(), engine()
    train(whole, 70, rising=rising)
    train(first, at, rising=rising)
    second.load_state_dict(first.state_dict())
    train(second, 70 - at, first=at, rising=rising)
    assert second.snapshot() == whole.snapshot()


def test_a_state_from_before_there_was_a_guard_goes_on_with_full_trust():
    trained, resumed = engine(guard=False), engine()
    train(trained, 10)
    state = {
        k: v
        for k, v in trained.state_dict().items()
        if k
        not in (
            "trust",
            "held",
            "guarded",
            "first_log",
            "lowest_log",
            "last_log",
            "spread_log",
            "mean_log",
            "mean_steps",
        )
    }
    resumed.load_state_dict(state)
    assert torch.equal(train(resumed, 30, first=10), train(trained, 30, first=10))


def test_who_sets_the_weights_means_them():
    weighting = engine()
    train(weighting, 3)
    weighting.weights = {"a": 4.0}
    before = weighting.log_var
    values = losses_at(3).requires_grad_()
    weighting(dict(zip(KINDS, values, strict=True))).backward()
    assert values.grad[0] / values.grad[2] == pytest.approx(2.0 / weighting.weights["c"], rel=1e-4)
    weighting.step()
    torch.testing.assert_close(weighting.log_var, before, rtol=0.0, atol=0.011)  # it learns from there


def test_frozen_in_the_plain_sum_it_stays_there_and_goes_on_when_unfrozen():
    weighting = engine()
    train(weighting, 5)
    weighting.freeze()
    assert (train(weighting, 60, first=5)[:, :3] == 1.0).all()
    weighting.unfreeze()
    assert (train(weighting, 60, first=65)[-1, :3] != 1.0).all()


def test_missing_and_broken_losses_tell_nothing_and_a_late_task_is_looked_at_from_its_first():
    weighting = engine()
    for step in range(60):
        losses = dict(zip(KINDS, losses_at(step).requires_grad_(), strict=True))
        if step % 2:
            losses["a"] = losses["a"] * math.nan if step % 4 == 1 else losses["a"] * 0.0
        if step < 25:
            del losses["b"]
        elif step < 45:
            losses["b"] = losses["b"] * 0.0 + 1e-6 * (1.0 + 10.0 * (step - 25))
        total = weighting(losses)
        assert math.isfinite(total.item())
        total.backward()
        weighting.step()
    assert [task.held for task in weighting.snapshot().tasks.values()] == [False, True, False, False]


def test_held_tasks_are_told_of():
    weighting = engine()
    train(weighting, 45, rising=2)
    with pytest.warns(UserWarning, match=r"Task 'c' keeps the factor of the plain sum: its loss rose.*guard=False"):
        weighting.check()


def test_a_graph_has_the_same_factors():
    eager, compiled = engine(steps=2), engine(steps=2)
    call = torch.compile(lambda v: compiled(dict(zip(KINDS, v, strict=True))), fullgraph=True, backend="aot_eager")
    for step in range(8):
        grads = []
        for weighting, weigh in ((eager, lambda v: eager(dict(zip(KINDS, v, strict=True)))), (compiled, call)):
            values = losses_at(step, rising=1).requires_grad_()
            weigh(values).backward()
            weighting.step()
            grads.append(values.grad)
        torch.testing.assert_close(*grads)


@pytest.mark.parametrize("options", [{"scale": None}, {"guard": False}, {"strategy": "fixed"}])
def test_without_a_guard_the_weights_are_those_of_the_strategy_from_the_first_step(options):
    weighting = engine(**options) if "strategy" not in options else UncertaintyWeighting(KINDS, **options)
    (factors,) = train(weighting, 1)
    assert factors.tolist() == pytest.approx(weighting._factor.tolist())


@pytest.mark.parametrize(
    ("run", "lr"), [(None, 0.01), (math.inf, 0.01), (1000, 0.01), (200, 0.05), (50, 0.1), (1, 0.1)]
)
def test_lr_auto_follows_the_length_of_a_short_run(run, lr):
    weighting = UncertaintyWeighting({"a": "gaussian"})
    if run is not None:
        weighting.expect(run)
    assert weighting.strategy.adam.lr == pytest.approx(lr)


def test_a_given_lr_stays():
    weighting = UncertaintyWeighting({"a": "gaussian"}, lr=0.02)
    weighting.expect(50)
    assert weighting.strategy.adam.lr == 0.02


@pytest.mark.parametrize("steps", [100, 200, 500])
def test_sigma_arrives_in_a_short_fit(steps):
    """Sales in natural units: the loss falls from 1210^2 to 113^2, exponentially in the first half of the fit."""
    weighting = UncertaintyWeighting({"sales": "gaussian", "other": "softmax"})
    weighting.expect(steps)
    for step in range(steps):
        noise = 1.0 + 0.2 * torch.rand(2, generator=torch.Generator().manual_seed(step))
        fallen = (113.0 / 1210.0) ** min(1.0, 2.0 * step / steps)
        losses = noise * torch.tensor([(1210.0 * fallen) ** 2, 0.5])
        weighting(losses.requires_grad_()).backward()
        weighting.step()
    assert weighting.sigmas["sales"] == pytest.approx(113.0 * 1.1**0.5, rel=0.2)


@pytest.mark.parametrize("rows", [1, 2, 4, 16])
@pytest.mark.parametrize("seed", range(3))
def test_noise_alone_holds_nothing(rows, seed):
    """Means of few squared errors, which are far apart from step to step."""
    weighting, generator = UncertaintyWeighting(["a", "b", "c"]), torch.Generator().manual_seed(seed)
    weighting.expect(2000)
    for _ in range(400):
        losses = torch.randn(rows, 3, generator=generator).square().mean(0) * torch.tensor([1.0, 1e3, 1e-3])
        weighting(losses.requires_grad_()).backward()
        weighting.step()
    assert [task.held for task in weighting.snapshot().tasks.values()] == [False] * 3


def go_on(weighting, steps, values):
    for _ in range(steps):
        weighting(torch.tensor(values, requires_grad=True)).backward()
        weighting.step()
    return [task.trust for task in weighting.snapshot().tasks.values()]


def test_a_second_run_that_is_shorter_ends_the_guard():
    first, second = UncertaintyWeighting(["a", "b"]), UncertaintyWeighting(["a", "b"])
    first.expect(2000)
    assert go_on(first, 150, [2.0, 50.0]) == [0.0, 0.0]
    second.load_state_dict(first.state_dict())
    second.expect(400)
    assert go_on(second, 3, [2.0, 50.0]) == [1.0, 1.0]


def test_resumed_without_a_guard_the_weights_are_the_learned_ones():
    first, second = UncertaintyWeighting(["a", "b"]), UncertaintyWeighting(["a", "b"], guard=False)
    go_on(first, 250, [2.0, 50.0])
    second.load_state_dict(first.state_dict())
    assert go_on(second, 1, [2.0, 50.0]) == [1.0, 1.0]


@pytest.mark.parametrize("names", [["a", "b", "c"], ["c", "a", "b"]])
def test_a_task_that_is_new_at_a_resume_goes_the_way_of_the_others(names):
    first, second = UncertaintyWeighting(["a", "b"]), UncertaintyWeighting(names)
    go_on(first, 600, [2.0, 50.0])
    with pytest.warns(UserWarning, match="Task 'c' is not in the checkpoint"):
        second.load_state_dict(first.state_dict())
    losses = [7.0 if name == "c" else 50.0 for name in names]
    assert go_on(second, 150, losses) == [0.0 if name == "c" else 1.0 for name in names]
    assert go_on(second, 250, losses) == [1.0, 1.0, 1.0]


@pytest.mark.parametrize("kind", ["sum", "geometric", "a"])
@pytest.mark.parametrize("hidden", ["absent", "zero"])
def test_a_task_that_comes_late_is_guarded_from_its_first_loss(kind, hidden):
    """Its loss is small as it comes: without a guard it would have a factor of thousands at once."""
    names = ["a", "b", "late"]
    weighting, factors, loss = UncertaintyWeighting(names, scale=kind), [], 1e-4
    weighting.expect(200)  # n = 20
    for step in range(160):
        values = torch.tensor([4.0, 0.5, loss if step >= 100 else 0.0], requires_grad=True)
        shown = names[:2] if hidden == "absent" and step < 100 else names
        weighting(dict(zip(shown, values, strict=False))).backward()
        weighting.step()
        factors.append(values.grad)
    factors = torch.stack(factors)
    assert (factors[100:120, 2] == 1.0).all()
    assert [task.trust for task in weighting.snapshot().tasks.values()] == [1.0, 1.0, 1.0]
    changes = (factors[101:, :] / factors[100:-1, :]).log().abs().amax()
    assert changes < 0.8  # 1e-4 against 4 is 10.6 in logarithms, in 20 steps
    f = weighting._state.trust.new_tensor([1 / 8, 1.0, 1 / 2e-4])
    torch.testing.assert_close(factors[-1, 2] / factors[-1, 1], f[2] / f[1], rtol=0.05, atol=0.0)


def test_to_set_one_task_leaves_the_guard_to_those_that_have_not_come():
    weighting = UncertaintyWeighting(["data", "residual"])
    weighting.log_vars = {"data": -0.7}
    assert go_on(weighting, 2, [0.5, 4e-5]) == [1.0, 0.0]
    values = torch.tensor([0.5, 4e-5], requires_grad=True)
    weighting(values).backward()
    assert values.grad[1] == 1.0


def test_a_task_without_s_counts_as_in_the_plain_sum():
    weighting = UncertaintyWeighting({"mse": "gaussian", "nll": "gaussian", "aux": 0.25})
    values = torch.tensor([2.0, -0.3, 1.0], requires_grad=True)
    total = weighting(values)
    total.backward()
    assert total.item() == pytest.approx(1.95)
    assert values.grad.tolist() == [1.0, 1.0, 0.25]


@pytest.mark.parametrize("values", [[4.0, 0.5, 0.7], [4.0, 0.5, -0.7]])
def test_a_likelihood_in_nats_goes_the_way_of_the_others(values):
    weighting = UncertaintyWeighting({"a": "gaussian", "b": "gaussian", "c": "nll"})
    weighting.expect(200)  # n = 20
    assert go_on(weighting, 20, values) == pytest.approx([0.05] * 3)
    assert go_on(weighting, 30, values) == [1.0, 1.0, 1.0]
    twin = UncertaintyWeighting(weighting.tasks)
    twin.load_state_dict(weighting.state_dict())
    leaf = torch.tensor(values, requires_grad=True)
    twin(leaf).backward()
    common = (4.0 + 0.5) / (0.5 + 0.5)  # the scale "sum" of the two with a sigma
    assert leaf.grad.tolist() == pytest.approx([common / 8.0, common, common], rel=0.02)


@pytest.mark.parametrize(("count", "momentum", "lr"), [(3, 0.0, 0.1), (20, 0.0, 0.03), (100, 0.9, 0.0032)])
def test_sgd_near_its_largest_learning_rate_does_not_blow_up(count, momentum, lr):
    """Targets of sizes 0.1 to 10: at a weight of 100 the steps of a small one are a hundred times as long."""
    errors = {}
    for learned in (False, True):
        generator = torch.Generator().manual_seed(1)
        torch.manual_seed(1)
        size = 10 ** (2.0 * torch.rand(count, generator=generator) - 1.0)
        inputs = torch.randn(4000, 20, generator=generator)
        hidden = torch.tanh(inputs @ torch.randn(20, 30, generator=generator) / 20**0.5)
        targets = hidden @ torch.randn(30, count, generator=generator) / 30**0.5
        targets = (targets + 0.2 * torch.randn(4000, count, generator=generator)) * size
        net = torch.nn.Sequential(torch.nn.Linear(20, 64), torch.nn.ReLU(), torch.nn.Linear(64, count))
        optimizer = torch.optim.SGD(net.parameters(), lr=lr, momentum=momentum)
        weighting = UncertaintyWeighting([f"t{i}" for i in range(count)])
        weighting.expect(1000)
        weighting.suit([optimizer])
        for _ in range(1000):
            rows = torch.randint(3000, (64,), generator=generator)
            losses = (net(inputs[rows]) - targets[rows]).square().mean(0)
            optimizer.zero_grad()
            (weighting(losses) if learned else losses.sum()).backward()
            optimizer.step()
            weighting.step()
        with torch.no_grad():
            error = (net(inputs[3000:]) - targets[3000:]).square().mean(0) / targets[3000:].var(0)
        errors[learned] = error.mean().item()
    assert errors[True] < 1.4 * errors[False]
