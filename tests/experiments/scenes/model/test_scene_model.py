import lightning as L
import numpy as np
import pytest
import torch

from experiments.scenes.data.datamodule import ScenesDataModule
from experiments.scenes.data.generator import SceneGenerator
from experiments.scenes.data.label_noise import LabelNoise
from experiments.scenes.model.losses import scene_losses
from experiments.scenes.model.metrics import SceneMetrics
from experiments.scenes.model.network import SceneNet
from experiments.scenes.model.scene_model import LIKELIHOODS, SceneModel
from lightning_uncertainty import UncertaintyCallback, UncertaintyWarning, UncertaintyWeighting

QUIET = {
    "logger": False,
    "enable_checkpointing": False,
    "enable_progress_bar": False,
    "enable_model_summary": False,
    "accelerator": "cpu",
}


@pytest.fixture
def batch():
    return SceneGenerator(height=16, width=32, noise=LabelNoise()).make(3, seed=0)


@pytest.fixture
def outputs():
    generator = torch.Generator().manual_seed(1)
    shapes = {"semantic": 8, "instance": 2, "depth": 1}
    return {t: torch.randn(3, c, 16, 32, generator=generator, requires_grad=True) for t, c in shapes.items()}


def data(**options):
    return ScenesDataModule(
        **{"train": 8, "validation": 4, "test": 4, "batch_size": 4, "height": 16, "width": 32} | options
    )


def test_losses_are_the_means_of_the_article(batch, outputs):
    batch["classes"][0, :4] = 255
    losses = scene_losses(outputs, batch)
    z = outputs["semantic"].detach().double().numpy()
    labels, errors = batch["classes"].numpy(), {}
    log_p = z - np.log(np.exp(z).sum(1, keepdims=True))
    errors["semantic"] = [-log_p[b, labels[b, y, x], y, x] for b, y, x in np.argwhere(labels != 255)]
    for task, target, mask in (("instance", "offsets", "instance_mask"), ("depth", "inverse_depth", "depth_mask")):
        difference = np.abs(outputs[task].detach().numpy() - batch[target].numpy())
        errors[task] = [difference[b, :, y, x] for b, y, x in np.argwhere(batch[mask].numpy())]
    assert {t: float(v.detach()) for t, v in losses.items()} == pytest.approx(
        {t: np.mean(e) for t, e in errors.items()}, rel=1e-5
    )


@pytest.mark.parametrize(
    ("task", "blank"),
    [
        ("semantic", lambda batch: batch["classes"].fill_(255)),
        ("instance", lambda batch: batch["instance_mask"].fill_(False)),
        ("depth", lambda batch: batch["depth_mask"].fill_(False)),
    ],
    ids=["semantic", "instance", "depth"],
)
def test_a_task_without_labels_sits_out_and_spoils_no_gradient(task, blank, batch):
    blank(batch)
    torch.manual_seed(0)
    model = SceneModel(8, width=4)
    model.uncertainty = UncertaintyWeighting(model.tasks, init=0.0)
    losses = scene_losses(model(batch["image"]), batch)
    assert {name for name, loss in losses.items() if loss.isnan()} == {task}
    model.training_step(batch, 0).backward()
    gradients = {name: p.grad for name, p in model.named_parameters()}
    assert all(torch.isfinite(g).all() for g in gradients.values() if g is not None)
    assert all(gradients[f"net.decoders.{t}.1.weight"].any() == (t != task) for t in LIKELIHOODS)
    model.uncertainty.step()
    with pytest.warns(UncertaintyWarning, match=f"The loss of task '{task}' was NaN"):
        model.uncertainty.check()
    assert {t for t, s in model.uncertainty.log_vars.items() if s == 0.0} == {task}


