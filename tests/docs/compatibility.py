"""What works with what: the one table from which the matrix is tested and docs/compatibility.md is written.

To write the page again: ``python -m tests.docs.compatibility``
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch.callbacks import GradientAccumulationScheduler
from lightning.pytorch.plugins import MixedPrecision
from lion_pytorch import Lion
from torch.optim import lr_scheduler as schedulers
from torch.optim.swa_utils import SWALR

ROOT = Path(__file__).parents[2]
PAGE = ROOT / "docs" / "compatibility.md"

# ---------------------------------------------------------------------------------------------------- columns

PRECISIONS = ("32-true", "bf16-mixed", "16-mixed", "bf16-true", "16-true", "64-true")

# Autocast and the kernels of half precision are others on a GPU; single and double precision do the same there.
_DIFFERS_ON_GPU = {"bf16-mixed", "16-mixed", "bf16-true", "16-true"}


def precision_options(precision: str) -> dict[str, Any]:
    """The options of a Trainer on the CPU; fp16 needs a scaler that Lightning makes by itself only on a GPU."""
    if precision == "16-mixed":
        return {"plugins": MixedPrecision("16-mixed", device="cpu", scaler=torch.amp.GradScaler("cpu"))}
    return {"precision": precision}


# ---------------------------------------------------------------------------------------------------- rows

Configure = Callable[[torch.nn.Linear], Any]


def sgd(net: torch.nn.Linear) -> torch.optim.Optimizer:
    return torch.optim.SGD(net.parameters(), lr=0.01, momentum=0.9, weight_decay=0.01)


@dataclass(frozen=True)
class Case:
    """One way to train.

    Args:
        configure: what the module's ``configure_optimizers`` does with its layer.
        trainer: options of the Trainer.
        callbacks: makes callbacks of the Trainer.
        manual: the module steps all its optimizers by hand.
        reads_loss: the optimizer reads the value of the loss, which this package does not round to half precision: a
            run without it equals one with it if its sum is not rounded either.
        inexact: why Lightning itself does not resume exactly in the middle of an epoch; empty if it does.
    """

    configure: Configure = sgd
    trainer: Mapping[str, Any] = field(default_factory=dict)
    callbacks: Callable[[], list[Any]] = list
    manual: bool = False
    reads_loss: bool = False
    inexact: str = ""


@dataclass(frozen=True)
class Row:
    """A feature of Lightning or torch.

    Args:
        title: Name on the page.
        cases: Cases by readable name; all are tested in every precision that is not in ``refused``.
        refused: Error of Lightning or torch by precision, with or without this package.
        device_bound: True if other code runs on a GPU, whatever the precision.
    """

    title: str
    cases: Mapping[str, Case]
    refused: Mapping[str, str] = field(default_factory=dict)
    device_bound: bool = False

    def status(self, precision: str) -> str:
        if precision in self.refused:
            return "not run"
        return "tested on CPU only" if self.device_bound or precision in _DIFFERS_ON_GPU else "tested"


# Both measured without the plugin; the tests measure them again.
_NO_FACTOR = "GradientAccumulationScheduler sets its factor when an epoch starts, which a resumed one does not"
_NO_PLATEAU_STEP = "Lightning restores one scheduler step too few for ReduceLROnPlateau"


def _with(optimizer: type[torch.optim.Optimizer], **options: Any) -> Case:
    return Case(lambda net: optimizer(net.parameters(), **options))


def _adamw(**options: Any) -> Case:
    # The default eps of 1e-8 is zero in fp16, and Adam then divides by it: 16-true needs a larger one.
    return _with(torch.optim.AdamW, lr=0.01, eps=1e-4, weight_decay=0.1, **options)


def _two_optimizers(net: torch.nn.Linear) -> list[torch.optim.Optimizer]:
    return [torch.optim.SGD([net.weight], lr=0.01, momentum=0.9), torch.optim.AdamW([net.bias], lr=0.01, eps=1e-4)]


def _two_groups(net: torch.nn.Linear) -> torch.optim.Optimizer:
    groups = [{"params": [net.weight], "lr": 0.01}, {"params": [net.bias], "lr": 0.02}]
    return torch.optim.SGD(groups, lr=0.01, momentum=0.9)


def _scheduled(make: Callable[[torch.optim.Optimizer], Any], *, inexact: str = "", **config: Any) -> Case:
    def configure(net: torch.nn.Linear) -> dict[str, Any]:
        optimizer = _two_groups(net)
        return {
            "optimizer": optimizer,
            "lr_scheduler": {"scheduler": make(optimizer), "interval": "step", **config},
        }

    return Case(configure, inexact=inexact)


def _in_list(net: torch.nn.Linear) -> tuple[list[Any], list[Any]]:
    optimizer = sgd(net)
    return [optimizer], [schedulers.StepLR(optimizer, 1)]


def _in_config(net: torch.nn.Linear) -> dict[str, Any]:
    optimizer = sgd(net)
    scheduler = schedulers.ReduceLROnPlateau(optimizer, patience=0)
    config = {"scheduler": scheduler, "monitor": "raw_a", "interval": "epoch", "frequency": 1}
    return {"optimizer": optimizer, "lr_scheduler": config}


def half(step: int) -> float:
    return 0.5**step


SCHEDULERS = {
    "LambdaLR": _scheduled(lambda o: schedulers.LambdaLR(o, half)),
    "LambdaLR, list": _scheduled(lambda o: schedulers.LambdaLR(o, [half, half])),
    "MultiplicativeLR": _scheduled(lambda o: schedulers.MultiplicativeLR(o, lambda _: 0.9)),
    "MultiplicativeLR, list": _scheduled(lambda o: schedulers.MultiplicativeLR(o, [lambda _: 0.9, lambda _: 0.8])),
    "StepLR": _scheduled(lambda o: schedulers.StepLR(o, 3)),
    "MultiStepLR": _scheduled(lambda o: schedulers.MultiStepLR(o, [2, 5])),
    "ConstantLR": _scheduled(lambda o: schedulers.ConstantLR(o, total_iters=3)),
    "LinearLR": _scheduled(lambda o: schedulers.LinearLR(o, total_iters=5)),
    "ExponentialLR": _scheduled(lambda o: schedulers.ExponentialLR(o, 0.9)),
    "PolynomialLR": _scheduled(lambda o: schedulers.PolynomialLR(o, 9)),
    "CosineAnnealingLR": _scheduled(lambda o: schedulers.CosineAnnealingLR(o, 9)),
    "CosineAnnealingWarmRestarts": _scheduled(lambda o: schedulers.CosineAnnealingWarmRestarts(o, 4)),
    "SequentialLR": _scheduled(
        lambda o: schedulers.SequentialLR(
            o, [schedulers.LinearLR(o, total_iters=3), schedulers.ExponentialLR(o, 0.9)], milestones=[3]
        )
    ),
    "ChainedScheduler": _scheduled(
        lambda o: schedulers.ChainedScheduler([schedulers.ConstantLR(o, total_iters=3), schedulers.StepLR(o, 4)])
    ),
    "CyclicLR": _scheduled(lambda o: schedulers.CyclicLR(o, 0.001, 0.01, step_size_up=3)),
    "CyclicLR, list": _scheduled(lambda o: schedulers.CyclicLR(o, [0.001, 0.002], [0.01, 0.02], step_size_up=3)),
    "OneCycleLR": _scheduled(lambda o: schedulers.OneCycleLR(o, 0.01, total_steps=30)),
    "OneCycleLR, list": _scheduled(lambda o: schedulers.OneCycleLR(o, [0.01, 0.02], total_steps=30)),
    "ReduceLROnPlateau": _scheduled(
        lambda o: schedulers.ReduceLROnPlateau(o, patience=0), monitor="raw_a", inexact=_NO_PLATEAU_STEP
    ),
    "ReduceLROnPlateau, list": _scheduled(
        lambda o: schedulers.ReduceLROnPlateau(o, patience=0, min_lr=[1e-3, 2e-3]),
        monitor="raw_a",
        inexact=_NO_PLATEAU_STEP,
    ),
    "SWALR": _scheduled(lambda o: SWALR(o, 0.001, anneal_epochs=4)),
    "SWALR, list": _scheduled(lambda o: SWALR(o, [0.001, 0.002], anneal_epochs=4)),
}

_NO_LBFGS = "AMP and the LBFGS optimizer are not compatible"
_NO_MOCK = "No inf checks were recorded for this optimizer"

ROWS = {
    "plain": Row("One optimizer, automatic optimisation", {"sgd": Case()}),
    "accumulation": Row(
        "Gradient accumulation: 3, 4, a short last window, `GradientAccumulationScheduler`",
        {
            "3": Case(trainer={"accumulate_grad_batches": 3}),
            "4, short last window": Case(trainer={"accumulate_grad_batches": 4}),
            "scheduled": Case(callbacks=lambda: [GradientAccumulationScheduler({0: 1, 1: 3})], inexact=_NO_FACTOR),
        },
    ),
    "clipping": Row(
        "Gradient clipping by norm and by value",
        {
            "norm": Case(trainer={"gradient_clip_val": 0.1}),
            "value": Case(trainer={"gradient_clip_val": 0.05, "gradient_clip_algorithm": "value"}),
        },
    ),
    "sgd": Row(
        "SGD with momentum, Adam, AdamW (`foreach`)",
        {
            "momentum": _with(torch.optim.SGD, lr=0.01, momentum=0.9, nesterov=True),
            "adam": _with(torch.optim.Adam, lr=0.01, eps=1e-4),
            "adamw": _adamw(),
            "foreach": _adamw(foreach=True),
        },
    ),
    "fused": Row("AdamW (`fused`)", {"fused": _adamw(fused=True)}, device_bound=True),
    "lbfgs": Row(
        "LBFGS",
        {
            "lbfgs": Case(
                lambda net: torch.optim.LBFGS(net.parameters(), lr=0.1, max_iter=3, history_size=3), reads_loss=True
            )
        },
        refused={"16-mixed": _NO_LBFGS},
    ),
    "lion": Row("A third party's optimizer (`lion-pytorch`)", {"lion": _with(Lion, lr=0.01)}),
    "configure_optimizers": Row(
        "`configure_optimizers` returns one, a list, a tuple, a dict, a scheduler configuration",
        {
            "one": Case(),
            "list": Case(lambda net: [sgd(net)]),
            "tuple": Case(lambda net: (sgd(net),)),
            "lists": Case(_in_list),
            "dict": Case(lambda net: {"optimizer": sgd(net)}),
            "config": Case(_in_config, inexact=_NO_PLATEAU_STEP),
        },
    ),
    "none": Row(
        "`configure_optimizers` returns `None`", {"none": Case(lambda _: None)}, refused={"16-mixed": _NO_MOCK}
    ),
    "manual": Row(
        "Manual optimisation, one and two optimizers",
        {"one": Case(sgd, manual=True), "two": Case(_two_optimizers, manual=True)},
    ),
    "schedulers": Row("Every scheduler of torch, with and without lists per parameter group", SCHEDULERS),
}


def cells(rows: Mapping[str, Row] = ROWS) -> dict[str, tuple[Case, str]]:
    """Every tested combination, by its readable name."""
    return {
        f"{name}: {label}, {precision}": (case, precision)
        for name, row in rows.items()
        for label, case in row.cases.items()
        for precision in PRECISIONS
        if precision not in row.refused
    }


def refused_cells() -> dict[str, tuple[Case, str, str]]:
    """Every combination that is said to be impossible, with the error that says so."""
    return {
        f"{name}: {label}, {precision}": (case, precision, error)
        for name, row in ROWS.items()
        for label, case in row.cases.items()
        for precision, error in row.refused.items()
    }


# ---------------------------------------------------------------------------------------------------- beyond the matrix


@dataclass(frozen=True)
class Feature:
    """Something that is not tested per precision.

    Args:
        title: Name on the page.
        status: ``"tested"``, ``"tested on CPU only"`` or ``"not run"``.
        file: File of its tests, or the script that would show it, from the root of the repository.
        tests: Names of the tests without ``test_``; none for what is not run.
    """

    title: str
    status: str
    file: str
    tests: tuple[str, ...] = ()

    @property
    def proof(self) -> tuple[str, ...]:
        """The tests as pytest names them."""
        return tuple(f"{self.file}::test_{name}" for name in self.tests)

    def shown_by(self) -> str:
        """The proof as in the page."""
        return "<br>".join(f"`{name}`" for name in (self.file, *(f"test_{name}" for name in self.tests)))


FEATURES = [
    Feature(
        "Checkpoints with and without this package; tasks added and removed",
        "tested",
        "tests/trainer/test_checkpoints.py",
        (
            "resumed_equals_uninterrupted_bit_for_bit",
            "the_plugin_can_be_added_to_an_existing_checkpoint",
            "the_plugin_can_be_removed_from_an_existing_checkpoint",
            "tasks_may_change_between_runs",
            "load_from_checkpoint_without_a_trainer_gives_sigma_back",
            "it_loads_with_weights_only_and_holds_plain_tensors",
        ),
    ),
    Feature(
        "A checkpoint saved on an exception (`OnExceptionCheckpoint`, `ModelCheckpoint(save_on_exception=True)`)",
        "tested",
        "tests/trainer/test_checkpoints.py",
        ("a_checkpoint_of_a_failure_after_the_optimizer_step_has_the_step_of_s",),
    ),
    Feature(
        "`kill -9` at any moment and a resume from inside an epoch: the end is the same bit for bit",
        "tested",
        "tests/trainer/test_faults.py",
        ("killed_at_random_moments_and_resumed_it_ends_bit_for_bit_like_an_uninterrupted_run",),
    ),
    Feature(
        "Damaged checkpoint entries and those of another run: refused by name",
        "tested",
        "tests/trainer/test_faults.py",
        (
            "a_damaged_entry_is_refused_by_name_and_nothing_of_it_is_loaded",
            "without_a_trainer_a_damaged_entry_is_refused_too",
            "the_entry_of_another_run_is_named_task_by_task_and_the_weights_start_from_the_data",
            "a_file_that_was_cut_off_is_refused_before_anything_is_loaded",
        ),
    ),
    Feature(
        "NaN, infinite, missing, extra and ill-shaped losses",
        "tested",
        "tests/trainer/test_faults.py",
        ("no_dictionary_of_losses_breaks_the_weights_and_every_refusal_names_the_task",),
    ),
    Feature(
        "Overflow of one task in fp16, steps skipped by the scaler",
        "tested on CPU only",
        "tests/trainer/test_precision.py",
        (
            "an_overflow_in_one_loss_leaves_its_s_and_lets_the_others_learn",
            "an_overflow_inside_the_network_is_the_scalers_and_moves_neither_s",
            "a_step_that_the_scaler_skips_is_none_of_s_and_is_counted_as_dropped",
        ),
    ),
    Feature(
        "Learned sigma in every precision agrees with 32-true as far as the losses do",
        "tested on CPU only",
        "tests/trainer/test_precision.py",
        ("learned_sigma_agrees_with_full_precision_as_far_as_the_losses_do",),
    ),
    Feature(
        "`torch.compile`: the module, parts of it, the engine; one graph, no break, a missing task as NaN",
        "tested on CPU only",
        "tests/test_compile.py",
        (
            "the_engine_is_one_graph_that_computes_what_eager_computes",
            "a_compiled_module_trains_as_an_eager_one_in_one_graph",
            "compiled_parts_train_as_eager_ones",
            "missing_labels_as_nan_cost_no_graph_and_no_finite_gradient",
        ),
    ),
    Feature(
        "`torch.compile` with changing keys: one graph per set of keys, a warning before torch's limit",
        "tested on CPU only",
        "tests/test_compile.py",
        (
            "each_set_of_keys_costs_one_graph_and_its_return_none",
            "it_warns_before_torch_makes_no_more_graphs",
        ),
    ),
    Feature(
        "`compile_step=True`: the step of the weights on another device than a CPU is one graph",
        "tested on CPU only",
        "tests/engine/test_compile_step.py",
        (
            "it_is_one_graph_that_takes_the_steps_of_the_plain_way",
            "tasks_that_are_missing_make_no_further_graph",
        ),
    ),
    Feature(
        "No host synchronisation on steps that do not log; one transfer on logging steps and on the first step",
        "tested on CPU only",
        "tests/test_host_sync.py",
        ("a_step_that_does_not_log_reads_nothing_and_one_that_logs_reads_once",),
    ),
    Feature(
        "`EMAWeightAveraging` before and after our callback, `StochasticWeightAveraging`",
        "tested",
        "tests/trainer/test_ecosystem.py",
        (
            "averaged_weights_leave_s_alone_and_resume_exactly",
            "stochastic_weight_averaging_leaves_s_alone",
            "stochastic_weight_averaging_resumes_exactly_until_it_averages",
        ),
    ),
    Feature(
        "`BaseFinetuning` with resume, `LearningRateMonitor`, `lr_find`, batch-size finder",
        "tested",
        "tests/trainer/test_ecosystem.py",
        (
            "finetuning_resumes_exactly_before_the_thaw",
            "finetuning_resumed_after_the_thaw_has_the_s_of_the_checkpoint",
            "the_keys_of_the_learning_rate_monitor_are_those_without_the_plugin",
            "after_a_search_s_is_what_it_was",
            "a_fit_that_searches_first_is_the_fit_without_the_search",
        ),
    ),
    Feature(
        "`ModelCheckpoint` and `EarlyStopping` on a weight or on `uncertainty/relative_loss`",
        "tested",
        "tests/trainer/test_callback.py",
        ("checkpoints_and_early_stopping_can_monitor_them",),
    ),
    Feature(
        "Fit twice; validate, test and predict with and without a checkpoint",
        "tested",
        "tests/trainer/test_ecosystem.py",
        ("fitting_twice_with_one_trainer_goes_on", "predicting_needs_nothing_and_changes_nothing"),
    ),
    Feature(
        "Validation and test with the weights of a checkpoint",
        "tested",
        "tests/trainer/test_checkpoints.py",
        ("validation_and_test_use_the_weights_of_the_checkpoint",),
    ),
    Feature(
        "TorchScript, tracing, `torch.export`, `torch.fx`, deepcopy and pickle, before, during and after a fit",
        "tested",
        "tests/trainer/test_ecosystem.py",
        ("a_network_can_be_shipped_before_during_and_after_a_fit",),
    ),
    Feature(
        "Masks as the README writes them, with every switch of the Trainer",
        "tested",
        "tests/trainer/test_faults.py",
        ("a_mask_that_is_written_as_the_readme_says_survives_every_switch",),
    ),
    Feature(
        "Losses and counts that are tensors of another class (MetaTensor, DTensor)",
        "tested on CPU only",
        "tests/engine/test_checks.py",
        ("no_class_of_the_data_gets_into_the_engine", "a_loss_that_is_spread_over_ranks_counts_as_a_whole"),
    ),
    Feature(
        "Unmodified modules of libraries by `losses_from`: losses of submodules, methods, logs and returned dicts",
        "tested",
        "tests/trainer/test_losses_from.py",
        (
            "a_module_as_it_is_trains_as_if_it_called_weigh",
            "what_training_step_adds_stays_and_the_rest_is_the_weighted_total",
            "no_watch_is_found_by_others_or_left_behind",
            "ranks_learn_what_they_learn_from_weigh",
        ),
    ),
    Feature(
        "Tasks, likelihoods, strategies and regularisers in saved hyperparameters, with `weights_only=True`",
        "tested",
        "tests/trainer/test_checkpoints.py",
        ("settings_in_hyperparameters_load_with_weights_only",),
    ),
    Feature(
        "`import pytorch_lightning` in the user's code",
        "tested",
        "tests/trainer/test_ecosystem.py",
        ("both_packages_train_the_same",),
    ),
    Feature(
        "LightningCLI with YAML, both packages, `fit --ckpt_path`",
        "tested",
        "tests/trainer/test_cli_lightning.py",
        ("a_yaml_file_says_it_all", "fit_with_ckpt_path_resumes_bit_for_bit"),
    ),
    Feature(
        "Fabric (32-true, bf16-mixed) with save and load; a plain torch loop with a GradScaler",
        "tested on CPU only",
        "tests/trainer/test_ecosystem.py",
        (
            "fabric_resumes_bit_for_bit",
            "a_plain_torch_loop_equals_the_trainer",
            "a_plain_torch_loop_resumes_bit_for_bit",
        ),
    ),
    Feature(
        "Two UncertaintyCallbacks in one Trainer for two inner modules, automatic and manual optimisation",
        "tested",
        "tests/trainer/test_inner_modules.py",
        (
            "each_module_learns_as_if_it_were_alone",
            "each_logs_under_its_prefix",
            "resumed_equals_uninterrupted_bit_for_bit",
            "load_from_checkpoint_without_a_trainer_gives_both_back",
        ),
    ),
    Feature(
        "Two UncertaintyCallbacks for one module: refused by name",
        "tested",
        "tests/trainer/test_ecosystem.py",
        ("two_callbacks_in_one_trainer_are_refused_with_the_way_out",),
    ),
    Feature("CUDA autocast and GradScaler, sync debug mode, inductor on a GPU", "not run", "benchmarks/gpu_checks.py"),
]

# What is promised in words, and the tests that hold it.
PROMISES = [
    Feature(
        "Layers made in `configure_model` resume exactly in every precision. Layers made in `__init__` do not resume "
        "exactly in 64-true, because Lightning first restores them in single precision. The weights of this package "
        "resume exactly in both cases.",
        "tested",
        "tests/trainer/test_matrix.py",
        (
            "s_learns_in_single_precision_and_resumes_bit_for_bit",
            "a_layer_made_early_resumes_inexactly_in_64_true_without_the_plugin_too_but_s_exactly",
        ),
    ),
    Feature(
        "A checkpoint can lie between two optimizer steps of gradient accumulation. Lightning saves no gradients, so "
        "the network loses the micro-batches before the checkpoint. `s` drops their losses in the same way.",
        "tested",
        "tests/trainer/test_matrix.py",
        ("between_two_optimizer_steps_the_losses_are_dropped_as_the_gradients_are",),
    ),
    Feature(
        "Lightning itself does not resume exactly with `ReduceLROnPlateau` and `GradientAccumulationScheduler` in the "
        "middle of an epoch. The network is then as inexact as without this package. `s` goes on exactly from its "
        "saved value.",
        "tested",
        "tests/trainer/test_matrix.py",
        ("where_resuming_is_said_to_be_inexact_it_is_so_without_the_plugin",),
    ),
    Feature(
        "The same is true while `StochasticWeightAveraging` averages.",
        "tested",
        "tests/trainer/test_ecosystem.py",
        ("resumed_while_lightning_averages_the_network_is_inexact_without_us_too_and_s_follows_its_losses",),
    ),
    Feature(
        "If a run was resumed from the last batch of an epoch, a second resume is one batch off in Lightning itself.",
        "tested",
        "tests/trainer/test_faults.py",
        ("lightning_itself_is_one_batch_off_after_two_resumes_of_which_the_first_was_at_the_end_of_an_epoch",),
    ),
    Feature(
        "A finished run can go on for more epochs. If a task is added or removed, the other tasks go on exactly.",
        "tested",
        "tests/trainer/test_matrix.py",
        (
            "after_a_finished_run_more_epochs_go_on_where_it_ended",
            "the_others_go_on_exactly_when_a_task_is_added_or_removed",
        ),
    ),
    Feature(
        "`s` takes no step where a gradient scaler skips that of the network.",
        "tested",
        "tests/trainer/test_precision.py",
        ("a_step_that_the_scaler_skips_is_none_of_s_and_is_counted_as_dropped",),
    ),
]

# What the cells of the first table are tested by.
MATRIX = Feature(
    "The first table",
    "tested",
    "tests/trainer/test_matrix.py",
    (
        "with_weights_fixed_at_one_the_users_side_is_as_without_the_plugin",
        "s_learns_in_single_precision_and_resumes_bit_for_bit",
        "what_is_said_to_be_impossible_is_so_with_and_without_the_plugin",
        "every_scheduler_of_torch_has_its_row",
    ),
)

# ---------------------------------------------------------------------------------------------------- the page

STATUSES = ("tested", "tested on CPU only", "not run")

_INTRODUCTION = """\
<!-- Written by `python -m tests.docs.compatibility` from that file; tests/docs/test_compatibility.py checks it. -->
# What works with what

