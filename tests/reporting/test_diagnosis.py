"""Findings: each by a run that trains into its fault, and none on a run that has none."""

import dataclasses
import math

import lightning as L
import pytest
import torch

from lightning_uncertainty import CrossEntropy, Snapshot, UncertaintyWarning
from lightning_uncertainty.demo.diamonds import make_data, make_net
from lightning_uncertainty.demo.run import EPOCHS
from lightning_uncertainty.findings import Finding
from lightning_uncertainty.reporting.diagnosis import diagnose
from lightning_uncertainty.reporting.history import History
from lightning_uncertainty.reporting.summary import summarize
from lightning_uncertainty.snapshot import TaskSnapshot
from tests.models import Weighed, batches, fit
from tests.paper import UncertaintyCallback, UncertaintyWeighting

# What the engine says while it trains, the diagnosis says at the end.
pytestmark = [
    pytest.mark.filterwarnings("ignore:The loss of task '.' was"),
    pytest.mark.filterwarnings("ignore:The log-variance of task '.' is held"),
    pytest.mark.filterwarnings("ignore:Number of steps in which losses came"),
    pytest.mark.filterwarnings("ignore:No loss of 'a', 'b' reached"),
    pytest.mark.filterwarnings("ignore:Task '.' keeps the factor of the plain sum"),
]


class Healthy(Weighed):
    """Two tasks that can be learned down to their noise."""


class NotFinite(Weighed):
    def losses(self, batch):
        losses = super().losses(batch)
        return {**losses, "a": losses["a"] + (math.nan if self.global_step % 50 == 7 else 0.0)}


class Negative(Weighed):
    def losses(self, batch):
        losses = super().losses(batch)
        return {**losses, "a": losses["a"].log()}  # a log-likelihood already


class Summed(Weighed):
    tasks = {"a": "softmax", "b": "laplace"}

    def losses(self, batch):
        labels = (batch[1][:, 0] > 0.0).long()
        logits = torch.stack([self.net(batch[0])[:, 0], torch.zeros(len(labels))], 1)
        return {**super().losses(batch), "a": torch.nn.functional.cross_entropy(logits, labels, reduction="sum") * 32}


class Settling(Weighed):
    """Whose learning rate goes to zero, so that a loss without noise does too."""

    def configure_optimizers(self):
        optimizer = super().configure_optimizers()
        schedule = torch.optim.lr_scheduler.ExponentialLR(optimizer, 0.98)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}


class Sparse(Weighed):
    def losses(self, batch):
        losses = super().losses(batch)
        return losses if self.global_step % 3 == 0 else {"a": losses["a"]}


class Skipping(Weighed):
    """Drops the gradients of two batches in three."""

    def on_before_optimizer_step(self, optimizer):
        if self.global_step % 3:
            self.zero_grad()


class Poisoned(Weighed):
    """One step makes the network NaN, and all losses with it."""

    def losses(self, batch):
        if self.global_step == 50:
            self.net.weight.data.fill_(math.nan)
        return super().losses(batch)


class Diverging(Weighed):
    def configure_optimizers(self):
        return torch.optim.Adam(self.parameters(), lr=1e4)


class Guessing(Weighed):
    """A classification without a gradient, one of a network that is sure and wrong, and a regression to a constant."""

    tasks = {"a": "softmax", "b": "laplace", "c": {"likelihood": "softmax", "classes": 3}, "d": "bernoulli"}

    def losses(self, batch):
        labels = (batch[1][:, 0] > 0.0).long()
        logits = torch.stack([self.net(batch[0])[:, 0] * 0.0, torch.zeros(len(labels))], 1)
        nothing = 0.0 * logits.sum()
        return {
            "a": CrossEntropy(logits, labels),
            "b": 2.0 + nothing,
            "c": math.log(3) + nothing,
            "d": math.log(2) + nothing,
        }


class Constrained(Weighed):
    """A network that begins at zero, and a term that is small as long as it stays there."""

    def __init__(self, *args, **options):
        super().__init__(*args, **options)
        for parameter in self.parameters():
            parameter.data.mul_(1e-3)

    def losses(self, batch):
        output = self.net(batch[0])
        return {"a": (output[:, 0] - batch[1][:, 0]).square().mean(), "b": 0.3 * output.square().mean()}


