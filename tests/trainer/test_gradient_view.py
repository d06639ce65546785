"""The gradients of the tasks on what they share, against derivatives written out by hand."""

import csv
import math

import lightning as L
import numpy as np
import pytest
import torch
from lightning.pytorch.callbacks import Callback, ModelCheckpoint
from lightning.pytorch.loggers import CSVLogger
from matplotlib.figure import Figure
from torch.utils.checkpoint import checkpoint

from lightning_uncertainty import CrossEntropy, GradientView, UncertaintyMixin, UncertaintyWarning
from lightning_uncertainty.reporting.gradients import GradientSnapshot, plot_cosines, plot_gradient_norms
from tests.docs.compatibility import precision_options
from tests.models import Loader, fit, trainer
from tests.paper import UncertaintyCallback
from tests.workers import gradient_ranks
from tests.workers.processes import run_ranks

COUNT, SIZE = 8, 6


class Shared(UncertaintyMixin, L.LightningModule):
    """A linear encoder, a linear head per task; nothing but what can be differentiated by hand."""

    tasks = {"a": "gaussian", "b": "laplace", "kind": "softmax"}

    def __init__(self):
        super().__init__()
        torch.manual_seed(3)
        self.encoder = torch.nn.Linear(4, 3)
        self.heads = torch.nn.ModuleDict({"a": torch.nn.Linear(3, 1), "b": torch.nn.Linear(3, 1)})
        self.heads["kind"] = torch.nn.Linear(3, 2)

    def losses(self, batch):
        x, y = batch
        features = self.encoder(x)
        a, b = (self.heads[name](features)[:, 0] for name in "ab")
        kind = torch.nn.functional.cross_entropy(self.heads["kind"](features), (y[:, 0] > 0.0).long())
        return {"a": (a - y[:, 0]).square().mean(), "b": (b - y[:, 1]).abs().mean(), "kind": kind}

    def training_step(self, batch, batch_idx):
        return self.weigh(self.losses(batch))

    def configure_optimizers(self):
        return torch.optim.Adam(self.parameters(), lr=0.05)


class Manual(Shared):
    automatic_optimization = False

    def training_step(self, batch, batch_idx):
        optimizer = self.optimizers()
        optimizer.zero_grad()
        self.manual_backward(self.weigh(self.losses(batch)))
        optimizer.step()


class Recorder(Callback):
    """The weights of the network and of the losses before each batch, and the batch."""

    def __init__(self):
        self.steps = []

    def on_train_batch_start(self, trainer, module, batch, batch_idx):
        state = {name: value.detach().double().numpy().copy() for name, value in module.state_dict().items()}
        batch = [tensor.double().numpy() for tensor in batch]
        self.steps.append((trainer.global_step, state, batch, module.uncertainty.fixed_weights()))


def data(dtype=torch.float32):
    generator = torch.Generator().manual_seed(7)
    x = torch.randn(COUNT * SIZE, 4, generator=generator)
    y = x @ torch.randn(4, 2, generator=generator) + torch.randn(COUNT * SIZE, 2, generator=generator)
    return Loader(x.to(dtype), y.to(dtype), size=SIZE)


def by_hand(state, batch):
    """The gradient of each raw loss on weight and bias of the encoder, by the chain rule, in double precision."""
    x, y = batch
    features = x @ state["encoder.weight"].T + state["encoder.bias"]
    outputs = {n: features @ state[f"heads.{n}.weight"].T + state[f"heads.{n}.bias"] for n in Shared.tasks}
    size = len(x)
    logits = outputs["kind"] - outputs["kind"].max(axis=1, keepdims=True)
    probability = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    slopes = {
        "a": 2.0 * (outputs["a"] - y[:, :1]) / size,
        "b": np.sign(outputs["b"] - y[:, 1:]) / size,
        "kind": (probability - np.eye(2)[(y[:, 0] > 0.0).astype(int)]) / size,
    }
    gradients = {}
    for name, slope in slopes.items():
        back = slope @ state[f"heads.{name}.weight"]
        gradients[name] = np.concatenate([(back.T @ x).ravel(), back.sum(axis=0)])
    return gradients