Each tested cell shows three things, with a real Trainer:

- With weights fixed at 1, the whole checkpoint (network, optimizers, parameter groups, schedulers, scaler, progress) is
  the same bit for bit as that of a run without this package.
- With learned weights, `s` and its moments are fp32 and take one step per optimizer step.
- A run that is resumed in the middle of an epoch ends bit for bit like a run that was not interrupted.

The total is never rounded to half precision. Only an optimizer that reads the loss can notice this. For LBFGS in
bf16-true and 16-true, the tests therefore compare with a sum in fp32.

- **tested**: the cell ran on a CPU, and its precision is the same on every device. No cell ran on a GPU yet.
- **tested on CPU only**: the cell ran on a CPU. A GPU has another autocast, scaler or kernel.
- **not run**: in the first table, Lightning or torch refuses the combination, with or without this package. In the last
  table, there was no GPU; the script that is named is ready to run on one.

[Many processes and many hosts](distributed.md) lists the strategies with several processes.
"""

_VERSIONS = """\
## Versions
- CI runs the versions in `constraints.txt` on Python 3.11: {pinned}.
- The lowest versions are in `constraints-lowest.txt`: {lowest}. They were run by
  hand on 2026-11-23, with the 22 test files of this page, the engine, logging and the command line, and without
  the tests of faults, of several processes and of the demo: 1412 passed, 2 skipped (`EMAWeightAveraging` came with
  Lightning 2.6). FSDP2 does not run on a CPU in torch 2.5 ("FSDP requires CUDA for streams"). Older versions have
  faults of their own: inductor of torch 2.4.0 fails on the exact softmax, lightning 2.4.0 resumes accumulation at a
  wrong step, and lightning 2.5.0 to 2.5.2 change a fit after `LearningRateFinder`.
