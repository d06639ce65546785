"""What docs/questions.md answers is so: its code runs, and each answer has a test that shows it."""

import doctest
import math
import re

import pytest
import torch

import lightning_uncertainty as package
from lightning_uncertainty import UncertaintyWarning
from tests.paper import UncertaintyWeighting
from tests.workers.processes import ROOT

PAGE = (ROOT / "docs" / "questions.md").read_text()

# By question: where it is shown. "code": by what the page itself runs; a function here; or a test elsewhere.
SHOWN = {
    "Why is my loss negative?": ["code", "test_the_term_at_the_best_s_changes_its_sign_where_the_page_says"],
    "How large is the total?": [
        "code",
        "engine/test_scale.py::test_sum_starts_at_the_plain_sum_and_goes_on_with_the_losses_that_s_expects",
        "engine/test_scale.py::test_geometric_keeps_the_product_of_the_factors_as_the_formula_says",
        "engine/test_scale.py::test_a_reference_task_has_the_factor_of_its_importance",
    ],
    "The loss falls and falls, and nothing gets better": [
        "test_a_task_near_zero_lowers_the_total_by_half_its_logarithm"
    ],
    "What do I monitor and stop on?": [
        "code",
        "trainer/test_callback.py::test_checkpoints_and_early_stopping_can_monitor_them",
    ],
    "What is the validation loss?": [
        "trainer/test_callback.py::test_validation_test_and_sanity_check_may_weigh_and_change_nothing"
    ],
    "Sum or mean, over pixels and samples?": [
        "reporting/test_diagnosis.py::test_a_run_into_a_fault_has_the_finding_and_no_other",
        "engine/test_samples.py::test_s_learns_from_that_mean_as_from_one_call_with_all_samples",
    ],
    "Do the losses need the same scale?": [
        "code",
        "test_learning.py::test_losses_of_1e6_and_1e_3_are_both_learned_where_the_plain_sum_leaves_the_small_one",
    ],
    "Dice, IoU, contrastive, KL: which likelihood?": [
        "test_any_loss_above_zero_is_balanced_by_the_softmax_form",
        "test_likelihoods.py::test_a_likelihood_of_ones_own_is_given_by_its_attributes",
    ],
    "My weights do not move": [
        "test_without_a_step_nothing_is_learned_and_70_steps_double_a_weight",
        "trainer/test_callback.py::test_a_module_that_never_weighs_is_told",
    ],
    "Why does the weight of an easy task grow?": [
        "code",
        "test_weighting.py::test_a_loss_that_goes_to_zero_stops_at_the_relative_bound_and_is_reported",
    ],
    "Which initial value?": [
        "engine/test_guard.py::test_sigma_is_there_from_the_first_step_and_follows_the_losses",
        "test_weighting.py::test_it_starts_at_the_optimum_of_the_first_losses",
        "test_weighting.py::test_equal_warmup_is_the_plain_sum_and_then_starts_from_the_losses_of_that_time",
    ],
    "Why `s = log sigma^2`, and not sigma?": ["test_weighting.py::test_values_can_be_read_and_set_by_name"],
    "Why is there a 1/2 for regressions, and none for classes?": ["code"],
    "Why does an L1 task pull twice as hard?": ["code"],
    "Why do the weights not sum to 1?": [
        "test_weighting.py::test_snapshot_is_made_of_plain_floats_and_shares_sum_to_one"
    ],
    "Can one weight be fixed?": ["code", "test_weighting.py::test_fixed_tasks_take_no_part"],
    "One task matters more than another": [
        "code",
        "engine/test_importance.py::test_importance_does_not_move_s",
        "engine/test_importance.py::test_an_importance_of_zero_leaves_the_network_alone_and_goes_on_learning",
        "engine/test_importance.py::test_a_call_weighs_the_learned_mean_by_its_importance_unless_samples_are_counted",
        "test_what_is_passed_says_which_mean_is_learned",
    ],
    "How many tasks, and at what cost?": [
        "benchmarks/test_costs.py::test_operations_of_a_step",
        "reporting/test_history.py::test_a_callbacks_state_stays_under_a_megabyte",
        "test_each_task_has_the_same_share_however_many_there_are",
    ],
    "What happens in the first steps?": [
        "engine/test_guard.py::test_the_factors_are_those_of_the_rule_in_float64",
        "engine/test_guard.py::test_a_short_run_has_fewer_steps_of_the_plain_sum",
        "engine/test_guard.py::test_who_sets_the_weights_means_them",
        "test_a_warm_up_is_more_steps_of_the_plain_sum",
    ],
    "Does my optimizer, weight decay or clipping touch sigma?": [
        "trainer/test_callback.py::test_weight_decay_clipping_and_schedules_of_the_user_do_not_reach_s",
        "trainer/test_callback.py::test_nothing_of_it_is_in_the_module_or_its_optimizer",
    ],
    "Do I have to tune my learning rate anew?": ["test_the_gradient_does_not_fade_as_the_losses_fall"],
    "AMP, bf16, fp16?": [
        "trainer/test_matrix.py::test_s_learns_in_single_precision_and_resumes_bit_for_bit",
        "trainer/test_precision.py::test_an_overflow_in_one_loss_leaves_its_s_and_lets_the_others_learn",
    ],
    "DDP, FSDP, many nodes?": [
        "trainer/test_ddp.py::test_the_ranks_are_bit_identical_after_every_epoch",
        "trainer/test_sharded.py::test_the_ranks_are_bit_identical_after_every_epoch",
        "test_weighting.py::test_accumulation_takes_the_mean_of_the_micro_batches",
    ],
    "Some samples lack labels of a task": [
        "code",
        "test_weighting.py::test_a_nan_from_an_empty_mask_gives_the_network_a_finite_gradient",
    ],
    "`torch.compile`?": [
        "test_compile.py::test_a_compiled_module_trains_as_an_eager_one_in_one_graph",
        "test_compile.py::test_each_set_of_keys_costs_one_graph_and_its_return_none",
    ],
    "Two optimizers, a GAN?": [
        "trainer/test_callback.py::test_manual_optimisation_with_two_optimizers_steps_once_per_batch",
        "trainer/test_inner_modules.py::test_each_module_learns_as_if_it_were_alone",
        "test_weighting.py::test_a_negative_loss_is_named_once",
    ],
    "How do I resume, add or remove it?": [
        "trainer/test_checkpoints.py::test_resumed_equals_uninterrupted_bit_for_bit",
        "trainer/test_checkpoints.py::test_the_plugin_can_be_added_to_an_existing_checkpoint",
        "trainer/test_checkpoints.py::test_the_plugin_can_be_removed_from_an_existing_checkpoint",
        "trainer/test_checkpoints.py::test_tasks_may_change_between_runs",
        "trainer/test_checkpoints.py::test_load_from_checkpoint_without_a_trainer_gives_sigma_back",
        "trainer/test_checkpoints.py::test_hooks_of_the_user_lose_nothing_with_and_without_super",
    ],
    "I train several folds with one module": [
        "trainer/test_attachment.py::test_folds_of_one_module_that_is_put_back_know_nothing_of_each_other",
        "trainer/test_attachment.py::test_whoever_resets_the_engine_is_told_nothing",
        "trainer/test_attachment.py::test_an_engine_that_was_given_is_told_of_and_kept",
        "trainer/test_attachment.py::test_sigma_goes_on_where_its_state_came_along",
    ],
    "How do I use it without Lightning?": [
        "trainer/test_ecosystem.py::test_a_plain_torch_loop_equals_the_trainer",
        "test_ranks_without_trainer.py::test_the_example_in_plain_torch_learns_the_same_on_both_ranks",
    ],
    "Does it beat a search by hand?": ["test_numbers_of_the_scenes_are_those_of_their_page"],
    "The learned weights are all equal": [
        "reporting/test_diagnosis.py::test_a_run_into_a_fault_has_the_finding_and_no_other"
    ],
    "Can I use the weights at the end as fixed ones?": ["code", "test_numbers_of_the_scenes_are_those_of_their_page"],
    "What is sigma, and in which unit?": [
        "test_learning.py::test_known_noise_is_learned_to_3_percent_by_default_settings"
    ],
    "Is sigma the uncertainty of a prediction?": [
        "trainer/test_ecosystem.py::test_predicting_needs_nothing_and_changes_nothing"
    ],
    "What do I write in a paper?": [
        "trainer/test_run_report.py::test_history_picture_and_page_lie_beside_the_loggers_files"
    ],
}