def expected(recorder, accumulate=1):
    """By optimizer step: norms and cosines of the mean over the micro-batches, as Lightning takes it."""
    vectors = {}
    for step, state, batch, _ in recorder.steps:
        for name, gradient in by_hand(state, batch).items():
            vectors.setdefault(step, {}).setdefault(name, []).append(gradient / accumulate)
    results = {}
    for step, tasks in vectors.items():
        total = {name: np.sum(gradients, axis=0) for name, gradients in tasks.items()}
        norms = {name: np.linalg.norm(vector) for name, vector in total.items()}
        pairs = [("a", "b"), ("a", "kind"), ("b", "kind")]
        cosines = {pair: total[pair[0]] @ total[pair[1]] / (norms[pair[0]] * norms[pair[1]]) for pair in pairs}
        results[step] = norms, cosines
    return results


def looked(folder, module=None, *, every=1, loader=None, callbacks=(), **options):
    """Train with a view of the encoder; the view and the record of what it should have seen."""
    view, recorder = GradientView("encoder", every_n_steps=every), Recorder()
    fit(folder, module or Shared(), data=loader or data(), callbacks=[recorder, view, *callbacks], **options)
    return view, recorder


@pytest.mark.parametrize(
    ("module", "options", "tolerance"),
    [
        (Shared, {}, 1e-5),
        (Shared, {"accumulate_grad_batches": 3}, 1e-5),
        (Shared, precision_options("64-true"), 1e-5),
        (Shared, precision_options("bf16-mixed"), 3e-2),
        (Shared, precision_options("16-mixed"), 5e-3),
        (Shared, {"gradient_clip_val": 1e-3}, 1e-5),
        (Manual, {}, 1e-5),
    ],
    ids=["single", "accumulation", "double", "bf16-mixed", "16-mixed", "clipping", "manual"],
)
def test_norms_and_cosines_are_those_of_derivatives_by_hand(tmp_path, module, options, tolerance):
    dtype = torch.float64 if options.get("precision") == "64-true" else torch.float32
    view, recorder = looked(tmp_path, module(), loader=data(dtype), **options)
    truth = expected(recorder, options.get("accumulate_grad_batches", 1))
    assert [snapshot.step for snapshot in view.snapshots] == list(truth)
    assert len(truth) == (6 if "accumulate_grad_batches" in options else 16)
    for snapshot in view.snapshots:
        norms, cosines = truth[snapshot.step]
        assert snapshot.norms == pytest.approx(norms, rel=tolerance)
        assert snapshot.cosines == pytest.approx(cosines, abs=2.0 * tolerance)


def test_weighted_norms_have_the_factor_of_the_task_in_the_total(tmp_path):
    view, recorder = looked(tmp_path)
    factors = {step: weights for step, _, _, weights in recorder.steps}
    for snapshot in view.snapshots[1:]:  # in the first step the losses themselves decide
        weighted = {name: factors[snapshot.step][name] * norm for name, norm in snapshot.norms.items()}
        assert snapshot.weighted_norms == pytest.approx(weighted, rel=1e-6)
    assert len({snapshot.factors["a"] for snapshot in view.snapshots}) > 10


@pytest.mark.parametrize(
    "options",
    [{}, {"accumulate_grad_batches": 3}, precision_options("bf16-mixed"), precision_options("16-mixed")],
    ids=["single", "accumulation", "bf16-mixed", "16-mixed"],
)
def test_training_is_bit_identical_with_and_without(tmp_path, options):
    class Noisy(Shared):
        """With all that would notice a second forward pass."""

        def __init__(self):
            super().__init__()
            self.encoder = torch.nn.Sequential(self.encoder, torch.nn.BatchNorm1d(3), torch.nn.Dropout(0.3))

    def train(*callbacks):
        torch.manual_seed(4)
        module, _ = fit(tmp_path, Noisy(), data=data(), callbacks=callbacks, **options)
        return {**module.state_dict(), "s": module.uncertainty.log_var, "random": torch.rand(1)}

    view = GradientView("encoder", every_n_steps=2)
    with_view, without = train(view), train()
    assert view.snapshots
    for name, value in without.items():
        assert torch.equal(with_view[name], value), name


