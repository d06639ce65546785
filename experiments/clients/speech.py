"""Matcha-TTS: from phonemes to mel spectrograms, by durations, a prior and a flow."""

from __future__ import annotations

from functools import partial
from tempfile import TemporaryDirectory
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

from experiments.clients.client import Client, quiet_trainer, reloaded
from lightning_uncertainty import UncertaintyCallback

if TYPE_CHECKING:
    from lightning.pytorch import Callback
    from torch import Tensor

PHONEMES, LENGTH, MELS, SPOKEN, EPOCHS = 20, 8, 16, 320, 12


def spoken(count: int, seed: int) -> Any:
    """Return made speech: each phoneme has a spectrum and a duration, which the one before it lengthens."""
    import torch

    voice = torch.Generator().manual_seed(0)  # the same voice for all
    spectra = torch.randn(PHONEMES, MELS, generator=voice)
    lasting = torch.randint(2, 6, (PHONEMES,), generator=voice)
    random = torch.Generator().manual_seed(seed)
    utterances = []
    for _ in range(count):
        text = torch.randint(PHONEMES, (LENGTH,), generator=random)
        durations = lasting[text] + (text.roll(1) % 2)
        mel = spectra[text].repeat_interleave(durations, 0)
        mel = mel + 0.3 * torch.randn(mel.shape, generator=random)
        utterances.append({"text": text, "mel": mel.T, "durations": durations})
    return utterances


def collate(utterances: list[dict[str, Any]]) -> dict[str, Any]:
    """Return a batch as the library's own loader makes it; its mels are as long as its decoder wants."""
    import torch
    from matcha.utils.model import fix_len_compatibility

    lengths = torch.tensor([each["mel"].shape[1] for each in utterances])
    mels = torch.zeros(len(utterances), MELS, fix_len_compatibility(lengths.max()))
    for row, each in zip(mels, utterances, strict=True):
        row[:, : each["mel"].shape[1]] = each["mel"]
    text = torch.stack([each["text"] for each in utterances])
    x_lengths = torch.full((len(utterances),), LENGTH)
    return {"x": text, "x_lengths": x_lengths, "y": mels, "y_lengths": lengths, "spks": None, "durations": None}


def train(seed: int, callbacks: list[Callback]) -> dict[str, float]:
    """Train a small Matcha-TTS and return errors on texts held out: of the losses it logs, and of durations."""
    import torch
    from matcha.models.matcha_tts import MatchaTTS
    from torch.utils.data import DataLoader

    layers = {"n_feats": MELS, "n_channels": 32, "filter_channels": 64, "n_heads": 2, "n_layers": 2, "prenet": True}
    encoder = SimpleNamespace(
        encoder_type="RoPE Encoder",
        encoder_params=SimpleNamespace(kernel_size=3, p_dropout=0.1, **layers),
        duration_predictor_params=SimpleNamespace(filter_channels_dp=32, kernel_size=3, p_dropout=0.1),
    )
    blocks = {"attention_head_dim": 16, "num_mid_blocks": 1, "num_heads": 2, "act_fn": "snakebeta"}
    decoder = {"channels": [32, 32], **blocks}
    model = MatchaTTS(
        n_vocab=PHONEMES,
        n_spks=1,
        spk_emb_dim=0,
        n_feats=MELS,
        encoder=encoder,
        decoder=decoder,
        cfm=SimpleNamespace(solver="euler", sigma_min=1e-4),
        data_statistics={"mel_mean": 0.0, "mel_std": 1.0},
        out_size=None,
        optimizer=partial(torch.optim.Adam, lr=1e-3),
    )
    heard, unheard = spoken(SPOKEN, seed), spoken(100, 1000 + seed)
    trainer = quiet_trainer(callbacks, max_epochs=EPOCHS)
    trainer.fit(model, DataLoader(heard, batch_size=16, shuffle=True, collate_fn=collate))
    with TemporaryDirectory() as folder:
        model = reloaded(trainer, MatchaTTS, folder, weights_only=False).eval()
    torch.manual_seed(0)
    with torch.no_grad():
        losses = model.get_losses(collate(unheard))
    text = torch.stack([each["text"] for each in unheard])
    synthesised = model.synthesise(text, torch.full((len(unheard),), LENGTH), n_timesteps=10)
    return {**_heard(unheard, synthesised), **{name: float(loss) for name, loss in losses.items()}}


def _heard(spoken: list[dict[str, Any]], synthesised: dict[str, Tensor]) -> dict[str, float]:
    """Return the error of the mels, phoneme by phoneme, and that of the durations in frames."""
    import torch

    mels, durations = [], []
    for each, attention, mel in zip(spoken, synthesised["attn"].squeeze(1), synthesised["mel"], strict=True):
        parts = attention.sum(-1)
        durations.append((parts - each["durations"]).abs().mean())
        said = mel[:, : int(parts.sum())].split(parts.int().tolist(), 1)
        pairs = zip(each["mel"].split(each["durations"].tolist(), 1), said, strict=True)
        mels.append(torch.stack([(a.mean(1) - b.mean(1)).square().mean() for a, b in pairs if b.shape[1]]).mean())
    return {"mel error": float(torch.stack(mels).mean()), "frames off": float(torch.stack(durations).mean())}


def learned() -> UncertaintyCallback:
    """Return the callback: the three losses of the library, under their own names."""
    tasks = dict.fromkeys(["dur_loss", "prior_loss", "diff_loss"], "gaussian")
    return UncertaintyCallback(tasks, losses_from="get_losses")


CLIENT = Client(
    "Speech from phonemes",
    "matcha-tts",
    {"mel error": "min", "frames off": "min", "dur_loss": "min", "prior_loss": "min", "diff_loss": "min"},
    train,
    {"learned": learned},
)