def answers():
    parts = re.split(r"^### (.+)$", PAGE, flags=re.MULTILINE)
    return dict(zip(parts[1::2], parts[2::2], strict=True))


def test_every_question_has_its_proof_and_every_proof_is_there():
    assert list(SHOWN) == list(answers())
    for question, proofs in SHOWN.items():
        assert ("code" in proofs) == ("```py" in answers()[question]), question
        for proof in proofs:
            file, _, name = proof.rpartition("::")
            if proof != "code":
                assert f"def {name}(" in (ROOT / "tests" / (file or "docs/test_questions.py")).read_text(), proof


def test_the_code_of_the_page_runs_and_prints_what_stands_there():
    names = {}
    for block in re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL):
        exec(compile(block, "questions.md", "exec"), names)
    assert (names["best"].monitor, names["stop"].monitor) == ("val/depth", "uncertainty/val_relative_loss")
    session = "\n".join(re.findall(r"```pycon\n(.*?)```", PAGE, re.DOTALL))
    test, said = doctest.DocTestParser().get_doctest(session, {}, "questions.md", "docs/questions.md", 0), []
    with pytest.warns(UncertaintyWarning, match="'easy' is held by its lower bound") as warned:
        failed, tried = doctest.DocTestRunner().run(test, out=said.append)
    assert not failed, "".join(said)
    assert tried > 15
    assert len(warned) == 1