class Unweighed(Weighed):
    def training_step(self, batch, batch_idx):
        return sum(self.losses(batch).values())


class SameLoss(Weighed):
    tasks = {"a": "gaussian", "b": "gaussian"}

    def losses(self, batch):
        loss = super().losses(batch)["a"]
        return {"a": loss, "b": 1.02 * loss}


class ByHand(Weighed):
    tasks = {"a": 1.0, "b": 1.0}


NOISELESS = {"noise": (0.0, 0.5)}
QUICK = {"lr": 0.05}

_CALM = ("fine", "too short", "fixed weight")

ELSEWHERE = {Finding.CUT, Finding.OVERFITS}  # in test_precision and test_sigma_val

RUNS = {
    "nothing": (Healthy, {}, {}, {Finding.NOTHING}),
    "a loss that is NaN now and then": (NotFinite, {}, {}, {Finding.NONFINITE}),
    "a log-likelihood": (Negative, {}, {"noise": (0.2, 0.5)}, {Finding.NEGATIVE_LOSS}),
    "a log-likelihood whose logarithm is to be taken": (
        Negative,
        {"strategy": "log_sum"},
        {"noise": (0.2, 0.5)},
        {Finding.SAT_OUT},
    ),
    "a cross entropy that is summed": (Summed, {}, {}, {Finding.NO_CROSS_ENTROPY}),
    "a loss that goes to zero": (
        Settling,
        {**QUICK, "min_variance_ratio": 0.0},
        NOISELESS,
        {Finding.EXPLODES, Finding.NEGATIVE_TOTAL},
    ),
    "a loss that goes to zero, with the default bound": (
        Settling,
        QUICK,
        NOISELESS,
        {Finding.EXPLODES, Finding.NEGATIVE_TOTAL},
    ),
    "a bound above what the loss asks for": (Healthy, {"bounds": (1.0, 40.0)}, {}, {Finding.AT_BOUND}),
    "a task without labels in two batches of three": (Sparse, {}, {}, {Finding.MOSTLY_ABSENT}),
    "gradients that a hook drops": (Skipping, {}, {}, {Finding.DROPPED, Finding.TOO_SHORT}),
    "a step that makes the network NaN": (Poisoned, {}, {}, {Finding.DEAD}),
    "a learning rate far too high": (Diverging, {}, {}, {Finding.DIVERGED}),
    "losses that stay where they are": (Guessing, {}, {}, {Finding.LEARNED_NOTHING}),
    "a training_step that does not weigh": (Unweighed, {}, {}, {Finding.UNWEIGHED}),
    "a start far from the losses": (
        Healthy,
        {"init": 0.0},
        {"scale": (100.0, 1.0)},
        {Finding.MOVING, Finding.DOMINATES, Finding.DROWNS},
    ),
    "equal weights for losses of very different size": (
        ByHand,
        {},
        {"scale": (300.0, 1.0)},
        {Finding.DOMINATES, Finding.DROWNS},
    ),
    "two losses that are alike": (SameLoss, {}, {}, {Finding.ALL_EQUAL, Finding.NEGATIVE_TOTAL}),
    "noise far below the unit": (
        Healthy,
        {"lr": 0.03},
        {"noise": (0.05, 0.02), "scale": (0.1, 0.1)},
        {Finding.NEGATIVE_TOTAL, Finding.NOTHING},
    ),
    "a loss that is small because nothing was learned yet": (
        Constrained,
        {"scale": "sum"},
        {},
        {Finding.HELD, Finding.ALL_EQUAL},
    ),
    "the same, weighed from the start": (
        Constrained,
        {},
        {},
        {Finding.COLLAPSE, Finding.LEARNED_NOTHING, Finding.NEGATIVE_TOTAL},
    ),
    "one epoch": (Healthy, {}, {"count": 30}, {Finding.TOO_SHORT}),
}


def verdicts(history):
    return {cells[0]: cells[-1] for _, cells in summarize(history).rows}


def train_into(folder, cls, options, data, **more):
    callback = UncertaintyCallback(**options)
    data = {"count": 200, **data}
    epochs = 1 if data["count"] < 100 else 2
    module = cls(lr=0.1 if data.get("scale", (1,))[0] > 10 else 0.05)
    fit(folder, module, callback=callback, data=batches(**data), max_epochs=epochs, log_every_n_steps=4, **more)
    return callback.history


