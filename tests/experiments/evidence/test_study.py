from dataclasses import replace
from pathlib import Path

import pytest
import torch
from lightning import Trainer

from experiments.evidence.__main__ import main
from experiments.evidence.problems import PROBLEMS, load
from experiments.evidence.scalarized import PEERS, scalarized
from experiments.evidence.study import FULL, SMOKE, Study, arms_of, run_problem
from experiments.evidence.trainings import Training, read_trainings
from experiments.evidence.why import BETAS
from lightning_uncertainty.strategies import STRATEGIES
from tests.experiments.evidence.test_sets import PACKAGES, skip_without


@pytest.fixture(autouse=True)
def threads():
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


@pytest.mark.parametrize("name", PROBLEMS)
def test_every_set_can_be_trained_with_every_kind_of_arm(name, tmp_path):
    skip_without(PACKAGES.get(name, "torch"))
    pytest.importorskip("torchjd")
    run_problem(name, tmp_path, SMOKE)
    runs = read_trainings(tmp_path / f"{name}.csv")
    assert {run.arm for run in runs} == {"equal", "uncertainty", "hand_0", "torchjd_uw"}
    directions = load(name).directions
    for run in runs:
        assert set(run.val) == set(run.test) == set(directions)
        assert run.val != run.test
    assert {run.arm: set(run.sigma) for run in runs if run.sigma} == {"uncertainty": set(directions)}


def test_all_strategies_are_arms():
    arms = arms_of(load("dollars"))
    assert {name for name in STRATEGIES if name != "fixed"} <= set(arms)
    assert sum(name.startswith("hand_") for name in arms) == 9
    assert arms["single_cut"] == {"price": 0.0, "carat": 0.0, "cut": 1.0, "color": 0.0, "clarity": 0.0}


@pytest.mark.parametrize("name", ["dollars", "scenes"])
@pytest.mark.parametrize("peer", PEERS)
def test_a_peer_has_the_same_network_and_weighs_through_its_own_code(name, peer):
    pytest.importorskip("torchjd")
    problem = load(name)
    nets = []
    for changed in (False, True):
        torch.manual_seed(0)
        net = problem.make_net(1e-3)
        nets.append(scalarized(net, peer) if changed else net)
    theirs = nets[1].state_dict()
    assert all(torch.equal(value, theirs[name]) for name, value in nets[0].state_dict().items())
    assert set(theirs) - set(nets[0].state_dict()) <= {"scalarizer.log_var"}
    assert type(nets[1].scalarizer).__module__.startswith("torchjd")


class Rehearsed(Study):
    """A study whose trainings are made up: an arm is best at its own learning rate."""

    best = {"equal": 1e-2, "uncertainty": 0.3, "article": 3e-4, "hand_0": 1e-5, "hand_1": 3e-2}

    def train(self, arms, lr, seeds):
        for arm in arms:
            error = 1.0 + abs(torch.tensor(lr / self.best[arm]).log10().item()) + 5.0 * (arm == "hand_0")
            metrics = {t: error if d == "min" else 1 / error for t, d in self.problem.directions.items()}
            self.runs += [Training(self.name, arm, lr, seed, 1.0, metrics, metrics) for seed in seeds]


def tried(study, arm):
    return sorted({run.lr for run in study.runs if run.arm == arm})


def test_the_grid_is_widened_for_arms_whose_best_rate_is_at_its_end_and_only_so_far():
    study = Rehearsed("dollars", Path("nowhere"), replace(FULL, arms=tuple(Rehearsed.best)))
    trainings = study.run()
    assert tried(study, "equal") == [3e-3, 1e-2, 3e-2]
    assert tried(study, "uncertainty") == [3e-3, 1e-2, 3e-2, 1e-1, 3e-1]
    assert tried(study, "article") == [3e-4, 1e-3, 3e-3, 1e-2, 3e-2]
    assert tried(study, "hand_1") == [3e-3, 1e-2, 3e-2, 1e-1]
    assert tried(study, "hand_0") == [3e-3, 1e-2, 3e-2]  # not the best by hand
    assert trainings.on_edge("article") == -1
    assert trainings.best_lr("hand_1") == 3e-2


def test_all_seeds_are_trained_with_what_was_chosen_on_the_first():
    study = Rehearsed("dollars", Path("nowhere"), replace(FULL, arms=tuple(Rehearsed.best)))
    trainings = study.run()
    assert [run.seed for run in trainings.chosen("equal")] == list(range(8))
    assert [run.seed for run in trainings.chosen("hand_1")] == list(range(8))
    assert [run.seed for run in trainings.chosen("hand_0")] == [0, 1]
    assert {run.seed for run in trainings.of("equal", 3e-3)} == {0, 1}


@pytest.mark.usefixtures("forked_workers")
def test_the_command_runs_resumes_and_refuses_unknown_sets(tmp_path, capsys):
    pytest.importorskip("torchjd")
    arguments = ["--smoke", "--only", "dollars", "--workers", "1", "--output", str(tmp_path)]
    assert main(arguments) == 0
    stored = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("run.json")}
    assert len(stored) == 4
    assert main(arguments) == 0
    assert {path: path.stat().st_mtime_ns for path in tmp_path.rglob("run.json")} == stored
    assert "README.md" in capsys.readouterr().out.replace("\n", "")
    assert main(["--only", "nothing"]) == 2


def test_the_control_differs_in_the_memory_of_its_optimizer_alone():
    pytest.importorskip("CoolProp")
    nets = []
    for name in ("fluids", "fluids_forgetting"):
        torch.manual_seed(0)
        nets.append(load(name).make_net(1e-2))
    assert all(map(torch.equal, nets[0].parameters(), nets[1].parameters()))
    for net, beta2 in zip(nets, (0.999, BETAS[1]), strict=True):
        trainer = Trainer(max_steps=3, logger=False, enable_checkpointing=False, enable_progress_bar=False)
        torch.manual_seed(0)
        trainer.fit(net, load("fluids").make_data())
        assert trainer.optimizers[0].param_groups[0]["betas"][1] == beta2
