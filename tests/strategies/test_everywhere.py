"""Every strategy with importance and a scale, on two ranks, with accumulation, in a Trainer and in arms."""

import math

import pytest
import torch
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.loggers import CSVLogger

from lightning_uncertainty import Task, UncertaintyCallback, UncertaintyWarning, UncertaintyWeighting
from lightning_uncertainty.comparison.arms import parse_arms
from lightning_uncertainty.reporting.figures import overview
from lightning_uncertainty.reporting.files import read_report
from lightning_uncertainty.reporting.history import History
from lightning_uncertainty.reporting.summary import as_text, summarize
from lightning_uncertainty.strategies import DWA, STRATEGIES, UWSO, Random, Uncertainty
from tests.models import Weighed, batches, fit
from tests.trainer.test_checkpoints import assert_same_run
from tests.workers import strategy_ranks
from tests.workers.processes import run_ranks

KINDS = {"a": "gaussian", "b": "laplace", "c": "softmax", "aux": 0.25}
LIVE = {"log_sum", "geometric_mean", "uw_so"}
GIVEN = {"equal", "fixed"}
# Lightning's word when a checkpoint of a run with more callbacks is loaded.
pytestmark = pytest.mark.filterwarnings("ignore:Be aware that when using `ckpt_path`")
every = pytest.mark.parametrize("strategy", STRATEGIES)


def engine(strategy, tasks=KINDS, **options):
    return UncertaintyWeighting(tasks, strategy=strategy, **{"scale": None, "guard": False, **options})


def losses_at(step):
    noise = torch.rand(4, generator=torch.Generator().manual_seed(step)) + 0.5
    return noise * torch.tensor([300.0, 2.0, 0.5, 1.0]) * 0.9**step


def train(weighting, steps=8, epoch=2):
    """The factor of each loss, of shape (steps, 4), and the totals; epochs of two steps."""
    factors, totals = [], []
    for step in range(steps):
        values = losses_at(step).requires_grad_()
        total = weighting(values)
        total.backward()
        weighting.step()
        if step % epoch == epoch - 1:
            weighting.end_epoch()
        factors.append(values.grad)
        totals.append(total.item())
    return torch.stack(factors), totals


# ---------------------------------------------------------------------------------------------------- size


@every
@pytest.mark.parametrize("scale", ["sum", "geometric", "b"])
def test_a_scale_keeps_the_ratios_of_the_tasks_and_leaves_given_factors(strategy, scale):
    (plain, _), (scaled, totals) = train(engine(strategy)), train(engine(strategy, scale=scale))
    torch.testing.assert_close(scaled[:, :2] / scaled[:, 2:3], plain[:, :2] / plain[:, 2:3])
    assert (scaled[:, 3] == 0.25).all()
    if scale == "b":
        torch.testing.assert_close(scaled[:, 1], torch.ones(8))
    elif scale == "geometric" and strategy != "uncertainty":  # which has a product to keep
        expected = scaled[:1, :3].log().sum(1) if strategy == "initial" else 0.0
        torch.testing.assert_close(scaled[:, :3].log().sum(1), torch.zeros(8) + expected, atol=1e-4, rtol=0.0)
    elif strategy in LIVE | GIVEN:
        sums = [(losses_at(step) * torch.tensor([1.0, 1.0, 1.0, 0.25])).sum().item() for step in range(8)]
        assert totals == pytest.approx(sums, rel=1e-5)


@pytest.mark.parametrize("strategy", sorted(STRATEGIES.keys() - {"random"}))  # whose factors follow from no losses
@pytest.mark.parametrize("make", [torch.optim.Adam, torch.optim.SGD])
def test_a_task_that_is_absent_from_the_start_leaves_the_sum_to_the_others(strategy, make):
    both, alone = engine(strategy, scale="sum"), engine(strategy, {"a": "gaussian", "c": "softmax"}, scale="sum")
    for step in range(4):
        found = []
        for weighting in (both, alone):
            weighting.suit([make([torch.nn.Parameter(torch.ones(()))], lr=0.1)])
            values = losses_at(step)[[0, 2]].requires_grad_()
            total = weighting(dict(zip("ac", values, strict=True)))
            total.backward()
            weighting.step()
            found.append((total.item(), (values.grad[0] / values.grad[1]).item()))
        assert found[0] == pytest.approx(found[1], rel=1e-5)


@pytest.mark.parametrize("strategy", ["dwa", "random"])
def test_sum_goes_by_the_losses_of_the_last_step_so_that_the_calls_of_a_step_agree(strategy):
    (plain, _), (scaled, _) = train(engine(strategy)), train(engine(strategy, scale="sum"))
    last = torch.stack([losses_at(step)[:3] for step in range(7)]).double()
    expected = last.sum(1) / (plain[1:, :3].double() * last).sum(1)
    torch.testing.assert_close((scaled / plain)[1:, 0].double(), expected, rtol=1e-5, atol=0.0)


