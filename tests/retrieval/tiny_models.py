"""Real models small enough to be made in a test."""

import json
from pathlib import Path
from typing import Any

import torch
import transformers
from transformers import BertConfig, BertForSequenceClassification, BertModel

SPECIAL = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
WORDS = ["good", "bad", "cats", "dogs", "owls", "sleep", "bark", "hunt", "mice", "at", "the", "?"]
HIDDEN = 16


def save_cross_encoder(path: Path, *, num_labels: int = 1) -> None:
    """A cross-encoder whose score grows with the share of the word "good" in what it reads.

    Attention is uniform, so [CLS] sees the mean of all tokens; "good" alone has a first dimension.
    """
    _save_tokenizer(path)
    model: Any = BertForSequenceClassification(_config(num_labels=num_labels))
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "LayerNorm" not in name:
                parameter.zero_()
        layer = model.bert.encoder.layer[0].attention
        layer.self.value.weight.copy_(torch.eye(HIDDEN))
        layer.output.dense.weight.copy_(torch.eye(HIDDEN))
        words = model.bert.embeddings.word_embeddings.weight
        words.copy_(torch.randn(words.shape, generator=torch.Generator().manual_seed(1)))
        words[:, 0] = 0
        words[len(SPECIAL) + WORDS.index("good"), 0] = 50
        model.bert.pooler.dense.weight[0, 0] = 0.2
        model.classifier.weight[:, 0] = 10
    model.save_pretrained(path)


def break_tokenizer(path: Path) -> None:
    """Have it give a token beyond the embeddings: the model loads and fails when it is run."""
    tokenizer = json.loads((path / "tokenizer.json").read_text())
    tokenizer["model"]["vocab"]["[UNK]"] = 500
    (path / "tokenizer.json").write_text(json.dumps(tokenizer))


def save_bi_encoder(path: Path, *, mode: str = "mean") -> None:
    """A sentence-transformers model of random weights, with a query prompt of its own."""
    from sentence_transformers import SentenceTransformer
    from sentence_transformers.sentence_transformer.modules import Normalize, Pooling, Transformer

    torch.manual_seed(2)
    plain = path.with_name(f"{path.name}-plain")
    _save_tokenizer(plain)
    BertModel(_config()).save_pretrained(plain)
    transformer = Transformer(str(plain), max_seq_length=64)
    pooling = Pooling(HIDDEN, pooling_mode=mode)
    model = SentenceTransformer(
        modules=[transformer, pooling, Normalize()], prompts={"query": "cats ? "}, device="cpu"
    )
    model.save(str(path), safe_serialization=True)


def _config(**extra: Any) -> BertConfig:
    return BertConfig(
        vocab_size=len(SPECIAL + WORDS),
        hidden_size=HIDDEN,
        num_hidden_layers=1,
        num_attention_heads=2,
        intermediate_size=16,
        max_position_embeddings=64,
        **extra,
    )


def _save_tokenizer(path: Path) -> None:
    path.mkdir(parents=True, exist_ok=True)
    (path / "vocab.txt").write_text("\n".join(SPECIAL + WORDS))
    made_on_access: Any = transformers
    tokenizer = made_on_access.BertTokenizerFast(str(path / "vocab.txt"), model_max_length=64)
    tokenizer.save_pretrained(path)