# ---------------------------------------------------------------------------------------------------- by themselves


def learned(losses, steps=1, **options):
    """After so many steps on constant losses, by task and likelihood."""
    weighting = UncertaintyWeighting({name: likelihood for name, (likelihood, _) in losses.items()}, **options)
    for _ in range(steps):
        total = weighting({name: torch.tensor(loss, requires_grad=True) for name, (_, loss) in losses.items()})
        total.backward()
        weighting.step()
    return weighting, total.item()


@pytest.mark.parametrize(
    ("likelihood", "term", "zero"),
    [
        ("gaussian", lambda x: 0.5 + 0.5 * math.log(x), 1 / math.e),
        ("laplace", lambda x: 1.0 + math.log(x), 1 / math.e),
        ("softmax", lambda x: 0.5 + 0.5 * math.log(2 * x), 0.5 / math.e),
        ("bernoulli", lambda x: 0.5 + 0.5 * math.log(2 * x), 0.5 / math.e),
    ],
)
def test_the_term_at_the_best_s_changes_its_sign_where_the_page_says(likelihood, term, zero):
    for factor in (0.9, 1.1):
        _, total = learned({"task": (likelihood, factor * zero)})
        assert total == pytest.approx(term(factor * zero), abs=1e-6)
        assert (total < 0.0) == (factor < 1.0)
    _, never = learned({"task": (likelihood, 1e-3 * zero)}, regularizer="log1p_var")
    assert never > 0.0


def test_a_task_near_zero_lowers_the_total_by_half_its_logarithm():
    totals = [learned({"task": ("gaussian", loss)})[1] for loss in (1e-3, 1e-6)]
    assert totals[0] - totals[1] == pytest.approx(0.5 * math.log(1e3), rel=1e-5)


def test_any_loss_above_zero_is_balanced_by_the_softmax_form():
    for loss in (0.03, 0.7, 5.0):  # 1 - dice, say
        weighting, _ = learned({"dice": ("softmax", loss)})
        assert weighting.fixed_weights()["dice"] == pytest.approx(1 / (2 * loss), rel=1e-5)


def test_without_a_step_nothing_is_learned_and_70_steps_double_a_weight():
    weighting = UncertaintyWeighting({"task": "gaussian"}, init=0.0)
    for _ in range(100):
        weighting({"task": torch.tensor(0.01, requires_grad=True)}).backward()
    assert weighting.weights == {"task": 1.0}
    weighting, _ = learned({"task": ("gaussian", 0.01)}, steps=70, init=0.0)
    assert weighting.weights["task"] == pytest.approx(2.0, rel=0.05)


