from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from tiny_models import save_encoder
from transformers import BertModel

from summarizer.errors import ConfigError
from summarizer.evaluation.bertscore import MEASURES, bert_score

WORDS = ["the", "a", "cat", "dog", "sat", "ran", "on", "under", "mat", "tree", "big", "small"]
PREDICTIONS = ["the cat sat", "a dog ran under the big tree", "a dog", "mat " * 90]
REFERENCES = ["the big cat sat on the mat", "a small dog ran", "a dog", "tree"]
CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def encoder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_encoder(tmp_path_factory.mktemp("encoder"), WORDS, num_hidden_layers=3)


def slowly(prediction: str, reference: str, folder: Path, layer: int) -> list[float]:
    """One pair, token by token, without padding."""
    model = BertModel.from_pretrained(folder).eval()
    vectors = []
    for text in (prediction, reference):
        ids = [2, *(4 + WORDS.index(word) for word in text.split()[:62]), 3]
        with torch.no_grad():
            hidden = model(torch.tensor([ids]), output_hidden_states=True).hidden_states[layer][0].double()
        vectors.append([vector / vector.norm() for vector in hidden])
    said, wanted = vectors
    precision = np.mean([max(float(s @ w) for w in wanted) for s in said[1:-1]])
    recall = np.mean([max(float(s @ w) for s in said) for w in wanted[1:-1]])
    return [100 * float(v) for v in (precision, recall, 2 * precision * recall / (precision + recall))]


@pytest.mark.parametrize("layer", [0, 2, 3])
def test_scores_are_the_slow_ones_whatever_the_batch(encoder: Path, layer: int) -> None:
    expected = [slowly(p, r, encoder, layer) for p, r in zip(PREDICTIONS, REFERENCES, strict=True)]
    for rows_at_once in (1, 3):
        scores = bert_score(
            PREDICTIONS,
            REFERENCES,
            folder=encoder,
            layer=layer,
            device=CPU,
            rows_at_once=rows_at_once,
            show=False,
        )
        found = np.stack([scores[measure] for measure in MEASURES], axis=1)
        assert found == pytest.approx(np.array(expected), abs=1e-3)
    assert scores["f1"][2] == pytest.approx(100, abs=1e-3)
    assert scores["f1"].min() < 99


def test_scores_are_the_authors_packages(encoder: Path) -> None:
    package = pytest.importorskip("bert_score", reason="pip install bert-score to compare with it")
    theirs = package.score(PREDICTIONS, REFERENCES, model_type=str(encoder), num_layers=2)
    ours = bert_score(PREDICTIONS, REFERENCES, folder=encoder, layer=2, device=CPU, show=False)
    for measure, values in zip(MEASURES, theirs, strict=True):
        assert ours[measure] == pytest.approx(100 * values.numpy(), abs=1e-3)


def test_an_empty_text_scores_nothing(encoder: Path) -> None:
    scores = bert_score(
        ["", " ", "a cat"], ["a dog", "", " \n"], folder=encoder, layer=1, device=CPU, show=False
    )
    assert all(scores[measure].tolist() == [0, 0, 0] for measure in MEASURES)


def test_no_encoder_at_hand(encoder: Path, tmp_path: Path) -> None:
    options = {"layer": 2, "device": CPU}
    with pytest.raises(ConfigError, match=r"no encoder in .*roberta-large"):
        bert_score(["a"], ["a"], folder=tmp_path, **options)
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(ConfigError, match="is no encoder that loads"):
        bert_score(["a"], ["a"], folder=tmp_path, **options)
    with pytest.raises(ConfigError, match=r"layer 4 of .*: 0 to 3"):
        bert_score(["a"], ["a"], folder=encoder, layer=4, device=CPU)
    with pytest.raises(ValueError, match="1 predictions for 2 references"):
        bert_score(["a"], ["a", "b"], folder=encoder, **options)
