"""The shipped weights are the ones that were measured: their hash, and their loss on a text of our own."""

from __future__ import annotations

import hashlib
import json

import pytest
import torch
from model_folders import load
from transformers import AutoTokenizer, GPTJConfig, GPTJForCausalLM

from summarizer.config.paths import PACKAGE
from summarizer.models.stored_base import read_base

EMBEDDED = PACKAGE / "models/embedded/tiny_gptj"
SHA256 = {
    "base-00001.safetensors": "96c49421472e27c2fae14c29fbbb21fc31da333abc93cef745487e9318b30397",
    "tokenizer.json": "af98293be7c73ab55aadedfb7d014ec03b165755b5bf719893cf487be8fd75cd",
}
LOSS = 4.3254
"""Nats a token of TEXT, in fp32."""
TEXT = """\
The town council of Brackenford voted on Tuesday night to keep its only public swimming pool open for \
another year, after more than two hundred people crowded into the hall to ask for it. Officials had \
warned in March that the building needed a new roof, and that the money for it could not be found \
without closing the library on Saturdays.

"We heard you," the mayor, Ellen Marsh, told the crowd. "Nobody in this room wants to choose between \
books and water." Under the plan that passed by nine votes to four, the pool will shut for six weeks in \
the autumn while the worst of the roof is mended, and a charity will be asked to pay for the rest.

Not everyone was pleased. Peter Lowell, who has sat on the council since 2004, said that the decision \
only put off the trouble until next spring. A report on the cost of the work is expected by the end of \
the month.
"""


def text_ids() -> torch.Tensor:
    tokenizer = AutoTokenizer.from_pretrained(EMBEDDED)
    return torch.tensor([[tokenizer.eos_token_id, *tokenizer(TEXT).input_ids]])


def mean_loss(scores: torch.Tensor, ids: torch.Tensor) -> float:
    return float(torch.nn.functional.cross_entropy(scores[0, :-1], ids[0, 1:]))


@pytest.mark.parametrize("name", SHA256)
def test_the_files_are_these(name: str) -> None:
    assert hashlib.sha256((EMBEDDED / name).read_bytes()).hexdigest() == SHA256[name]


def test_its_loss_on_our_text() -> None:
    ids = text_ids()
    model = load("embedded:tiny_gptj", "int8").model
    with torch.no_grad():
        scores = model.logits(ids)
    assert mean_loss(scores, ids) == pytest.approx(LOSS, abs=5e-4)


def test_transformers_own_code_has_that_loss_too() -> None:
    """The stored integers times their scales, written out here, in the class that they were trained in."""
    stored = dict(read_base(EMBEDDED))
    tensors = {
        name.removesuffix(".q"): stored[name].float() * stored[name.removesuffix(".q") + ".scale"]
        for name in stored
        if name.endswith(".q")
    }
    plain = {name: value for name, value in stored.items() if not name.endswith((".q", ".scale"))}
    config = GPTJConfig(**json.loads((EMBEDDED / "config.json").read_text()))
    model = GPTJForCausalLM(config).float().eval()
    missing, unexpected = model.load_state_dict({**tensors, **plain}, strict=False)
    assert (missing, unexpected) == ([], [])
    ids = text_ids()
    with torch.no_grad():
        scores = model(input_ids=ids).logits
    assert mean_loss(scores, ids) == pytest.approx(LOSS, abs=5e-4)
