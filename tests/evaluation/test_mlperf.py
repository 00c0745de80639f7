from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import nltk
import pytest
import yaml
from nltk.tokenize.punkt import PunktTrainer, save_punkt_params

from summarizer.config.paths import conf_folder
from summarizer.config.schema import GenerationConfig
from summarizer.evaluation.metrics import score_pairs
from summarizer.evaluation.mlperf import (
    ROWS,
    TASKS,
    MlperfScores,
    Task,
    TaskSummarizer,
    mlperf_scores,
    verdict,
)
from summarizer.evaluation.record import MlperfVerdict

pytestmark = pytest.mark.versions

LLAMA, GPTJ = TASKS["mlperf"], TASKS["mlperf-gptj"]
PREDICTIONS = [" The cats were running. Dogs slept. ", "", "One sentence.  Another one here."]
REFERENCES = ["A cat runs.\nThe dog sleeps .", "Something .", "Another one here .\nOne sentence ."]


def test_the_prompts_by_the_references_own_recipes() -> None:
    article = "A {b} c.\n{article} "
    # gpt-j/dataset.py formats each example of download_cnndm.py into this
    prompt_input = (
        "Below is an instruction that describes a task, paired with an input that provides further context. "
        "Write a response that appropriately completes the request.\n\n"
        "### Instruction:\n{instruction}\n\n### Input:\n{input}\n\n### Response:"
    )
    example = {"instruction": "Summarize the following news article:", "input": article}
    assert GPTJ.prompt(article) == prompt_input.format_map(example)
    # llama3.1-8b/download_cnndm.py
    template = (
        "Summarize the following news article in 128 tokens. Please output the summary only, without any other "
        "text.\n\nArticle:\n{input}\n\nSummary:"
    )
    assert LLAMA.prompt(article) == template.format_map({"input": article})


class Letters:
    """A base whose tokens are letters."""

    def encode(self, text: str, add_special_tokens: bool) -> SimpleNamespace:
        return SimpleNamespace(ids=[ord(letter) for letter in text])

    @property
    def prompt(self) -> Any:
        return SimpleNamespace(text=self)

    def decoding(self, *_: object, **__: object) -> Any:
        raise NotImplementedError


def summarizer(task: Task, positions: int | None) -> TaskSummarizer:
    generation = GenerationConfig(
        **yaml.safe_load((conf_folder() / "generation" / "greedy.yaml").read_text())
    )
    return TaskSummarizer(Letters(), generation, batch_size=1, task=task, start_ids=[7], positions=positions)


def test_gptjs_long_prompt_is_cut_at_its_end() -> None:
    reading = summarizer(GPTJ, 2048)
    assert list(reading.prepare("Short.").prompt_ids) == [ord(letter) for letter in GPTJ.prompt("Short.")]
    cut = reading.prepare("x" * 3000)
    assert len(cut.prompt_ids) == 1919
    assert set(cut.prompt_ids[300:]) == {ord("x")}


def test_llamas_prompt_has_a_start_token_and_is_cut_only_where_the_base_ends() -> None:
    whole = [7, *(ord(letter) for letter in LLAMA.prompt("x" * 9000))]
    assert list(summarizer(LLAMA, 131_072).prepare("x" * 9000).prompt_ids) == whole
    assert list(summarizer(LLAMA, None).prepare("x" * 9000).prompt_ids) == whole
    cut = summarizer(LLAMA, 1024).prepare("x" * 9000)
    assert list(cut.prompt_ids) == whole[: 1024 - 128]
    assert (cut.article_tokens, cut.cut_tokens) == (len(whole), len(whole) - 896)