- The newest versions were run by hand on the same day, with the same files: torch 2.15.0, lightning 2.6.6: 1414 passed.
"""


def pins(name: str) -> dict[str, str]:
    """The versions that a file of constraints pins, by package."""
    lines = (line.split("#")[0].strip() for line in (ROOT / name).read_text().splitlines())
    return dict(line.lower().split("==") for line in lines if "==" in line)


def _versions(name: str) -> str:
    found = pins(name)
    return ", ".join(f"{package} {found[package]}" for package in ("torch", "lightning", "torchmetrics"))


def render() -> str:
    """The page."""
    matrix = [["", *PRECISIONS]]
    notes: list[str] = []
    for row in ROWS.values():
        line = [row.title]
        for precision in PRECISIONS:
            line.append(row.status(precision))
            if precision in row.refused:
                notes.append(f"{row.title}, {precision}: {row.refused[precision]}.")
                line[-1] += f" ({len(notes)})"
        matrix.append(line)
    features = [["", "status", "shown by"], *([f.title, f.status, f.shown_by()] for f in FEATURES)]
    promises = [["", "shown by"], *([f.title, f.shown_by()] for f in PROMISES)]
    return "\n".join(
        [
            _INTRODUCTION,
            *_table(matrix),
            "",
            *(f"({number}) {note}\n" for number, note in enumerate(notes, 1)),
            f"Shown by {', '.join(MATRIX.shown_by().split('<br>'))}.",
            "",
            "## What resuming promises",
            *_table(promises),
            "",
            _VERSIONS.format(pinned=_versions("constraints.txt"), lowest=_versions("constraints-lowest.txt")),
            "## Everything else",
            *_table(features),
            "",
        ]
    )


def _table(rows: list[list[str]]) -> list[str]:
    lines = [f"| {' | '.join(row)} |" for row in rows]
    return [lines[0], "|---" * len(rows[0]) + "|", *lines[1:]]


if __name__ == "__main__":
    PAGE.parent.mkdir(exist_ok=True)
    PAGE.write_text(render())
