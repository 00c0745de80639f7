"""Decoding against transformers' own on the unquantized model, one prompt and one trial at a time."""

from __future__ import annotations

import logging
import random
from pathlib import Path
from typing import Any

import pytest
import torch
from greedy import greedy, transformers_answer
from tiny_bases import adapted, fill_randomly, load, lora, plain, saved
from transformers import BartConfig, BartForCausalLM, GenerationConfig, PreTrainedModel

from summarizer.adapters.attach import AdaptedModel, attach
from summarizer.generation.decoder import Decoder
from summarizer.generation.transformers_generate import generate, generation_config, padding_changes_nothing
from summarizer.models import meta_model
from summarizer.models.transformers_model import TransformersModel

pytestmark = pytest.mark.versions


@pytest.fixture(autouse=True)
def _none_of_ours(monkeypatch: pytest.MonkeyPatch) -> None:
    """Families of our own too as transformers has them."""
    monkeypatch.setattr(meta_model, "families", lambda first: ())


END, PAD, NEW = 7, 0, 12
PROMPTS = [
    [random.Random(length).randrange(8, 96) for _ in range(length)] for length in (5, 1, 12, 8)
]  # of unequal length


def answers(
    model: TransformersModel, prompts: list[list[int]], trials: int = 1, **changes: Any
) -> list[list[list[int]]]:
    return generate(
        model,
        prompts,
        greedy(NEW, **changes),
        trials=trials,
        end_id=END,
        pad_id=PAD,
        device=torch.device("cpu"),
    )


def expected(model: PreTrainedModel, prompt: list[int], **options: Any) -> list[int]:
    """As transformers has it."""
    return transformers_answer(model, prompt, END, NEW, PAD, **options)