@pytest.mark.usefixtures("empty_pictures")
def test_it_looks_every_so_many_steps_and_logs_under_lightnings_step(tmp_path):
    logger = CSVLogger(tmp_path, name="", version="logs")
    view, recorder = looked(tmp_path, every=3, logger=logger, log_every_n_steps=1, accumulate_grad_batches=2)
    assert [snapshot.step for snapshot in view.snapshots] == [0, 3, 6]
    with open(f"{logger.log_dir}/metrics.csv") as file:
        rows = {int(row["step"]): row for row in csv.DictReader(file) if row["gradients/norm/a"]}
    assert list(rows) == [0, 3, 6]
    truth = expected(recorder, 2)
    for step, row in rows.items():
        norms, cosines = truth[step]
        assert float(row["gradients/norm/b"]) == pytest.approx(norms["b"], rel=1e-5)
        assert float(row["gradients/cosine/a/kind"]) == pytest.approx(cosines["a", "kind"], abs=1e-5)
        assert float(row["gradients/cosine/lowest"]) == pytest.approx(min(cosines.values()), abs=1e-5)
        assert float(row["gradients/cosine/mean"]) == pytest.approx(np.mean(list(cosines.values())), abs=1e-5)


def test_between_its_looks_nothing_listens(tmp_path):
    heard = []

    class Watch(Callback):
        def on_before_backward(self, trainer, module, loss):
            heard.append(len(module.uncertainty.observers))

        def on_train_batch_end(self, trainer, module, outputs, batch, batch_idx):
            assert module.uncertainty.observers == []

    looked(tmp_path, every=4, callbacks=[Watch()], max_epochs=1)
    assert heard == [1, 0, 0, 0, 1, 0, 0, 0]


@pytest.mark.filterwarnings("ignore:The loss of task 'b' was NaN")
@pytest.mark.parametrize("absent", ["left out", "NaN"])
def test_a_task_that_sits_out_is_nan_and_the_others_are_as_ever(tmp_path, absent):
    class Sometimes(Shared):
        def losses(self, batch):
            losses = super().losses(batch)
            if self.trainer.global_step == 2:
                if absent == "left out":
                    del losses["b"]
                else:
                    losses["b"] = self.heads["b"](self.encoder(batch[0][:0])).mean()  # over no labels at all
            return losses

    view, recorder = looked(tmp_path, Sometimes())
    norms, cosines = expected(recorder)[2]
    seen = view.snapshots[2]
    assert math.isnan(seen.norms["b"])
    assert math.isnan(seen.cosines["a", "b"])
    assert seen.norms["a"] == pytest.approx(norms["a"], rel=1e-5)
    assert seen.metrics()["gradients/cosine/lowest"] == pytest.approx(cosines["a", "kind"], abs=1e-5)
    assert seen.metrics().keys() == view.snapshots[1].metrics().keys()


def test_exact_softmax_tasks_and_modules_without_the_mixin_are_seen_too(tmp_path):
    class Returned(Shared):
        tasks = {"a": "gaussian", "b": "laplace", "kind": "softmax_exact"}

        def losses(self, batch):
            x, y = batch
            logits = self.heads["kind"](self.encoder(x))
            return {**super().losses(batch), "kind": CrossEntropy(logits, (y[:, 0] > 0.0).long())}

        def training_step(self, batch, batch_idx):
            return self.weigh(self.losses(batch))

    view, recorder = looked(tmp_path, Returned())
    assert view.snapshots[0].norms == pytest.approx(expected(recorder)[0][0], rel=1e-5)  # s is 0 at first

    class Plain(L.LightningModule):
        __init__, losses, configure_optimizers = Shared.__init__, Shared.losses, Shared.configure_optimizers

        def training_step(self, batch, batch_idx):
            return {"losses": self.losses(batch)}

    class Bare(Plain):
        def __init__(self):
            L.LightningModule.__init__(self)
            self.encoder, self.heads = Shared().encoder, Shared().heads

        def losses(self, batch):
            return Shared.losses(self, batch)

    view = GradientView("encoder", every_n_steps=1)
    fit(tmp_path, Bare(), data=data(), callback=UncertaintyCallback(Shared.tasks), callbacks=[view])
    reference, _ = looked(tmp_path)
    assert [s.norms for s in view.snapshots] == [s.norms for s in reference.snapshots]


def test_parameters_that_are_frozen_or_that_a_task_does_not_reach_count_as_zero(tmp_path):
    class Partly(Shared):
        def __init__(self):
            super().__init__()
            self.encoder.bias.requires_grad_(False)

        def losses(self, batch):
            losses = super().losses(batch)
            return {**losses, "kind": self.heads["kind"].weight.square().sum()}

    view, recorder = looked(tmp_path, Partly())
    step, state, batch, _ = recorder.steps[1]
    for name in "ab":
        gradient = by_hand(state, batch)[name][:12]  # the weight alone
        assert view.snapshots[step].norms[name] == pytest.approx(np.linalg.norm(gradient), rel=1e-5)
    assert view.snapshots[step].norms["kind"] == 0.0  # not NaN: it took part
    assert view.snapshots[step].metrics()["gradients/weighted/kind"] == 0.0
    assert math.isnan(view.snapshots[step].cosines["a", "kind"])