def test_sum_of_initial_is_a_constant_since_its_factors_are():
    (plain, _), (scaled, totals) = train(engine("initial")), train(engine("initial", scale="sum"))
    torch.testing.assert_close((scaled / plain)[:, 0], (losses_at(0)[:3].sum() / 3.0).expand(8))
    assert totals[0] == pytest.approx((losses_at(0) * torch.tensor([1.0, 1.0, 1.0, 0.25])).sum().item())


@every
@pytest.mark.parametrize("scale", [None, "geometric"])
def test_importance_multiplies_a_factor_whatever_gave_it(strategy, scale):
    tasks = [Task("a", importance=3.0), Task("b", "laplace"), Task("c", "softmax", importance=0.5), Task("aux", 0.25)]
    (plain, _), (weighed, _) = train(engine(strategy, scale=scale)), train(engine(strategy, tasks, scale=scale))
    torch.testing.assert_close(weighed, plain * torch.tensor([3.0, 1.0, 0.5, 1.0]))


@every
@pytest.mark.parametrize("options", [{"scale": "sum"}, {"freeze_after": 2}, {"warmup_steps": 2, "warmup": "equal"}])
def test_in_one_graph_it_has_the_same_factors_with_options_too(strategy, options):
    torch._dynamo.reset()
    eager, compiled = engine(strategy, **options), engine(strategy, **options)
    options = {"fullgraph": True, "backend": "aot_eager"}
    call = torch.compile(lambda values: compiled(dict(zip(KINDS, values, strict=True))), **options)
    for step in range(4):
        found = []
        for weighting, weigh in ((eager, eager), (compiled, call)):
            values = losses_at(step).requires_grad_()
            weigh(values).backward()
            weighting.step()
            found.append(values.grad)
        torch.testing.assert_close(*found)


# ---------------------------------------------------------------------------------------------------- ranks, batches


def test_on_two_ranks_all_is_the_same_as_if_one_had_the_mean_losses_and_only_live_factors_are_those_of_the_rank(
    tmp_path,
):
    one, other = run_ranks(strategy_ranks.every_strategy, folder=tmp_path)
    assert list(one) == list(STRATEGIES)
    for strategy, here in one.items():
        there = other[strategy]
        assert here["state"] == there["state"], strategy
        assert here["weights"] == there["weights"], strategy
        assert (here["factors"] != there["factors"]) == (strategy in LIVE), strategy
        alone = strategy_ranks.train_alone(strategy)
        assert here["weights"] == pytest.approx(alone, rel=1e-4), strategy


@every
def test_accumulation_of_4_is_one_batch_of_four_times_the_size_unless_factors_are_those_of_the_call(strategy):
    x, y = (torch.randn(64, 2, generator=torch.Generator().manual_seed(seed)) for seed in (0, 1))
    found = []
    for size in (4, 16):
        weighting = engine(strategy, {"a": "gaussian", "b": "laplace"}, warmup="equal", warmup_steps=1)
        weight = torch.eye(2).requires_grad_()
        optimizer = torch.optim.SGD([weight], lr=0.05)
        for index, (rows, target) in enumerate(zip(x.split(size) * 2, y.split(size) * 2, strict=True)):
            error = rows @ weight - target
            losses = {"a": error[:, 0].square().mean(), "b": error[:, 1].abs().mean()}
            (weighting(losses) * size / 16).backward()
            if (index + 1) * size % 16 == 0:
                optimizer.step()
                optimizer.zero_grad()
                weighting.step()
            if (index + 1) * size % 64 == 0:
                weighting.end_epoch()
        found.append(weight.detach())
    first = strategy in ("initial", "uncertainty")  # whose first step with factors goes by its first call
    assert torch.allclose(*found, rtol=1e-4) == (strategy not in LIVE) or first
    torch.testing.assert_close(*found, rtol=0.2, atol=0.05)


# ---------------------------------------------------------------------------------------------------- runs, states


@every
@pytest.mark.parametrize("step", [3, 12], ids=["in an epoch", "at its end"])
def test_resumed_in_a_trainer_it_equals_the_uninterrupted_run_bit_for_bit(tmp_path, strategy, step):
    """Also after a checkpoint of the last step of an epoch, whose end Lightning then does not tell."""
    saver = ModelCheckpoint(tmp_path, filename="{step}", every_n_train_steps=step, save_top_k=-1)
    options = {"data": batches(6), "max_epochs": 4, "enable_checkpointing": True}
    ours = [UncertaintyCallback(strategy=strategy, report=False, summary=False) for _ in range(2)]
    whole, _ = fit(tmp_path, callback=ours[0], callbacks=[saver], **options)
    rest, _ = fit(tmp_path, callback=ours[1], ckpt_path=tmp_path / f"step={step}.ckpt", **options)
    assert_same_run(whole, rest)


