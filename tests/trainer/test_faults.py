"""What goes wrong around a training: kills, damaged checkpoints, losses of every kind."""

import math
import random
import re
from itertools import combinations

import pytest
import torch
from lightning.pytorch.callbacks import ModelCheckpoint
from torch.nn import functional as F

from lightning_uncertainty import UncertaintyWarning
from tests.models import TASKS, Plain, Recorded, Weighed, batches, fit, learned_from, trainer
from tests.paper import UncertaintyWeighting
from tests.trainer.test_matrix import difference
from tests.workers.crash_worker import BATCHES, EPOCHS, KILLS, killed_and_whole
from tests.workers.processes import ROOT, run_ranks

# ---------------------------------------------------------------------------------------------------- kill -9


def test_killed_at_random_moments_and_resumed_it_ends_bit_for_bit_like_an_uninterrupted_run(tmp_path):
    """Network, optimizer, s and its moments, after 20 times SIGKILL in one run."""
    (steps,) = run_ranks(killed_and_whole, tmp_path, folder=tmp_path / "job", world=1, timeout=300.0)
    assert len(steps) == KILLS
    assert steps == sorted(steps)
    assert 0 < steps[-1] < EPOCHS * BATCHES  # the last kill still hit a run
    assert len(set(steps)) > KILLS // 2  # and there was progress in between
    whole, killed = (torch.load(tmp_path / name / "end.ckpt", weights_only=True) for name in ("whole", "killed"))
    entry = "UncertaintyCallback(uncertainty)"
    assert whole["callbacks"][entry]["steps"] == EPOCHS * BATCHES
    assert difference(whole["callbacks"][entry], killed["callbacks"][entry]) is None
    for key in ("state_dict", "optimizer_states", "lightning_uncertainty", "global_step"):
        assert difference(whole[key], killed[key]) is None


def test_lightning_itself_is_one_batch_off_after_two_resumes_of_which_the_first_was_at_the_end_of_an_epoch(tmp_path):
    """Why the run above does not resume there; once Lightning mends it, it can."""

    def go(last, *, steps):
        often = ModelCheckpoint(
            tmp_path, filename="{step}", every_n_train_steps=1, save_top_k=-1, enable_version_counter=False
        )
        runner = trainer(tmp_path, often, max_epochs=3, max_steps=steps, enable_checkpointing=True)
        runner.fit(Plain(), batches(6), ckpt_path=last)
        return runner.global_step

    assert go(None, steps=6) == 6
    assert go(tmp_path / "step=6.ckpt", steps=8) == 8
    assert go(tmp_path / "step=8.ckpt", steps=-1) != 18


# ---------------------------------------------------------------------------------------------------- damage


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    folder = tmp_path_factory.mktemp("trained")
    _, runner = fit(folder, max_epochs=1)
    runner.save_checkpoint(folder / "run.ckpt")
    return folder / "run.ckpt"


def foreign():
    weighting = UncertaintyWeighting({"x": "gaussian", "y": "softmax"})
    for _ in range(3):
        weighting({name: torch.tensor(2.0, requires_grad=True) for name in ("x", "y")}).backward()
        weighting.step()
    return weighting.state_dict()


DAMAGE = {
    "missing key": (lambda state: {k: v for k, v in state.items() if k != "exp_avg_sq"}, "lacks 'exp_avg_sq'"),
    "only a version": (lambda _: {"version": 1}, "lacks 'tasks', 'likelihoods'"),
    "of something else": (lambda _: {"best_model_score": 1.0}, "lacks 'version'"),
    "a list": (lambda _: [1.0, 2.0], "of type list"),
    "too long": (lambda state: {**state, "log_var": torch.zeros(3)}, r"'log_var' should be a tensor of shape \(2,\)"),
    "a matrix": (lambda state: {**state, "count": torch.zeros(2, 2)}, r"'count' should be .* is \(2, 2\)"),
    "a scalar": (lambda state: {**state, "exp_avg": torch.tensor(0.0)}, "'exp_avg' should be a tensor"),
    "NaN": (lambda state: {**state, "log_var": torch.tensor([0.0, math.nan])}, "'log_var' is not finite for 'b'"),
    "infinite moment": (lambda state: {**state, "exp_avg": torch.tensor([math.inf, 0.0])}, "not finite for 'a'"),
    "task list cut off": (lambda state: {**state, "tasks": ["a"]}, "task list"),
    "from the future": (lambda state: {**state, "version": 2}, "update lightning_uncertainty"),
}

