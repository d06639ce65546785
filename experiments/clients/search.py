"""Lightning IR: a small BERT that ranks documents for a query, taught by a teacher's scores in two losses."""

from __future__ import annotations

from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

import numpy as np

from experiments.clients.client import Client, quiet_trainer
from lightning_uncertainty import UncertaintyCallback

if TYPE_CHECKING:
    from lightning.pytorch import Callback

TOPICS, WORDS, DOCUMENTS, QUERIES, EPOCHS = 12, 10, 8, 320, 3


def backbone(folder: str) -> str:
    """Save a small BERT that knows nothing, and its vocabulary, as the library loads them, and return the path."""
    from transformers import BertConfig, BertModel, BertTokenizerFast

    words = [f"t{topic}w{word}" for topic in range(TOPICS) for word in range(WORDS)]
    vocabulary = Path(folder) / "vocab.txt"
    vocabulary.write_text("\n".join(["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *words]), encoding="utf-8")
    BertTokenizerFast(str(vocabulary)).save_pretrained(folder)
    size = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 64}
    BertModel(BertConfig(vocab_size=len(words) + 5, max_position_embeddings=32, **size)).save_pretrained(folder)
    return folder


def asked(seed: int) -> Any:
    """Return queries of one topic, documents with a part of it, and what the teacher gives them: 10 times the part."""
    random = np.random.default_rng(seed)

    def text(topics: Any) -> str:
        return " ".join(f"t{topic}w{random.integers(WORDS)}" for topic in topics)

    found = []
    for _ in range(QUERIES):
        topic = random.integers(TOPICS)
        parts = random.permutation(DOCUMENTS) / (DOCUMENTS - 1)
        documents = [
            text(np.where(random.random(12) < part, topic, random.integers(TOPICS, size=12))) for part in parts
        ]
        found.append((text([topic] * 4), documents, 10.0 * parts + random.normal(size=DOCUMENTS)))
    return found


def collate(samples: list[tuple[str, list[str], Any]]) -> Any:
    """Return a batch as the library's data module makes it."""
    import torch
    from lightning_ir import TrainBatch

    queries, documents, scores = zip(*samples, strict=True)
    names = [[f"d{row}_{column}" for column in range(DOCUMENTS)] for row in range(len(queries))]
    relevant = [
        {"query_id": f"q{row}", "doc_id": name, "relevance": int(max(0, round(score)))}
        for row, (found, given) in enumerate(zip(names, scores, strict=True))
        for name, score in zip(found, given, strict=True)
    ]
    targets = torch.tensor(np.stack(scores), dtype=torch.float32)
    return TrainBatch(queries, documents, [f"q{row}" for row in range(len(queries))], names, relevant, targets)


def train(seed: int, callbacks: list[Callback]) -> dict[str, float]:
    """Train a bi-encoder with the two losses and weights of SPLADE-v3 and return how well it ranks new documents."""
    import torch
    from lightning_ir import BiEncoderModule, KLDivergence, SupervisedMarginMSE
    from lightning_ir.models import DprConfig
    from torch.utils.data import DataLoader

    with TemporaryDirectory() as folder:
        model = BiEncoderModule(
            model_name_or_path=backbone(folder),
            config=DprConfig(),
            loss_functions=[(KLDivergence(), 1.0), (SupervisedMarginMSE(), 0.05)],
            evaluation_metrics=["nDCG@3"],
        )
        model.set_optimizer(torch.optim.AdamW, lr=1e-3)
        trainer = quiet_trainer(callbacks, max_epochs=EPOCHS)
        trainer.fit(model, DataLoader(asked(seed), batch_size=16, shuffle=True, collate_fn=collate))
        model.model.save_pretrained(folder)
        model = BiEncoderModule(model_name_or_path=folder, evaluation_metrics=["nDCG@3"]).eval()
        batch = collate(asked(1000 + seed))
        with torch.no_grad():
            output = model(batch)
            output.scores = output.scores.view(len(batch.queries), -1)
            return {"nDCG@3": float(model.validate_metrics(output, batch)["nDCG@3"])}


def by_name(module: Any, losses: list[Any], *batch: Any) -> dict[str, Any]:
    """Return the list of losses by name."""
    return dict(zip(["ranks", "margins"], losses, strict=True))


def learned() -> UncertaintyCallback:
    """Return the callback: a divergence of ranks and squared errors of margins."""
    return UncertaintyCallback(
        {"ranks": "softmax", "margins": "gaussian"}, losses_from="_compute_losses", split=by_name
    )


CLIENT = Client("Ranks of documents", "lightning-ir", {"nDCG@3": "max"}, train, {"learned": learned})