def test_what_is_passed_says_which_mean_is_learned():
    """Two micro-batches of 3 labels and 1, of mean 4 and 8; over calls the mean is 6."""
    errors = torch.tensor([[3.0], [4.0], [5.0], [0.0]]), torch.tensor([[8.0], [0.0], [0.0], [0.0]])
    masks = torch.tensor([[True], [True], [True], [False]]), torch.tensor([[True], [False], [False], [False]])
    means = {}
    for name, options in {
        "nothing": [{}, {}],
        "mask": [{"mask": mask} for mask in masks],
        "mask and importance": [{"mask": mask, "importance": 2.0 + i} for i, mask in enumerate(masks)],
        "mask and samples": [{"mask": mask, "samples": 1} for mask in masks],
        "importance": [{"importance": 1}, {"importance": 3}],
        "samples and importance": [{"samples": 1, "importance": 3}, {"samples": 1, "importance": 1}],
    }.items():
        weighting, pulls = package.UncertaintyWeighting(["gap"]), []
        for matrix, mask, given in zip(errors, masks, options, strict=True):
            losses = matrix.clone() if "mask" in given else matrix[mask].mean().reshape(1)
            losses.requires_grad_()
            weighting(losses, **given).backward()
            pulls.append(losses.grad.sum().item())
        assert pulls == pytest.approx([each.get("importance", 1.0) for each in options])  # of a plain sum
        weighting.step()
        means[name] = weighting.snapshot().tasks["gap"].raw_loss
    over_calls = dict.fromkeys(["nothing", "mask and samples", "samples and importance"], 6.0)
    over_labels = dict.fromkeys(["mask", "mask and importance"], 5.0)
    assert means == pytest.approx({**over_calls, **over_labels, "importance": 7.0})


@pytest.mark.parametrize("warmup", ["initial", "equal"])
def test_a_warm_up_is_more_steps_of_the_plain_sum(warmup):
    weighting, factors = package.UncertaintyWeighting(["a", "b"], warmup_steps=7, warmup=warmup), []
    weighting.expect(50)
    for _ in range(14):
        losses = torch.tensor([100.0, 0.01], requires_grad=True)
        weighting(losses).backward()
        weighting.step()
        factors.append(losses.grad.tolist() == [1.0, 1.0])
    assert factors == [True] * 12 + [False] * 2


def test_each_task_has_the_same_share_however_many_there_are():
    kinds = "gaussian", "softmax", "bernoulli"
    weighting, _ = learned({f"task_{i}": (kinds[i % 3], 10.0 ** (i % 7 - 3)) for i in range(300)})
    assert list(weighting.snapshot().shares.values()) == pytest.approx([1 / 300] * 300, rel=1e-4)


@pytest.mark.parametrize(("likelihood", "power"), [("gaussian", 2), ("laplace", 1)])
def test_the_gradient_does_not_fade_as_the_losses_fall(likelihood, power):
    for size in (1e-3, 1.0, 1e3):
        error = torch.tensor(size, requires_grad=True)
        UncertaintyWeighting({"task": likelihood})({"task": error.abs() ** power}).backward()
        assert error.grad.item() == pytest.approx(1 / size, rel=1e-5)


def test_numbers_of_the_scenes_are_those_of_their_page():
    scenes = (ROOT / "docs" / "scenes" / "README.md").read_text()
    gains = {
        cells[1].strip("* "): cells[6].strip()
        for cells in (line.split("|") for line in scenes.splitlines() if line.startswith("|"))
        if len(cells) == 9
    }
    answer = " ".join(answers()["Does it beat a search by hand?"].split())
    assert f"learned {gains['learned: all three']} %" in answer
    assert f"best of 12 weightings by hand {gains['best of 12 weightings by hand']} %" in answer
    assert f"equal {gains['equal weights']} %" in answer
    fixed = gains["learned weights, fixed from the first step"].partition(" ")[0]
    learned_gain = gains["learned: all three"].partition(" ")[0]
    assert f"come to {fixed} % instead of {learned_gain} %" in " ".join(PAGE.split())