PLACES = {
    "callback": lambda content, entry: content["callbacks"].update({"UncertaintyCallback(uncertainty)": entry}),
    "module": lambda content, entry: content.update({"lightning_uncertainty": entry}),
}


def changed(path, folder, place, change):
    content = torch.load(path, weights_only=True)
    PLACES[place](content, change(content["lightning_uncertainty"]))
    torch.save(content, folder / "changed.ckpt")
    return folder / "changed.ckpt"


@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize("damage", DAMAGE)
def test_a_damaged_entry_is_refused_by_name_and_nothing_of_it_is_loaded(trained, tmp_path, damage, place):
    spoil, message = DAMAGE[damage]
    path = changed(trained, tmp_path, place, spoil)
    module = Weighed()
    with pytest.raises(ValueError, match=rf"{message}(.|\n)*Nothing was loaded"):
        fit(tmp_path, module, ckpt_path=path)
    # The module's entry is read first, so the callback's finds a whole state: that of the intact entry, or none.
    whole = torch.load(trained, weights_only=True)["lightning_uncertainty"]
    expected = whole if place == "callback" else UncertaintyWeighting(TASKS).state_dict()
    assert difference(module.uncertainty.state_dict(), expected) is None


@pytest.mark.parametrize("damage", DAMAGE)
def test_without_a_trainer_a_damaged_entry_is_refused_too(trained, tmp_path, damage):
    spoil, message = DAMAGE[damage]
    path = changed(trained, tmp_path, "module", spoil)
    with pytest.raises(ValueError, match=message):
        Weighed.load_from_checkpoint(path)


def test_the_entry_of_another_run_is_named_task_by_task_and_the_weights_start_from_the_data(trained, tmp_path):
    path = changed(trained, tmp_path, "module", lambda _: foreign())
    path = changed_again(path, tmp_path)
    module = Recorded()
    with pytest.warns(UncertaintyWarning) as caught:
        fit(tmp_path, module, ckpt_path=path)
    said = " ".join(str(warning.message) for warning in caught)
    for name in ("x", "y"):
        assert f"Task {name!r} is in the checkpoint but not among the tasks" in said
    for name in TASKS:
        assert f"Task {name!r} is not in the checkpoint" in said
    state, expected = module.uncertainty.state_dict(), learned_from(module.seen)
    assert state.pop("steps") == expected.pop("steps") + foreign()["steps"] == 27
    assert difference(state, expected) is None


def changed_again(path, folder):
    content = torch.load(path, weights_only=True)
    PLACES["callback"](content, foreign())
    torch.save(content, folder / "foreign.ckpt")
    return folder / "foreign.ckpt"


def test_a_file_that_was_cut_off_is_refused_before_anything_is_loaded(trained, tmp_path):
    whole = trained.read_bytes()
    for part in (0.1, 0.5, 0.9, 0.999):
        (tmp_path / "cut.ckpt").write_bytes(whole[: int(len(whole) * part)])
        module = Weighed()
        with pytest.raises((RuntimeError, EOFError, OSError)):
            fit(tmp_path, module, ckpt_path=tmp_path / "cut.ckpt")
        assert difference(module.uncertainty.state_dict(), UncertaintyWeighting(TASKS).state_dict()) is None


# ---------------------------------------------------------------------------------------------------- any losses

FUZZ = 30_000
NAMES = {"gauss": "gaussian", "lap": "laplace", "soft": "softmax", "fixed": 0.5}
DTYPES = (torch.float32, torch.float16, torch.bfloat16, torch.float64)
SPECIAL = (math.nan, math.inf, -math.inf, 0.0, -0.0, 1e-30, 1e30, -1e30, 1e-45, 6e-8, 65504.0, 1e300)


def draw(chance):
    """The value and the precision of a loss."""
    if chance.random() < 0.3:
        value = chance.choice(SPECIAL)
    else:
        value = 10.0 ** chance.uniform(-30.0, 30.0) * (1.0 if chance.random() < 0.9 else -1.0)
    return value, chance.choice(DTYPES)


def loss_of(value, dtype):
    return torch.tensor(value, dtype=torch.float64).to(dtype).requires_grad_()


WRONG = {
    "shape": lambda loss: loss.detach().expand(3).clone().requires_grad_(),
    "empty": lambda loss: loss.detach().new_zeros(0).requires_grad_(),
    "integer": lambda _: torch.tensor(1),
    "complex": lambda _: torch.tensor(1j, requires_grad=True),
    "number": lambda loss: loss.item(),
    "nothing": lambda _: None,
}