@every
def test_a_state_of_any_other_strategy_loads_with_a_word(strategy):
    saved = engine(strategy)
    train(saved)
    for name in STRATEGIES:
        other, fresh = engine(name), engine(name).weights
        if name == strategy:
            other.load_state_dict(saved.state_dict())
            assert other.weights == saved.weights
            continue
        with pytest.warns(UncertaintyWarning, match=f"strategy='{strategy}', and this is '{name}': it starts anew"):
            other.load_state_dict(saved.state_dict())
        assert (other.steps, other.weights) == (8, fresh)
        assert other.snapshot().tasks["a"].raw_loss == pytest.approx(losses_at(7)[0].item())


@every
def test_an_engine_made_from_a_state_has_its_strategy(strategy):
    saved = engine(strategy)
    train(saved)
    again = UncertaintyWeighting.from_state_dict(saved.state_dict())
    assert (again.strategy.name, again.weights) == (strategy, saved.weights)
    assert again.snapshot().strategy == strategy


@pytest.mark.parametrize(
    "made",
    [DWA(temperature=0.5), UWSO(temperature=500.0), Random(seed=7), Uncertainty(prior=0.1, bounds=(-3.0, 3.0))],
    ids=lambda made: made.name,
)
def test_an_engine_made_from_a_state_has_the_settings_of_its_strategy(made):
    saved = engine(made)
    train(saved)
    again = UncertaintyWeighting.from_state_dict(saved.state_dict())
    assert again.strategy.settings == saved.strategy.settings == made.settings != type(made)().settings
    for weighting in (saved, again):
        weighting.suit([])
    one, other = train(saved, 1), train(again, 1)
    assert torch.equal(one[0], other[0])
    assert again.weights == saved.weights
    damaged = {**saved.state_dict(), "strategy_settings": {"colour": "red"}}
    with pytest.raises(ValueError, match=r"settings .* of its strategy are damaged: .*colour"):
        UncertaintyWeighting.from_state_dict(damaged)


@every
def test_an_arm_is_a_name_a_strategy_or_options_with_one(strategy):
    tasks = [Task("a"), Task("b")]
    for given in (strategy, {"strategy": strategy}, STRATEGIES[strategy](), lambda _: {"strategy": strategy}):
        arm = parse_arms({"mine": given}, {}, "equal")[-1].at(3)
        arm.check(tasks, given=False)
        made = UncertaintyWeighting(tasks, **arm.options)
        assert made.strategy.name == strategy


@every
def test_losses_that_go_to_zero_or_out_of_range_never_break_a_run(tmp_path, strategy):
    class Extreme(Weighed):
        def losses(self, batch):
            losses = super().losses(batch)
            return {"a": losses["a"] * 0.0, "b": losses["b"] * 1e30 if self.global_step % 2 else losses["b"]}

    callback = UncertaintyCallback(strategy=strategy, report=False, summary=False)
    with pytest.warns(UncertaintyWarning) if strategy in LIVE else pytest.MonkeyPatch.context():
        module, _ = fit(tmp_path, Extreme(lr=1e-3), callback=callback, data=batches(6), gradient_clip_val=1.0)
    assert all(math.isfinite(weight) for weight in module.uncertainty.weights.values())
    assert all(torch.isfinite(parameter).all() for parameter in module.parameters())


def test_settings_of_a_strategy_are_its_own():
    assert engine(DWA(temperature=0.1)).strategy.temperature == 0.1
    with pytest.raises(TypeError, match="no option 'temperature'"):
        engine("dwa", temperature=0.1)


@every
def test_all_that_people_see_says_which_strategy_ran_and_shows_no_sigma_that_is_not_there(tmp_path, strategy):
    callback = UncertaintyCallback(strategy=strategy, summary=False)
    fit(tmp_path, callback=callback, data=batches(6), logger=CSVLogger(tmp_path, "", version=""), log_every_n_steps=1)
    history, sigmas = callback.history, strategy == "uncertainty"
    said = as_text(summarize(history))
    heading = "Uncertainty weighting" if sigmas else f"Loss weighting by '{strategy}'"
    assert said.startswith(f"\n{heading}: 2 tasks after 12 steps\n")
    assert overview(history).subfigs[0].get_suptitle() == f"{heading}: 2 tasks after 12 steps"
    page = (tmp_path / "uncertainty.html").read_text()
    assert f"Strategy: {strategy}." in page
    assert History.from_state_dict(history.state_dict()).strategy == strategy
    assert read_report(tmp_path).history.strategy == strategy
    columns = (tmp_path / "metrics.csv").read_text().splitlines()[0]
    for text in (
        said.partition("\n- ")[0],
        page.partition("<h2>Tasks</h2>")[2].replace('data-is="sigma"', ""),
        columns,
    ):
        assert ("sigma" in text) == sigmas
    assert ("fixed weight" in said) == (strategy == "fixed")