@pytest.mark.parametrize(("cls", "options", "data", "expected"), RUNS.values(), ids=RUNS)
def test_a_run_into_a_fault_has_the_finding_and_no_other(tmp_path, cls, options, data, expected):
    history = train_into(tmp_path, cls, options, data)
    found = diagnose(history)
    assert {each.finding for each in found} == expected
    named = {each.task for each in found} - {None}
    assert {name for name, words in verdicts(history).items() if words not in _CALM} == named


@pytest.mark.parametrize("name", ["a step that makes the network NaN", "a learning rate far too high"])
def test_who_has_lost_the_network_is_not_told_to_train_longer_or_to_raise_lr(tmp_path, name):
    told = " ".join(str(each) for each in diagnose(train_into(tmp_path, *RUNS[name][:3])))
    assert "earlier checkpoint" in told or "Lower the learning rate" in told
    assert not any(words in told for words in ("rain longer", "`lr", "as it should be"))


def test_a_dead_run_is_told_of_while_it_goes_on_and_what_is_monitored_is_not_finite(tmp_path):
    with pytest.warns(UncertaintyWarning, match="Number of steps in which losses came and none .* was finite: 2"):
        _, runner = fit(tmp_path, Poisoned(), data=batches(60), max_epochs=1, log_every_n_steps=4)
    for key in ("relative_loss", "loss_sum", "loss/a"):
        assert math.isnan(runner.callback_metrics[f"uncertainty/{key}"])


def test_a_loop_that_reads_nothing_hears_of_it_too():
    def loop():
        weighting = UncertaintyWeighting({"a": "gaussian"})
        for _ in range(300):
            weighting({"a": torch.tensor(math.nan, requires_grad=True)}).backward()
            weighting.step()

    with pytest.warns(UncertaintyWarning, match="none of any task was finite"):
        loop()


def test_a_module_that_never_weighs_gets_one_sentence(tmp_path, capsys):
    fit(tmp_path, Unweighed(), log_every_n_steps=4)
    assert capsys.readouterr().out.strip() == Finding.UNWEIGHED.sentence


def test_every_finding_is_trained_into():
    assert set.union(*(expected for *_, expected in RUNS.values())) == set(Finding) - ELSEWHERE


def demo_history(rows):
    """The history of the demo's run with learned weights."""
    L.seed_everything(0, verbose=False)
    callback, data = UncertaintyCallback(summary=False), make_data(rows)
    quiet = dict.fromkeys(("logger", "enable_checkpointing", "enable_progress_bar", "enable_model_summary"), False)
    trainer = L.Trainer(max_epochs=EPOCHS, accelerator="cpu", log_every_n_steps=10, callbacks=[callback], **quiet)
    trainer.fit(make_net(data.label_scales()), data)
    return callback.history


def test_the_demo_has_no_finding():
    """As it is run, whole; with a fifth of its steps sigma of carat has no time to arrive, and that is said."""
    assert [each.finding for each in diagnose(demo_history(None))] == [Finding.NOTHING]
    assert [(each.finding, each.task) for each in diagnose(demo_history(10_000))] == [(Finding.MOVING, "carat")]


def test_a_diagnosis_names_the_task_its_numbers_and_a_remedy():
    history = History()
    for step in range(300):
        tasks = {
            "depth": TaskSnapshot("laplace", 1.0, 1.6, 0.6, 0.6, 2.0 - step / 300, 7, None, True, absent=200),
            "aux": TaskSnapshot("fixed", 0.0, None, 1.0, 1.0, 1.0, 0, None, True),
        }
        history.add(Snapshot(step, tasks))
    first, second = diagnose(history)
    assert (first.finding, first.task) == (Finding.NONFINITE, "depth")
    assert str(first).startswith("The loss of task 'depth' was NaN or infinite in 7 calls, and the task sat them out.")
    assert first.finding.severity == "look"  # the way to say that labels are missing
    assert second.sentence == "Task 'depth' took no part in 67% of the steps."
    assert verdicts(history) == {"depth": "not finite, mostly missing", "aux": "fixed weight"}


