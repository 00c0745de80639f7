from __future__ import annotations

from pathlib import Path

import nltk
import pytest
import yaml
from nltk.tokenize.punkt import PunktTrainer, save_punkt_params

from summarizer.config.paths import conf_folder
from summarizer.config.schema import GenerationConfig
from summarizer.evaluation import mlperf
from summarizer.evaluation.metrics import score_pairs
from summarizer.evaluation.mlperf import (
    REFERENCE,
    ROWS,
    MlperfScores,
    mlperf_scores,
    prompt,
    prompt_ids,
    verdict,
)

pytestmark = pytest.mark.versions

PREDICTIONS = [" The cats were running. Dogs slept. ", "", "One sentence.  Another one here."]
REFERENCES = ["A cat runs.\nThe dog sleeps .", "Something .", "Another one here .\nOne sentence ."]


def test_the_prompt_by_the_references_own_recipe() -> None:
    article = "A {b} c.\n{article} "
    # dataset.py formats each example of download_cnndm.py into this
    prompt_input = (
        "Below is an instruction that describes a task, paired with an input that provides further context. "
        "Write a response that appropriately completes the request.\n\n"
        "### Instruction:\n{instruction}\n\n### Input:\n{input}\n\n### Response:"
    )
    example = {"instruction": "Summarize the following news article:", "input": article}
    assert prompt(article) == prompt_input.format_map(example)


def test_a_long_prompt_is_cut_at_its_end() -> None:
    def encode(text: str) -> list[int]:
        return [ord(letter) for letter in text]

    assert prompt_ids(encode(prompt("Short."))) == encode(prompt("Short."))
    cut = prompt_ids(encode(prompt("x" * 3000)))
    assert len(cut) == 1919
    assert set(cut[300:]) == {ord("x")}


def test_generation_keeps_only_what_the_task_leaves_open() -> None:
    options = yaml.safe_load((conf_folder() / "generation" / "greedy.yaml").read_text())
    spec = GenerationConfig(**options | {"seed": 77, "no_repeat_ngram_size": 3, "length_penalty": 2.0})
    fixed = mlperf.generation(spec)
    changed = {name for name in type(spec).model_fields if getattr(spec, name) != getattr(fixed, name)}
    assert (fixed.num_beams, fixed.min_new_tokens, fixed.max_new_tokens) == (4, 30, 128)
    assert fixed.early_stopping is True
    assert (fixed.length_penalty, fixed.no_repeat_ngram_size, fixed.do_sample) == (1.0, 0, False)
    assert fixed.seed == 77
    assert changed <= {
        "max_new_tokens",
        "min_new_tokens",
        "num_beams",
        "early_stopping",
        "length_penalty",
        "no_repeat_ngram_size",
        "do_sample",
    }


def test_scores_without_punkt_say_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(nltk.data, "path", [])
    scores = mlperf_scores(PREDICTIONS, REFERENCES, show=False)
    per_row = score_pairs(PREDICTIONS, REFERENCES, show=False)
    assert scores.rouge == {variant: round(values.mean(), 4) for variant, values in per_row.items()}
    assert scores.gen_len == len("The cats were running.\nDogs slept.") + len(
        "One sentence.\nAnother one here."
    )
    assert scores.gen_num == 3
    assert scores.sentences_by == "this project's rules (punkt is not here)"
    with pytest.raises(ValueError, match="no summaries"):
        mlperf_scores([], [])


def test_scores_with_punkt_are_evaluation_pys(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # A punkt model of nothing but one abbreviation, in the place and format of nltk's own.
    folder = tmp_path / "tokenizers" / "punkt_tab" / "english"
    folder.mkdir(parents=True)
    params = PunktTrainer("One. Two.").get_params()
    params.abbrev_types.add("slept")
    monkeypatch.setattr(nltk.data, "path", [str(tmp_path)])  # nltk writes nowhere else
    save_punkt_params(params, dir=folder)
    clear = getattr(nltk.tokenize._get_punkt_tokenizer, "cache_clear", lambda: None)
    clear()
    predictions = ["The cats ran. Dogs slept. They woke.", *PREDICTIONS[1:]]
    scores = mlperf_scores(predictions, REFERENCES, show=False)
    clear()  # the next test has no such model
    assert scores.sentences_by == "nltk punkt"
    expected = score_pairs(
        ["The cats ran.\nDogs slept. They woke.", *PREDICTIONS[1:]], REFERENCES, split=str.splitlines
    )
    assert scores.rouge["rouge1"] == round(expected["rouge1"].mean(), 4)
    # one sentence fewer than by this project's rules, joined by a space as it was
    assert scores.gen_len == len("The cats ran.\nDogs slept. They woke.") + len(
        "One sentence.\nAnother one here."
    )


def test_the_reference_itself_passes_at_both_levels() -> None:
    judged = verdict(MlperfScores(REFERENCE, 4_016_878, 13_368, ""))
    assert judged.refusal is None
    assert judged.passed["99 %"] is True
    assert judged.passed["99.9 %"] is True
    assert [figure.name for figure in judged.figures] == ["rouge1", "rouge2", "rougeL", "gen_len"]
    assert all(figure.value == figure.reference for figure in judged.figures)


@pytest.mark.parametrize(
    ("name", "value", "high", "low"),
    [
        # submission_checker.py: 42.9865 * 0.999 = 42.9435..., * 0.99 = 42.5566...; and so on
        ("rouge1", 42.9436, True, True),
        ("rouge1", 42.9435, False, True),
        ("rouge1", 42.5567, False, True),
        ("rouge1", 42.5566, False, False),
        ("rouge2", 20.1034, True, True),
        ("rouge2", 20.1033, False, True),
        ("rouge2", 19.9222, False, False),
        ("rougeL", 29.9582, True, True),
        ("rougeL", 29.9581, False, True),
        ("rougeL", 29.6882, False, False),
        ("gen_len", 3_615_191, True, True),  # 4016878 * 0.9 = 3615190.2
        ("gen_len", 3_615_190, False, False),
        ("gen_len", 9_000_000, True, True),
    ],
)
def test_bounds(name: str, value: float, high: bool, low: bool) -> None:
    figures = {**REFERENCE, "gen_len": 4_016_878, name: value}
    judged = verdict(MlperfScores(figures, int(figures["gen_len"]), ROWS, ""))
    assert judged.passed["99.9 %"] is high
    assert judged.passed["99 %"] is low


def test_a_part_of_the_split_gets_no_verdict() -> None:
    judged = verdict(MlperfScores(REFERENCE, 4_016_878, 50, ""))
    assert judged.refusal == "not the whole split (50 of 13,368 rows): no verdict"
    assert judged.passed["99 %"] is None
    assert judged.figures[0].value == REFERENCE["rouge1"]
    with pytest.raises(ValueError, match="missing: rougeL"):
        verdict(MlperfScores({"rouge1": 1, "rouge2": 1, "rougeLsum": 1}, 1, ROWS, ""))
