"""Entailment by a real classifier of transformers, against one pair at a time."""

from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np
import pytest
import torch
from tiny_models import Encoder, save_encoder
from transformers import BertForSequenceClassification, BertModel

from summarizer.errors import ConfigError
from summarizer.evaluation.entailment import loaded_entailment

WORDS = ["The", "A", "cat", "dog", "sat", "ran", "on", "under", "mat", ".", "big", "small"]
ARTICLES = ["The cat sat on the mat. A dog ran. The big dog sat.", "A small cat ran.", "The cat sat.", " "]
SUMMARIES = ["A cat sat. The dog ran under the mat.", "A cat ran on. A cat ran on.", "", "A cat."]


def save(folder: Path, kind: Encoder, labels: list[str]) -> Path:
    return save_encoder(
        folder,
        WORDS,
        kind,
        num_hidden_layers=2,
        initializer_range=0.5,
        id2label=dict(enumerate(labels)),
        label2id={label: number for number, label in enumerate(labels)},
    )


@pytest.mark.parametrize(
    ("labels", "place"),
    [
        (["CONTRADICTION", "ENTAILMENT", "NEUTRAL"], 1),
        (["entailment", "not_entailment"], 0),
        (["contradiction", "neutral", "Entailment"], 2),
    ],
)
def test_the_likeliest_premise_of_each_sentence_counts(tmp_path: Path, labels: list[str], place: int) -> None:
    folder = save(tmp_path, BertForSequenceClassification, labels)
    found = loaded_entailment(folder, device="cpu")(ARTICLES, SUMMARIES)
    model = BertForSequenceClassification.from_pretrained(folder).eval()

    def probability(premise: str, hypothesis: str) -> float:
        ids = [
            [4 + WORDS.index(word) if word in WORDS else 1 for word in text.replace(".", " .").split()]
            for text in (premise, hypothesis)
        ]
        tokens = torch.tensor([[2, *ids[0], 3, *ids[1], 3]])
        kinds = torch.tensor([[0] * (len(ids[0]) + 2) + [1] * (len(ids[1]) + 1)])
        with torch.no_grad():
            logits = model(input_ids=tokens, token_type_ids=kinds).logits[0].tolist()
        return math.exp(logits[place]) / sum(math.exp(one) for one in logits)

    premises = ["The cat sat on the mat.", "A dog ran.", "The big dog sat."]
    first = [
        max(probability(one, said) for one in premises)
        for said in ("A cat sat.", "The dog ran under the mat.")
    ]
    second = probability("A small cat ran.", "A cat ran on.")
    assert found[:2] == pytest.approx([100 * sum(first) / 2, 100 * second], abs=1e-3)
    assert np.isnan(found[2:]).all(), "no sentence to judge, or none to judge it by"


def test_what_is_no_such_model_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"--nli: no model in .*nowhere: a folder with config.json"):
        loaded_entailment(tmp_path / "nowhere", device="cpu")
    with pytest.raises(ConfigError, match=r"evaluation.nli: no model in"):
        loaded_entailment(tmp_path / "nowhere", device="cpu", key="evaluation.nli")
    encoder = save(tmp_path / "encoder", BertModel, ["contradiction", "entailment"])
    with pytest.raises(
        ConfigError, match=r"is no classifier: its weights lack classifier.bias, classifier.weight"
    ):
        loaded_entailment(encoder, device="cpu")
    unnamed = save(tmp_path / "unnamed", BertForSequenceClassification, ["LABEL_0", "LABEL_1"])
    with pytest.raises(
        ConfigError, match=r"does not say which of its labels is entailment: LABEL_0, LABEL_1"
    ):
        loaded_entailment(unnamed, device="cpu")
    config = json.loads((unnamed / "config.json").read_text())
    (unnamed / "config.json").write_text(
        json.dumps({**config, "id2label": {"0": "entailment", "1": "other"}})
    )
    assert loaded_entailment(unnamed, device="cpu")([], []).shape == (0,)