def any_losses(chance, met):
    """Losses, and the name of the one that must be refused; if there is none, ``met`` gets what is special in them."""
    drawn = {name: draw(chance) for name in NAMES if chance.random() < 0.8}
    losses = {name: loss_of(*each) for name, each in drawn.items()}
    if chance.random() < 0.9:
        special = [(name, repr(value), dtype) for name, (value, dtype) in drawn.items() if value in SPECIAL]
        met.update(special, combinations([each[:2] for each in special], 2))
        return losses, None
    if chance.random() < 0.2:
        return {**losses, "extra": loss_of(*draw(chance))}, "extra"
    name = chance.choice(list(NAMES))
    return {**losses, name: WRONG[chance.choice(list(WRONG))](loss_of(*draw(chance)))}, name


# What the article makes of a loss: the weight and the regulariser at a log-variance.
TERMS = {
    "gauss": lambda s: (0.5 * math.exp(-s), 0.5 * s),
    "lap": lambda s: (math.exp(-0.5 * s), 0.5 * s),
    "soft": lambda s: (math.exp(-s), 0.5 * s),
    "fixed": lambda _: (0.5, 0.0),
}
SINGLE_MAX = torch.finfo(torch.float32).max


class Expected:
    """What a window of calls should come to, task by task, in plain Python."""

    def __init__(self):
        self.raw_loss = dict.fromkeys(NAMES, (math.nan, 0.0))  # and the error that rounding allows
        self.refused = dict.fromkeys(NAMES, 0)
        self.window = {name: [] for name in NAMES}
        self.compared = self.refused_before = 0

    def call(self, losses, total, before):
        """Follow one call, whose total was propagated back, and whose weights are those of ``before``."""
        terms, double = [], any(loss.dtype == torch.float64 for loss in losses.values())
        for name, loss in losses.items():
            value, gradient = loss.float().item(), loss.grad.item()  # s is learned in single precision
            weight, offset = TERMS[name](before.tasks[name].log_var)
            if loss.dtype == torch.float16:
                weight = min(weight, torch.finfo(torch.float16).max)
            term = weight * (loss.item() if double else value) + offset
            # A product beyond single precision is infinite in it, and cannot be told from a loss that is.
            if math.isfinite(value) and (double or not before.tasks[name].started or abs(term) <= SINGLE_MAX):
                self.window[name].append(value)
            else:
                self.refused[name] += 1
                assert gradient == 0.0, name
                continue
            assert math.isfinite(gradient), name
            terms.append(term)
            if before.tasks[name].started:
                kind = torch.finfo(loss.dtype)
                assert abs(gradient - weight) <= 2.0 * max(kind.eps, 1e-6) * weight + kind.smallest_normal, name
        # The sum of finite terms is infinite only where single precision ends: in double, and otherwise, never.
        assert total.dtype == (torch.float64 if double else torch.float32)
        size = math.fsum(map(abs, terms))
        assert math.isfinite(total.item()) or (not double and size > 0.999 * SINGLE_MAX)
        if size < SINGLE_MAX and all(before.tasks[name].started for name in losses):
            self.compared += 1
            assert abs(total.item() - math.fsum(terms)) <= 1e-5 * size + 1e-30

    def close(self):
        """The tasks that took part."""
        present = {name: values for name, values in self.window.items() if values}
        before, self.refused_before = self.refused_before, sum(self.refused.values())
        if not present and self.refused_before > before:  # losses came, and none was finite
            self.raw_loss = dict.fromkeys(NAMES, (math.nan, 0.0))
        for name, values in present.items():
            size = max(map(abs, values))  # losses of both signs may cancel, down to the rounding of the largest
            self.raw_loss[name] = math.fsum(values) / len(values), 1e-6 * size + 1e-37
        self.window = {name: [] for name in NAMES}
        return set(present)