def test_a_part_that_is_frozen_is_not_looked_at_until_it_is_trained(tmp_path):
    class Thawed(Shared):
        def __init__(self):
            super().__init__()
            self.encoder.requires_grad_(False)

        def on_train_batch_end(self, outputs, batch, batch_idx):
            self.encoder.requires_grad_(self.global_step in (3, 4))

        def on_train_batch_start(self, batch, batch_idx):
            self.encoder.weight.requires_grad_(self.global_step == 3)  # after the view has had a look

    with pytest.warns(UncertaintyWarning, match="while all parameters of 'encoder' are frozen") as caught:
        view, recorder = looked(tmp_path, Thawed(), max_epochs=1)
    assert len([w for w in caught if issubclass(w.category, UncertaintyWarning)]) == 1
    assert [snapshot.step for snapshot in view.snapshots] == [3, 4]
    whole, bias = (expected_vectors(recorder, step) for step in (3, 4))
    for name in Shared.tasks:
        assert view.snapshots[0].norms[name] == pytest.approx(np.linalg.norm(whole[name]), rel=1e-5)
        assert view.snapshots[1].norms[name] == pytest.approx(np.linalg.norm(bias[name][12:]), rel=1e-5)


def expected_vectors(recorder, step):
    return by_hand(*recorder.steps[step][1:3])


def test_two_views_do_not_disturb_each_other(tmp_path):
    one, other = (GradientView(name, every_n_steps=2, log_prefix=name) for name in ("encoder", "heads.a"))
    fit(tmp_path, Shared(), data=data(), callbacks=[one, other])
    for view, name in ((one, "encoder"), (other, "heads.a")):
        alone = GradientView(name, every_n_steps=2)
        fit(tmp_path, Shared(), data=data(), callbacks=[alone])
        assert [s.norms for s in view.snapshots] == [s.norms for s in alone.snapshots]
        assert len(view.snapshots) == COUNT  # of two epochs, every second step
    clash = [GradientView("encoder"), GradientView("heads.a")]
    with pytest.raises(ValueError, match="would log under the same keys"):
        fit(tmp_path, Shared(), data=data(), callbacks=clash)


def test_a_batch_that_was_skipped_is_not_counted_twice(tmp_path):
    class Skipping(Shared):
        def on_train_batch_start(self, batch, batch_idx):
            return -1 if self.current_epoch == 1 else None  # ends the epoch

    view, recorder = looked(tmp_path, Skipping(), every=COUNT, max_epochs=3)
    state, batch, _ = recorder.steps[-COUNT][1:]  # the epoch that was skipped has a start as well
    norms = {name: np.linalg.norm(gradient) for name, gradient in by_hand(state, batch).items()}
    assert view.snapshots[1].norms == pytest.approx(norms, rel=1e-5)


class Outer(L.LightningModule):
    """Two inner modules that weigh for themselves, or one."""

    automatic_optimization = False

    def __init__(self, *names):
        super().__init__()
        self.trunk = torch.nn.Linear(1, 1)
        self.inner = torch.nn.ModuleDict({name: Shared() for name in names})

    def training_step(self, batch, batch_idx):
        optimizer = self.optimizers()
        for inner in self.inner.values():
            self.manual_backward(inner.weigh(inner.losses(batch)))
        optimizer.step()
        optimizer.zero_grad()

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.01)


def weighing(*names):
    return [UncertaintyCallback(module=f"inner.{n}", name=n, log_prefix=n) for n in names]


@pytest.mark.parametrize("names", [("one",), ("one", "two")], ids=len)
def test_tasks_of_the_module_around_the_shared_part_are_seen(tmp_path, names):
    view, outer = GradientView("inner.one.encoder", every_n_steps=1), Outer(*names)
    trainer(tmp_path, view, *weighing(*names), max_epochs=1).fit(outer, data())
    assert len(view.snapshots) == COUNT
    batch = [tensor.double().numpy() for tensor in next(iter(data()))]
    state = {name: value.double().numpy() for name, value in Shared().state_dict().items()}
    expected_norms = {name: np.linalg.norm(gradient) for name, gradient in by_hand(state, batch).items()}
    assert view.snapshots[0].norms == pytest.approx(expected_norms, rel=1e-5)
    assert list(outer.inner["one"].uncertainty.observers) == []