def test_metrics_are_those_counted_by_hand_over_several_batches(batch, outputs):
    batch["classes"][1, :, :9] = 255
    metrics = SceneMetrics(8)
    for part in (slice(0, 1), slice(1, 3)):
        metrics.update({t: o[part] for t, o in outputs.items()}, {key: v[part] for key, v in batch.items()})
    said, truth = outputs["semantic"].argmax(1).numpy(), batch["classes"].numpy()
    known, ious = truth != 255, []
    for number in range(8):
        hit = ((said == number) & (truth == number) & known).sum()
        either = (((said == number) | (truth == number)) & known).sum()
        if either:
            ious.append(hit / either)
    assert float(metrics.semantic.compute()) == pytest.approx(np.mean(ious), rel=1e-5)
    for task, target, mask in (("instance", "offsets", "instance_mask"), ("depth", "inverse_depth", "depth_mask")):
        error = np.abs(outputs[task].detach().numpy() - batch[target].numpy()).transpose(0, 2, 3, 1)
        expected = error[batch[mask].numpy()].mean()
        assert float(getattr(metrics, task).compute()) == pytest.approx(expected, rel=1e-5)


def test_a_pixel_is_seen_from_far_because_of_dilation():
    torch.manual_seed(0)
    net = SceneNet(8, width=4).eval()
    image = torch.rand(1, 3, 64, 128, requires_grad=True)
    net(image)["instance"][0, 0, 32, 64].backward()
    rows, columns = image.grad[0].abs().sum(0).nonzero().T
    assert columns.max() - columns.min() > 100
    assert rows.max() - rows.min() == 63


def test_training_learns_all_three_weights_and_measures_on_exact_labels():
    model, scenes = SceneModel(8, width=8), data(noise=LabelNoise(instance=50.0))
    trainer = L.Trainer(max_steps=4, callbacks=[UncertaintyCallback()], **QUIET)
    trainer.fit(model, scenes)
    assert trainer.global_step == 4
    assert set(model.uncertainty.weights) == set(LIKELIHOODS)
    assert trainer.callback_metrics["val/instance"] < 20.0 < trainer.callback_metrics["uncertainty/loss/instance"]
    (tested,) = trainer.test(model, scenes, verbose=False)
    assert set(tested) == {"test/semantic", "test/instance", "test/depth"}


@pytest.mark.parametrize(
    "tasks",
    [{"depth": 1.0}, {"semantic": "softmax", "depth": "laplace"}, {"semantic": 1.0, "instance": 0.25, "depth": 4.0}],
)
def test_only_the_tasks_that_are_trained_move_their_decoders_and_are_measured(tasks):
    torch.manual_seed(0)
    model, scenes = SceneModel(8, tasks=tasks, width=4), data()
    before = {name: p.clone() for name, p in model.net.named_parameters()}
    trainer = L.Trainer(max_steps=2, callbacks=[UncertaintyCallback()], **QUIET)
    trainer.fit(model, scenes)
    moved = {
        n.split(".")[1] for n, p in model.net.named_parameters() if "decoders" in n and not torch.equal(p, before[n])
    }
    assert moved == set(tasks)
    (tested,) = trainer.test(model, scenes, verbose=False)
    assert set(tested) == {f"test/{task}" for task in tasks}


def test_training_scenes_have_noise_and_follow_the_seed_and_test_scenes_neither():
    one, other = data(seed=1), data(seed=2)
    for scenes in (one, other):
        scenes.setup("fit")
        scenes.setup("test")
    assert not torch.equal(one.train_scenes.scenes["image"], other.train_scenes.scenes["image"])
    assert torch.equal(one.test_scenes.scenes["image"], other.test_scenes.scenes["image"])
    assert not torch.equal(one.test_scenes.scenes["image"], one.val_scenes.scenes["image"])
    exact = SceneGenerator(16, 32).make(8, seed=1)
    assert not torch.equal(one.train_scenes.scenes["offsets"], exact["offsets"])
    assert torch.equal(one.train_scenes.scenes["image"], exact["image"])