@pytest.fixture(scope="module", params=["gptj", "llama_tied", "gpt2"])
def folder(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return saved(request.param, tmp_path_factory.mktemp(request.param))


SEARCHES: list[dict[str, Any]] = [
    {},
    {"num_beams": 4},
    {"num_beams": 3, "length_penalty": 2.0, "early_stopping": True},
    {"no_repeat_ngram_size": 2},
    {"min_new_tokens": NEW},
    {"num_beams": 2, "min_new_tokens": 6},
]


@pytest.mark.parametrize("options", SEARCHES, ids=str)
def test_a_batch_of_unequal_prompts_gives_what_each_alone_gives_in_transformers(
    options: dict[str, Any], folder: Path
) -> None:
    reference = plain(folder)
    (got,) = answers(load(folder).model, PROMPTS, **options)
    assert got == [expected(reference, prompt, **options) for prompt in PROMPTS]
    assert all(END not in answer for answer in got)
    if "min_new_tokens" in options:
        assert min(map(len, got)) >= options["min_new_tokens"]


def group(folder: Path) -> AdaptedModel:
    model = adapted(folder, [lora(2), lora(5), lora(1, targets=["linear"])])
    for trial in range(3):
        fill_randomly(model, trial, seed=trial)
    return model


@pytest.mark.slow
@pytest.mark.parametrize("options", SEARCHES[:3], ids=str)
def test_trials_at_once_give_what_each_alone_gives(options: dict[str, Any], folder: Path) -> None:
    together = answers(group(folder).model, PROMPTS, trials=3, **options)
    kinds = [lora(2), lora(5), lora(1, targets=["linear"])]
    for trial in range(3):
        alone = attach(load(folder).model, [kinds[trial]], [0])
        fill_randomly(alone, 0, seed=trial)
        assert answers(alone.model, PROMPTS, **options) == [together[trial]]
    assert together[0] != together[1] != together[2]


def test_the_base_alone_answers_once_within_a_group(folder: Path) -> None:
    model = group(folder)
    with model.base_alone():
        assert answers(model.model, PROMPTS) == answers(load(folder).model, PROMPTS)


def always(model: TransformersModel, token: int) -> TransformersModel:
    """A model that answers with one token, whatever it is asked."""

    def only(_: Any, __: Any, scores: torch.Tensor) -> torch.Tensor:
        return torch.full_like(scores, -50.0).index_fill(-1, torch.tensor([token]), 50.0)

    model.head.register_forward_hook(only)
    return model


def test_the_end_token_stops_and_is_left_out(folder: Path) -> None:
    assert answers(always(load(folder).model, END), PROMPTS) == [[[], [], [], []]]
    assert answers(always(load(folder).model, 9), PROMPTS) == [[[9] * NEW] * 4]
    (forced,) = answers(always(load(folder).model, END), PROMPTS, min_new_tokens=3)
    assert [len(answer) for answer in forced] == [3] * 4


def test_one_prompt_s_end_does_not_stop_the_others(folder: Path) -> None:
    """The end token is chosen so that some prompt of the batch meets it early."""
    model = load(folder).model
    (free,) = answers(model, PROMPTS, min_new_tokens=NEW)
    end = free[2][1]
    (got,) = generate(
        model, PROMPTS, greedy(NEW), trials=1, end_id=end, pad_id=end, device=torch.device("cpu")
    )
    for prompt, answer in zip(PROMPTS, got, strict=True):
        (alone,) = generate(
            model, [prompt], greedy(NEW), trials=1, end_id=end, pad_id=end, device=torch.device("cpu")
        )
        assert alone == [answer]
    assert len({len(answer) for answer in got}) > 1


SAMPLING = {"do_sample": True, "temperature": 1.5, "top_k": 40, "top_p": 0.95}


def test_sampling_is_its_seed_s_and_leaves_the_global_generator_alone(folder: Path) -> None:
    model = load(folder).model
    torch.manual_seed(1)
    before = torch.get_rng_state()
    first = answers(model, PROMPTS, seed=3, **SAMPLING)
    assert torch.equal(torch.get_rng_state(), before)
    torch.manual_seed(2)
    assert answers(model, PROMPTS, seed=3, **SAMPLING) == first
    assert answers(model, PROMPTS, seed=4, **SAMPLING) != first


def test_options_of_another_search_are_left_out() -> None:
    without = generation_config(greedy(NEW, temperature=0.3, length_penalty=3.0), end_id=END, pad_id=PAD)
    assert (without.temperature, without.length_penalty) == (None, None) or without.temperature in (None, 1.0)
    sampled = generation_config(greedy(NEW, **SAMPLING), end_id=END, pad_id=PAD)
    assert (sampled.temperature, sampled.top_k, sampled.top_p) == (1.5, 40, 0.95)
    beams = generation_config(greedy(NEW, num_beams=2, length_penalty=3.0), end_id=END, pad_id=PAD)
    assert beams.length_penalty == 3.0


def test_a_model_s_own_generation_settings_do_not_leak_in(tmp_path: Path) -> None:
    """Hub models ship a generation_config.json, with a repetition penalty, say; the run's config rules."""
    saved("gptj", tmp_path)
    without = answers(load(tmp_path).model, PROMPTS)
    GenerationConfig(repetition_penalty=5.0, no_repeat_ngram_size=1, max_length=3).save_pretrained(tmp_path)
    assert answers(load(tmp_path).model, PROMPTS) == without


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device here")
def test_the_gpu_says_what_the_cpu_says(folder: Path) -> None:
    model = group(folder)
    here = answers(model.model, PROMPTS, trials=3)
    model.model.module.to("cuda")
    there = generate(
        model.model, PROMPTS, greedy(NEW), trials=3, end_id=END, pad_id=PAD, device=torch.device("cuda")
    )
    assert there == here


def test_a_model_whose_positions_count_padding_writes_prompts_one_by_one(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """BART's decoder: behind padding its learned positions are others, so that a batch would answer otherwise."""
    torch.manual_seed(0)
    sizes = {"d_model": 32, "decoder_layers": 2, "decoder_ffn_dim": 48, "decoder_attention_heads": 4}
    small = {"encoder_layers": 2, "encoder_ffn_dim": 8, "encoder_attention_heads": 4, "vocab_size": 96}
    tokens = {"pad_token_id": PAD, "eos_token_id": END, "bos_token_id": 1, "forced_eos_token_id": None}
    model = BartForCausalLM(BartConfig(max_position_embeddings=64, **sizes, **small, **tokens))
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.2)
    model.save_pretrained(tmp_path)
    loaded = load(tmp_path).model
    together = [answers(loaded, PROMPTS)[0][index] for index in range(len(PROMPTS))]
    alone = [expected(plain(tmp_path), prompt) for prompt in PROMPTS]
    assert together != alone, "padding changes nothing in this model: the test needs another"
    with caplog.at_level(logging.INFO):
        decoder = Decoder(attach(loaded, [lora(1)], [0]), greedy(NEW), end_id=END, pad_id=PAD, batch_size=4)
        written = dict(decoder.answers(PROMPTS))
    assert [written[index][0] for index in range(len(PROMPTS))] == alone
    assert "they are written one by one" in caplog.text


def test_a_model_that_takes_padding_writes_prompts_together(tmp_path: Path) -> None:
    model = attach(load(saved("gpt2", tmp_path)).model, [lora(1), lora(2)], [0, 1])
    assert isinstance(model.model, TransformersModel)
    assert padding_changes_nothing(model.model, trials=2, pad_id=PAD, device=torch.device("cpu"))