def test_a_view_that_cannot_tell_whose_tasks_are_meant_says_so(tmp_path):
    for callbacks, said in ((weighing("one", "two"), "'inner.one', 'inner.two' weigh for"), ([], "has no tasks")):
        with pytest.raises(ValueError, match=said):
            trainer(tmp_path, GradientView("trunk"), *callbacks).fit(Outer("one", "two"), data())


def test_two_processes_with_half_a_batch_each_see_what_one_sees_with_the_whole(tmp_path):
    one, other = run_ranks(gradient_ranks.halves, tmp_path, folder=tmp_path / "two")
    (alone,) = run_ranks(gradient_ranks.halves, tmp_path, folder=tmp_path / "one", world=1)
    for flavour, seen in one.items():
        assert seen["snapshots"] == other[flavour]["snapshots"]
        for ours, theirs in zip(seen["snapshots"], alone["ddp"]["snapshots"], strict=True):
            assert ours.norms == pytest.approx(theirs.norms, rel=1e-4)
            assert ours.cosines == pytest.approx(theirs.cosines, abs=1e-4)
        for mine, its in zip(seen["network"], other[flavour]["network"], strict=True):
            assert torch.equal(mine, its)
        for mine, its in zip(seen["network"], seen["network without"], strict=True):
            assert torch.equal(mine, its)  # the reducer of DDP has noticed nothing


def test_a_resumed_run_has_one_history(tmp_path):
    saver = ModelCheckpoint(tmp_path, filename="half", every_n_train_steps=8, save_top_k=-1)
    whole, _ = looked(tmp_path, every=3, callbacks=[saver], enable_checkpointing=True)
    resumed = GradientView("encoder", every_n_steps=3)
    fit(
        tmp_path,
        Shared(),
        data=data(),
        callbacks=[resumed, saver],
        ckpt_path=tmp_path / "half.ckpt",
        enable_checkpointing=True,
    )
    assert [s.step for s in resumed.snapshots] == [0, 3, 6, 9, 12, 15]
    for ours, theirs in zip(resumed.snapshots, whole.snapshots, strict=True):
        assert ours.norms == pytest.approx(theirs.norms)
        assert ours.cosines == pytest.approx(theirs.cosines)


@pytest.mark.parametrize(("tasks", "looks"), [(2, 5000), (30, 2000), (300, 20)])
def test_a_long_run_is_thinned_out_evenly_and_its_state_stays_small(tasks, looks):
    names = [f"task{i}" for i in range(tasks)]
    pairs = {(one, other): 0.5 for i, one in enumerate(names) for other in names[i + 1 :]}
    view = GradientView("encoder")
    for step in range(looks):
        view._keep(GradientSnapshot(step, dict.fromkeys(names, 1.0), dict.fromkeys(names, 1.0), pairs))
    steps = [snapshot.step for snapshot in view.snapshots]
    gaps = np.diff(steps)
    assert steps[0] == 0
    assert steps[-1] == looks - 1
    assert len(set(gaps[:-1])) <= 1
    assert 0 < gaps[-1] <= gaps[0]
    assert view.state_dict()["values"].nbytes < 1e6


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"module": ""}, "needs the name"),
        ({"every_n_steps": 0}, "at least 1"),
        ({"every_n_steps": 1.5}, "every_n_steps"),
    ],
    ids=["no module", "never", "a fraction"],
)
def test_bad_arguments_are_refused(options, said):
    with pytest.raises(ValueError, match=said):
        GradientView(**{"module": "encoder", **options})


class Empty(Shared):
    def __init__(self):
        super().__init__()
        self.encodr = torch.nn.Identity()


class Searching(Shared):
    def configure_optimizers(self):
        return torch.optim.LBFGS(self.parameters())


class Compiled(Shared):
    def __init__(self):
        super().__init__()
        self.encoder.compile(backend="eager")


class Checkpointed(Shared):
    reentrant = True

    def losses(self, batch):
        features = checkpoint(self.encoder, batch[0].detach().requires_grad_(), use_reentrant=self.reentrant)
        a, b = (self.heads[name](features)[:, 0].square().mean() for name in "ab")
        return {"a": a, "b": b}