@pytest.mark.filterwarnings("ignore::lightning_uncertainty.UncertaintyWarning")
def test_no_dictionary_of_losses_breaks_the_weights_and_every_refusal_names_the_task():
    """30,000 of them, one to four a step: all finite always, absent tasks untouched, refusals without a trace.

    Every special value comes in every precision to every task, and beside every other one in every two tasks. After
    every step the raw losses that are reported are the means of what took part, and every call that was given and sat
    out was counted; after every call the gradients are the weights, and zero for who sat out.
    """
    chance, met = random.Random(0), set()
    weighting, expected = UncertaintyWeighting(NAMES), Expected()
    before, refused, moved, due = weighting.snapshot(), 0, 0, 1
    for call in range(FUZZ):
        losses, culprit = any_losses(chance, met)
        if culprit is not None:
            with pytest.raises((TypeError, ValueError)) as caught:
                weighting(losses)
            assert repr(culprit) in str(caught.value)
            refused += 1
            continue  # the window is as it was: nothing was recorded of the others either
        total = weighting(losses)
        total.backward()
        expected.call(losses, total.detach(), before)
        due -= 1
        if due:
            continue
        due = chance.choice((1, 2, 3, 4))
        weighting.step()
        after, present = weighting.snapshot(), expected.close()
        state = torch.stack([weighting.strategy.factor, *weighting.strategy.state.tensors().values()])
        assert torch.isfinite(state).all(), (call, losses)
        for name, task in after.tasks.items():
            assert name in present or task.log_var == before.tasks[name].log_var, (call, losses)
            mean, error = expected.raw_loss[name]
            assert abs(task.raw_loss - mean) <= error or (math.isnan(task.raw_loss) and math.isnan(mean)), (call, name)
            assert task.nonfinite == expected.refused[name], (call, name)
            moved += task.log_var != before.tasks[name].log_var
        before = after
    assert len(met) == len(SPECIAL) * len(NAMES) * len(DTYPES) + len(SPECIAL) ** 2 * math.comb(len(NAMES), 2)
    assert 0.05 * FUZZ < refused < 0.15 * FUZZ
    assert moved > 0.5 * weighting.steps
    assert expected.compared > 0.8 * FUZZ
    assert 0.3 * FUZZ < weighting.steps < 0.4 * FUZZ


# ---------------------------------------------------------------------------------------------------- masks

README = (ROOT / "README.md").read_text(encoding="utf-8").replace("\n", " ")
SAFE = [
    "(output[mask] - target[mask]).square().mean()",
    "F.mse_loss(output[mask], target[mask])",
    'F.mse_loss(output, target.where(mask, 0.0), reduction="none")[mask].mean()',
    "F.cross_entropy(logits, label, ignore_index=-100)",
]
UNSAFE = [
    "(error * mask).sum() / mask.sum()",
    "error[mask].mean()",
    "error.nanmean()",
    "error.where(mask, 0.0).sum() / mask.sum()",
]
SWITCHES = {
    "by default": {},
    "detect_anomaly": {"detect_anomaly": True},
    "bf16-mixed": {"precision": "bf16-mixed", "detect_anomaly": True},
    "bf16-true": {"precision": "bf16-true", "detect_anomaly": True},
    "64-true": {"precision": "64-true", "detect_anomaly": True},
    "clipped by norm": {"gradient_clip_val": 0.5, "detect_anomaly": True},
    "clipped by value": {"gradient_clip_val": 0.5, "gradient_clip_algorithm": "value"},
    "accumulated": {"accumulate_grad_batches": 3, "detect_anomaly": True},
    "compiled": {},
}


def masked_loss(form):
    return eval(f"lambda output, target, mask, logits, label, error: {form}", {"F": F})


def test_every_form_with_a_mask_in_the_readme_is_one_of_those():
    paragraph = README.partition("**Missing labels.**")[2].partition("**Scales")[0]
    paragraph = re.sub("```.*?```", "", paragraph)
    forms = {form for form in re.findall(r"`([^`]+)`", paragraph) if re.search(r"mask|error\.|target|label\b", form)}
    others = {"error = (output - target).square()", "self.weigh(errors, mask=mask)"}
    assert forms - others == {*SAFE, *UNSAFE}


@pytest.mark.parametrize("kept", [[True, True, True], [True, False, True], [False, False, False]], ids=str)
@pytest.mark.parametrize("form", SAFE)
def test_a_safe_form_has_the_gradient_of_the_labels_that_are_there(form, kept):
    mask, logits = torch.tensor(kept), torch.tensor([[0.5, 2.0], [-1.0, 1.0], [2.0, 0.0]])

    def gradient(rows, target, label, mask):
        rows = rows.clone().requires_grad_()
        masked_loss(form)(rows[:, 0], target, mask, rows, label, (rows[:, 0] - target).square()).backward()
        return rows.grad

    target, label = torch.tensor([1.0, 2.0, -3.0]), torch.tensor([0, 1, 1])
    found = gradient(logits, target.where(mask, torch.nan), label.where(mask, -100), mask)
    expected = torch.zeros_like(logits)
    if any(kept):
        expected[mask] = gradient(logits[mask], target[mask], label[mask], mask[mask])
    assert torch.equal(found, expected)