def test_generation_keeps_only_what_the_task_leaves_open() -> None:
    options = yaml.safe_load((conf_folder() / "generation" / "greedy.yaml").read_text())
    spec = GenerationConfig(**options | {"seed": 77, "no_repeat_ngram_size": 3, "length_penalty": 2.0})
    fixed = GPTJ.generation_of(spec)
    changed = {name for name in type(spec).model_fields if getattr(spec, name) != getattr(fixed, name)}
    assert (fixed.num_beams, fixed.min_new_tokens, fixed.max_new_tokens) == (4, 30, 128)
    assert fixed.early_stopping is True
    assert (fixed.length_penalty, fixed.no_repeat_ngram_size, fixed.do_sample) == (1.0, 0, False)
    assert fixed.seed == 77
    now = LLAMA.generation_of(spec)  # SUT_VLLM.py: temperature 0, max_tokens 128, min_tokens 1
    assert (now.num_beams, now.min_new_tokens, now.max_new_tokens, now.do_sample) == (1, 1, 128, False)
    assert (now.length_penalty, now.no_repeat_ngram_size, now.seed) == (1.0, 0, 77)
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
    references = ["The cats ran. They slept. Dogs woke.", *REFERENCES[1:]]
    scores = mlperf_scores(predictions, references, show=False)
    clear()  # the next test has no such model
    assert scores.sentences_by == "nltk punkt"
    expected = score_pairs(
        ["The cats ran.\nDogs slept. They woke.", *PREDICTIONS[1:]],
        ["The cats ran.\nThey slept. Dogs woke.", *REFERENCES[1:]],
        split=str.splitlines,
    )
    for variant in ("rouge1", "rougeLsum"):
        assert scores.rouge[variant] == round(expected[variant].mean(), 4)
    by_our_rules = score_pairs(predictions, references)
    assert scores.rouge["rougeLsum"] != round(by_our_rules["rougeLsum"].mean(), 4)
    # one sentence fewer than by this project's rules, joined by a space as it was
    assert scores.gen_len == len("The cats ran.\nDogs slept. They woke.") + len(
        "One sentence.\nAnother one here."
    )


@pytest.mark.parametrize("task", [LLAMA, GPTJ])
def test_the_reference_itself_passes(task: Task) -> None:
    judged = verdict(task, MlperfScores(task.reference, task.reference_length, 13_368, ""))
    assert judged.refusal is None
    assert judged.passed == dict.fromkeys(task.levels, True)
    assert [figure.name for figure in judged.figures] == [*task.reference, "gen_len"]
    assert all(figure.value == figure.reference for figure in judged.figures)


def judged_with(task: Task, name: str, value: float, cut: int = 0) -> MlperfVerdict:
    figures = {**task.reference, "gen_len": task.reference_length, name: value}
    return verdict(task, MlperfScores(figures, int(figures["gen_len"]), ROWS, ""), cut)


@pytest.mark.parametrize(
    ("name", "value", "passes"),
    [
        # constants.py, v5.1 to v6.1: 38.7792 * 0.99 = 38.3914..., 15.9075 * 0.99 = 15.7484..., and so on
        ("rouge1", 38.3915, True),
        ("rouge1", 38.3914, False),
        ("rouge2", 15.7485, True),
        ("rouge2", 15.7484, False),
        ("rougeL", 24.2508, True),
        ("rougeL", 24.2507, False),
        ("rougeLsum", 35.4351, True),
        ("rougeLsum", 35.4350, False),
        ("gen_len", 7_350_880, True),  # 8167644 * 0.9 = 7350879.6
        ("gen_len", 7_350_879, False),
        ("gen_len", 8_984_408, True),  # 8167644 * 1.1 = 8984408.4
        ("gen_len", 8_984_409, False),
    ],
)
def test_bounds_of_llama(name: str, value: float, passes: bool) -> None:
    assert judged_with(LLAMA, name, value).passed == {"99 %": passes}


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
def test_bounds_of_gptj(name: str, value: float, high: bool, low: bool) -> None:
    judged = judged_with(GPTJ, name, value)
    assert judged.passed["99.9 %"] is high
    assert judged.passed["99 %"] is low


def test_a_part_of_the_split_gets_no_verdict() -> None:
    judged = verdict(GPTJ, MlperfScores(GPTJ.reference, 4_016_878, 50, ""))
    assert judged.refusal == "not the whole split (50 of 13,368 rows): no verdict"
    assert judged.passed["99 %"] is None
    assert judged.figures[0].value == GPTJ.reference["rouge1"]
    with pytest.raises(ValueError, match="missing: rougeL"):
        verdict(GPTJ, MlperfScores({"rouge1": 1, "rouge2": 1, "rougeLsum": 1}, 1, ROWS, ""))


def test_prompts_that_were_cut_get_no_verdict_where_the_task_cuts_none() -> None:
    judged = judged_with(LLAMA, "rouge1", 50, cut=3)
    assert judged.refusal == "3 prompts were cut, of which the task cuts none: no verdict"
    assert judged.passed == {"99 %": None}
    assert judged_with(GPTJ, "rouge1", 50, cut=3).refusal is None