@pytest.mark.parametrize(
    ("module", "name", "error", "said"),
    [
        (Shared, "encodr", ValueError, "Did you mean 'encoder'"),
        (Empty, "encodr", ValueError, "has no parameters"),
        (Searching, "encoder", ValueError, "LBFGS"),
        (Compiled, "encoder", ValueError, "torch.compile frees"),
        (Checkpointed, "encoder", ValueError, "use_reentrant=False"),
    ],
    ids=["unknown module", "no parameters", "LBFGS", "compiled", "reentrant checkpointing"],
)
def test_where_it_cannot_work_it_says_why(tmp_path, module, name, error, said):
    with pytest.raises(error, match=said):
        fit(tmp_path, module(), data=data(), callbacks=[GradientView(name, every_n_steps=1)])


def test_checkpointing_of_the_other_kind_works(tmp_path):
    class Recomputed(Checkpointed):
        reentrant = False

    class Kept(Checkpointed):
        def losses(self, batch):
            a, b = (self.heads[name](self.encoder(batch[0]))[:, 0].square().mean() for name in "ab")
            return {"a": a, "b": b}

    views = [looked(tmp_path, module())[0] for module in (Recomputed, Kept)]
    assert [s.norms["a"] for s in views[0].snapshots] == pytest.approx(
        [s.norms["a"] for s in views[1].snapshots], rel=1e-4
    )


@pytest.mark.parametrize("case", gradient_ranks.REFUSED)
def test_strategies_that_shard_and_norms_that_talk_are_refused(tmp_path, case):
    for said in run_ranks(gradient_ranks.refused, tmp_path, case, folder=tmp_path):
        assert gradient_ranks.REFUSED[case] in said


def test_after_an_error_nothing_listens(tmp_path):
    class Failing(Shared):
        def on_before_optimizer_step(self, optimizer):
            raise OSError("mine")

    module = Failing()
    with pytest.raises(OSError, match="mine"):
        fit(tmp_path, module, data=data(), callbacks=[GradientView("encoder", every_n_steps=1)])
    assert module.uncertainty.observers == []


# ---------------------------------------------------------------------------------------------------- pictures


def snapshots(tasks, looks=5):
    """Norms that grow with the task's number, and pairs that agree or not by turns."""
    names = [f"task {i}" for i in range(tasks)]
    cosines = {(one, other): (-1.0) ** (i + j) for i, one in enumerate(names) for j, other in enumerate(names) if i < j}
    norms = {name: 1.0 + i for i, name in enumerate(names)}
    return [GradientSnapshot(10 * look, norms, dict.fromkeys(names, 0.5), cosines) for look in range(looks)]


@pytest.mark.parametrize("tasks", [1, 3, 30, 300])
def test_pictures_show_every_task_and_pair(tasks):
    seen = snapshots(tasks)
    lines, heat = Figure().subplots(1, 2)
    assert plot_gradient_norms(lines, seen) is lines
    assert plot_cosines(heat, seen) is heat
    named = [i for i in range(tasks) if tasks <= 8 or i < 3 or i >= tasks - 3]
    assert [text.get_text() for text in lines.get_legend().get_texts()] == [f"task {i}" for i in reversed(named)]
    ends = {line.get_label(): line.get_ydata()[-1] for line in lines.get_lines()}
    assert all(ends[f"task {i}"] == 0.5 + 0.5 * i for i in named)
    assert sorted(line.get_ydata()[-1] for line in lines.get_lines()) == [0.5 * (1.0 + i) for i in range(tasks)]
    matrix = heat.images[0].get_array()
    assert matrix.shape == (tasks, tasks)
    assert np.array_equal(matrix, [[(-1.0) ** (i + j) for j in range(tasks)] for i in range(tasks)])


def test_raw_norms_are_shown_on_request_and_nothing_is_an_error():
    axis = plot_gradient_norms(Figure().subplots(), snapshots(2, looks=1), weighted=False)
    assert {line.get_label(): line.get_ydata()[0] for line in axis.get_lines()} == {"task 0": 1.0, "task 1": 2.0}
    for plot in (plot_gradient_norms, plot_cosines):
        with pytest.raises(ValueError, match="nothing to plot"):
            plot(Figure().subplots(), [])