def test_a_fixed_task_that_is_rare_or_small_is_as_the_user_wanted_it():
    def of(aux_loss, **depth):
        history = History()
        for step in range(300):
            aux = TaskSnapshot("fixed", 0.0, None, 1.0, 1.0, aux_loss, 0, None, True, absent=step)
            settled = TaskSnapshot("laplace", 1.0, 1.6, 0.6, 0.6, 2.0 - step / 300, 0, None, True)
            history.add(Snapshot(step, {"depth": dataclasses.replace(settled, **depth), "aux": aux}))
        return [(each.finding, each.task) for each in diagnose(history)]

    assert of(1e-4) == [(Finding.DOMINATES, "depth")]  # said of the learned one
    assert of(100.0) == [(Finding.DOMINATES, "aux"), (Finding.DROWNS, "depth")]  # where a weight can be mended
    equal = of(100.0, sigma=None, likelihood="fixed")  # all are fixed: what equal weights lead to is worth saying
    assert equal == [(Finding.DOMINATES, "aux"), (Finding.DROWNS, "depth")]


def test_every_finding_has_all_its_texts_and_faults_come_first():
    for finding in Finding:
        assert all(text.endswith((".", "`.", "?")) for text in (finding.sentence, finding.remedy, finding.rule))
        assert finding.severity in ("fault", "look", "fine")
    verdicts = [finding.verdict for finding in Finding]
    assert len(set(verdicts)) == len(verdicts)


def test_an_empty_history_says_so():
    with pytest.raises(ValueError, match="nothing to diagnose"):
        diagnose(History())


def test_a_task_that_comes_late_is_not_taken_for_one_that_explodes(tmp_path):
    """Before its first loss there is no s to compare with."""

    class Late(Weighed):
        def losses(self, batch):
            losses = super().losses(batch)
            return losses if self.global_step > 20 else {"a": losses["a"]}

    history = train_into(tmp_path, Late, {}, {"scale": (1.0, 1e-6), "noise": (0.5, 0.5)})
    assert math.isnan(history.series("log_var", "b")[0])
    assert {each.finding for each in diagnose(history)} <= {Finding.NOTHING, Finding.NEGATIVE_TOTAL, Finding.MOVING}


def test_an_exact_softmax_is_not_said_to_be_weighed_like_others(tmp_path):
    class Classifier(Weighed):
        tasks = {"a": "softmax_exact", "b": "softmax_exact"}

        def losses(self, batch):
            labels = (batch[1] > 0.0).long()
            return {name: CrossEntropy(self.net(batch[0]), labels[:, i]) for i, name in enumerate("ab")}

    found = diagnose(train_into(tmp_path, Classifier, {}, {}))
    assert Finding.ALL_EQUAL not in {each.finding for each in found}


def test_a_task_that_never_came_does_not_make_all_weights_equal(tmp_path):
    """Before its first loss it has no weight, but a placeholder that others may be near to."""

    class Never(Weighed):
        tasks = {"a": "gaussian", "b": "gaussian"}

        def losses(self, batch):
            return {"a": 1.0 + 0.0 * super().losses(batch)["a"]}

    history = train_into(tmp_path, Never, {}, {})
    assert history.series("factor", "a")[-1] == pytest.approx(history.series("factor", "b")[-1], rel=0.01)
    found = {each.finding: each.task for each in diagnose(history)}
    assert Finding.ALL_EQUAL not in found
    assert found[Finding.MOSTLY_ABSENT] == "b"


def test_beside_a_task_whose_loss_is_gone_the_others_are_not_to_blame(tmp_path):
    history = train_into(tmp_path, *RUNS["a loss that goes to zero, with the default bound"][:3])
    (explodes,) = [each for each in diagnose(history) if each.finding is Finding.EXPLODES]
    assert explodes.task == "a"
    assert "until its bound held it" in explodes.sentence
    assert history.shares()["b"][-1] > 0.9
    assert Finding.DOMINATES not in {each.finding for each in diagnose(history)}


def test_a_run_that_is_too_short_is_not_told_to_be_fine(tmp_path):
    history = train_into(tmp_path, Healthy, {}, {"count": 30})
    assert {(cells[-1], severity) for severity, cells in summarize(history).rows} == {("too short", "look")}


def test_one_call_is_one_call():
    history = History()
    for step in range(300):
        history.add(Snapshot(step, {"a": TaskSnapshot("laplace", 1.0, 1.6, 0.6, 0.6, 2.0, 1, None, True)}))
    assert "NaN or infinite in 1 call, and" in diagnose(history)[0].sentence