class Masked(Weighed):
    """Every other batch has no labels of the second task; those that are missing are NaN."""

    def __init__(self, form):
        super().__init__(lr=0.01)
        self.loss = masked_loss(form)

    def losses(self, batch):
        output, target = self.net(batch[0]), batch[1]
        mask = torch.arange(len(target)) < (0 if self.trainer.global_step % 2 else 3)
        one, known = output[:, 1], target[:, 1].where(mask, torch.nan)
        label = (target[:, 1] > 0.0).long().where(mask, -100)
        loss = self.loss(one, known, mask, output, label, (one - known).square())
        return {"a": (output[:, 0] - target[:, 0]).square().mean(), "b": loss}


@pytest.mark.parametrize("switch", SWITCHES)
@pytest.mark.parametrize("form", SAFE)
@pytest.mark.filterwarnings("ignore:The loss of task 'b' was NaN")
@pytest.mark.filterwarnings("ignore:You have turned on `Trainer\\(detect_anomaly=True\\)`")
@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor that is not a leaf")  # dynamo reads it
def test_a_mask_that_is_written_as_the_readme_says_survives_every_switch(tmp_path, form, switch):
    if switch == "compiled" and f"`{form}`, but not with an empty mask under `torch.compile`" in README:
        return
    module = Masked(form)
    if switch == "compiled":
        module.loss = torch.compile(module.loss, backend="aot_eager")
    fit(tmp_path, module, max_epochs=1, **SWITCHES[switch])
    assert all(torch.isfinite(parameter).all() for parameter in module.parameters())
    facts = module.uncertainty.snapshot().tasks["b"]
    assert facts.nonfinite > 0
    assert math.isfinite(facts.log_var)


RECOMMENDED = 'F.mse_loss(output, target.where(mask, 0.0), reduction="none")'


class Columns(Weighed):
    """The errors of all tasks with a mask; every other batch has an empty column."""

    def training_step(self, batch, batch_idx):
        target = batch[1].clone()
        target[0 if self.trainer.global_step % 2 else 3 :, 1] = torch.nan
        errors = eval(RECOMMENDED, {"F": F, "output": self.net(batch[0]), "target": target, "mask": ~target.isnan()})
        return self.weigh(errors, mask=~target.isnan())


@pytest.mark.parametrize("switch", SWITCHES)
@pytest.mark.filterwarnings("ignore:You have turned on `Trainer\\(detect_anomaly=True\\)`")
@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor that is not a leaf")
def test_errors_with_a_mask_survive_every_switch(tmp_path, switch):
    assert RECOMMENDED in README
    module = Columns()
    if switch == "compiled":
        module.weigh = torch.compile(module.weigh, backend="aot_eager")
    fit(tmp_path, module, max_epochs=1, **SWITCHES[switch])
    assert all(torch.isfinite(parameter).all() for parameter in module.parameters())
    assert (module.uncertainty.steps, module.uncertainty.snapshot().tasks["b"].nonfinite) == (
        8 if switch == "accumulated" else 24,
        0,
    )


@pytest.mark.parametrize("kept", [[[1, 1], [1, 1]], [[1, 0], [1, 1]], [[1, 0], [1, 0]], [[0, 0], [0, 0]]], ids=str)
@pytest.mark.parametrize("compiled", [False, True])
def test_errors_with_a_mask_have_the_gradient_of_the_labels_that_are_there(kept, compiled):
    mask, output = torch.tensor(kept).bool(), torch.tensor([[0.5, 2.0], [-1.0, 1.0]], requires_grad=True)
    target, weighting = torch.tensor([[1.0, -1.0], [3.0, 0.0]]).where(mask, torch.nan), UncertaintyWeighting(TASKS)
    weighting.weights = {"a": 2.0, "b": 1.0}
    total = eval(f"lambda output, target, mask: weighting({RECOMMENDED}, mask=mask)", {"F": F, "weighting": weighting})
    (torch.compile(total, backend="aot_eager") if compiled else total)(output, target, mask).backward()
    slopes = 2.0 * (output - target).detach().where(mask, 0.0) / mask.sum(0).clamp(min=1)
    assert torch.allclose(output.grad, slopes)  # gaussian: half of 2.0


@pytest.mark.parametrize("form", UNSAFE)
@pytest.mark.filterwarnings("ignore:The loss of task 'b' was NaN")
def test_a_mask_that_the_readme_warns_of_spoils_the_network(tmp_path, form):
    module, _ = fit(tmp_path, Masked(form), max_epochs=1)
    assert not all(torch.isfinite(parameter).all() for parameter in module.parameters())
