"""The step on a device other than a CPU as one graph, as far as a CPU can tell."""

import pytest
import torch

from lightning_uncertainty import UncertaintyWeighting
from lightning_uncertainty.engine import learning, window
from tests.engine.test_in_numpy import TASKS, trained


@pytest.fixture
def graphs(monkeypatch):
    """Take steps as on another device, compiled to graphs that are run as they are; return these."""
    found = []

    def keep(graph, _):
        found.append(graph)
        return graph

    torch.compiler.reset()
    compiled = torch.compile(learning.Learning._learn_on_device, dynamic=False, fullgraph=True, backend=keep)
    monkeypatch.setattr(learning, "_compiled_step", lambda: compiled)
    monkeypatch.setattr(window, "NUMPY", False)
    yield found
    torch.compiler.reset()


OPTIONS = [{}, {"scale": None}, {"prior": 0.01}, {"regularizer": "sigma"}, {"guard": False}, {"strategy": "dwa"}]


@pytest.mark.parametrize("options", OPTIONS, ids=str)
def test_it_is_one_graph_that_takes_the_steps_of_the_plain_way(options, graphs):
    plain = trained(150, **options)
    assert not graphs
    compiled = trained(150, compile_step=True, **options)
    assert len(graphs) == 1
    for key, tensor in plain.state_dict().items():
        if isinstance(tensor, torch.Tensor):
            torch.testing.assert_close(tensor, compiled.state_dict()[key], rtol=1e-6, atol=0.0, equal_nan=True)
    assert torch.equal(plain._factor, compiled._factor)


def test_tasks_that_are_missing_make_no_further_graph(graphs):
    def hide(step):
        return [("b", float("nan"))] if step % 3 == 0 else ()

    plain, compiled = (trained(150, hide=hide, compile_step=yes) for yes in (False, True))
    assert len(graphs) == 1
    torch.testing.assert_close(plain.log_var, compiled.log_var, rtol=1e-6, atol=0.0)
    assert plain.snapshot().tasks["b"].nonfinite == compiled.snapshot().tasks["b"].nonfinite == 50


def test_on_a_cpu_it_is_of_no_effect(graphs, monkeypatch):
    monkeypatch.setattr(window, "NUMPY", True)
    assert torch.equal(trained(150, compile_step=True).log_var, trained(150).log_var)
    assert not graphs


@pytest.mark.filterwarnings("ignore:.*torch.jit.script.* is deprecated")  # imported by inductor
def test_the_compiler_of_torch_takes_the_same_steps(monkeypatch):
    monkeypatch.setattr(window, "NUMPY", False)
    torch.compiler.reset()
    plain, compiled = (trained(60, guard=False, compile_step=yes) for yes in (False, True))
    torch.set_flush_denormal(False)  # which it turns on for the whole process
    torch.testing.assert_close(plain.log_var, compiled.log_var, rtol=1e-5, atol=1e-6)


def test_a_word_is_no_switch():
    with pytest.raises(ValueError, match="compile_step"):
        UncertaintyWeighting(TASKS, compile_step="yes")
