"""The decoder against `transformers.generate` on the unquantized model, one prompt at a time."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from greedy import greedy, transformers_answer
from packaging.version import Version
from tiny_bases import adapted, fill_randomly, load, lora, plain, saved
from transformers import GPTJConfig, GPTJForCausalLM, PreTrainedModel

from summarizer.adapters.attach import AdaptedModel, attach
from summarizer.generation import beam_search, kv_cache
from summarizer.generation import decoder as decoder_file
from summarizer.generation.decoder import Decoder
from summarizer.models.attention import Sequences
from summarizer.ops import decode_attention, decode_gemm, native

END, PAD, NEW = 7, 0, 9
PROMPTS = [
    [random.Random(length).randrange(8, 96) for _ in range(length)] for length in (5, 1, 12, 8, 3, 9, 2)
]
"""Of unequal length."""
SEARCHES: list[dict[str, Any]] = [
    {},
    {"num_beams": 4},
    {"num_beams": 3, "length_penalty": 2.0, "early_stopping": True},
    {"num_beams": 3, "length_penalty": -1.0},
    {"no_repeat_ngram_size": 2},
    {"num_beams": 2, "no_repeat_ngram_size": 1},
    {"min_new_tokens": NEW},
    {"num_beams": 2, "min_new_tokens": 4, "early_stopping": True},
]


def decoder(model: AdaptedModel, batch_size: int = 3, end: int = END, **changes: Any) -> Decoder:
    return Decoder(model, greedy(NEW, **changes), end_id=end, pad_id=PAD, batch_size=batch_size)


def answers(
    model: AdaptedModel, prompts: Sequence[Sequence[int]] = PROMPTS, batch_size: int = 3, **changes: Any
) -> list[list[list[int]]]:
    """[prompt][trial][token], whatever the order in which they were done."""
    done = dict(decoder(model, batch_size, **changes).answers(prompts))
    assert sorted(done) == list(range(len(prompts)))
    return [done[index] for index in range(len(prompts))]


def expected(model: PreTrainedModel, prompt: list[int], end: int = END, **options: Any) -> list[int]:
    """As transformers has it."""
    return transformers_answer(model, prompt, end, NEW, PAD, **options)


@pytest.fixture(scope="module", params=["gptj", "llama_tied", "gpt2"])
def folder(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return saved(request.param, tmp_path_factory.mktemp(request.param))


@pytest.fixture(scope="module", params=["gptj", "llama_tied"])
def own(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model of our own, for what `generate` of transformers does not do."""
    return saved(request.param, tmp_path_factory.mktemp(request.param))


def base(folder: Path) -> AdaptedModel:
    """Without an adapter; one trial's adapter that adds nothing stands for it."""
    return attach(load(folder).model, [lora(1)], [0])


def likely_end(model: PreTrainedModel) -> int:
    """A token that some of the prompts are answered with early, to stand for the end of text."""
    return [expected(model, prompt, min_new_tokens=NEW)[1] for prompt in PROMPTS][2]


@pytest.mark.slow
@pytest.mark.versions
@pytest.mark.parametrize(
    ("options", "ends_early"),
    [(options, False) for options in SEARCHES] + [(options, True) for options in SEARCHES[:3]],
    ids=str,
)
def test_slots_filled_again_give_what_each_prompt_alone_gives_in_transformers(
    options: dict[str, Any], folder: Path, ends_early: bool
) -> None:
    """Five prompts of unequal length in three slots."""
    reference = plain(folder)
    end = likely_end(reference) if ends_early else END
    got = answers(base(folder), end=end, **options)
    wanted = [expected(reference, prompt, end, **options) for prompt in PROMPTS]
    assert [answer for (answer,) in got] == wanted
    if ends_early and not options:
        assert len({len(answer) for answer in wanted}) > 1


def group(folder: Path) -> AdaptedModel:
    model = adapted(folder, [lora(2), lora(5), lora(1, targets=["linear"])])
    for trial in range(3):
        fill_randomly(model, trial, seed=trial)
    return model


def test_passes_tell_what_they_read_and_wrote(own: Path) -> None:
    told: list[tuple[int, int]] = []
    reading = replace(decoder(base(own)), on_step=lambda read, written: told.append((read, written)))
    written = [answer for _, (answer,) in reading.answers(PROMPTS)]
    assert sum(read for read, _ in told) == sum(map(len, PROMPTS))
    assert told[0] == (sum(sorted(map(len, PROMPTS))[-3:]), 0), "the three longest are read first"
    assert sum(count for _, count in told) >= sum(map(len, written)), "end tokens are written too"


@pytest.mark.slow
@pytest.mark.parametrize("options", SEARCHES[:3], ids=str)
def test_trials_at_once_give_what_each_alone_gives(options: dict[str, Any], folder: Path) -> None:
    """Trials whose answers to one prompt have unequal lengths, so that one waits for another."""
    model = group(folder)
    end = answers(model, [PROMPTS[0]], min_new_tokens=NEW)[0][1][2]
    together = answers(model, end=end, **options)
    for trial in range(3):
        with model.only([trial]):
            alone = answers(model, end=end, **options)
        assert alone == [[of_trials[trial]] for of_trials in together]
    assert any(len({len(answer) for answer in of_trials}) > 1 for of_trials in together)


def test_the_base_alone_answers_once_within_a_group(folder: Path) -> None:
    model = group(folder)
    with model.base_alone():
        assert answers(model) == answers(base(folder))


def test_the_number_of_slots_changes_nothing(folder: Path) -> None:
    model = group(folder)
    assert answers(model, batch_size=1) == answers(model, batch_size=5) == answers(model, batch_size=100)


def test_a_stream_gives_the_tokens_one_by_one(folder: Path) -> None:
    model = base(folder)
    ((whole,),) = answers(model, [PROMPTS[2]])
    tokens = decoder(model).stream(PROMPTS[2])
    assert next(tokens) == (0, whole[0])
    assert [whole[0], *(token for _, token in tokens)] == whole
    ((by_beams,),) = answers(model, [PROMPTS[2]], num_beams=3)
    assert [token for _, token in decoder(model, num_beams=3).stream(PROMPTS[2])] == by_beams


def test_trials_stream_side_by_side_each_to_its_own_end(own: Path) -> None:
    model = group(own)
    (free,) = answers(model, [PROMPTS[2]], end=PAD)
    end = free[1][3]
    wanted = [whole[: whole.index(end)] if end in whole else whole for whole in free]
    assert len({len(answer) for answer in wanted}) > 1
    given = list(decoder(model, end=end).stream(PROMPTS[2]))
    assert [[token for trial, token in given if trial == own] for own in range(3)] == wanted
    assert [trial for trial, _ in given[:6]] == [0, 1, 2, 0, 1, 2]


@pytest.mark.slow
def test_sampling_is_its_seed_s_whatever_the_batch_and_leaves_the_global_generator_alone(
    folder: Path,
) -> None:
    model = base(folder)
    sampling: dict[str, Any] = {"do_sample": True, "temperature": 1.5, "top_k": 40, "top_p": 0.95}
    torch.manual_seed(1)
    before = torch.get_rng_state()
    first = answers(model, seed=3, **sampling)
    assert torch.equal(torch.get_rng_state(), before)
    assert answers(model, batch_size=1, seed=3, **sampling) == first
    assert answers(model, list(reversed(PROMPTS)), seed=3, **sampling) == list(reversed(first))
    assert answers(model, seed=4, **sampling) != first
    assert answers(model, seed=3, **sampling | {"top_k": 1}) == answers(model)


@pytest.mark.slow
@pytest.mark.versions
@pytest.mark.skipif(
    Version(transformers.__version__) < Version("5.24"),
    reason="before 5.24 transformers left drawn candidates unsorted, and dropped good ones that had ended",
)
@pytest.mark.parametrize("warped", [{}, {"temperature": 0.2}, {"top_k": 6}, {"top_p": 0.3}], ids=str)
def test_beams_are_drawn_as_transformers_draws_them(
    warped: dict[str, Any], own: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(beam_search, "seed_of", lambda seed, prompt: seed)
    sampling: dict[str, Any] = {"num_beams": 2, "temperature": 1.0, "top_k": 0, "top_p": 1.0} | warped
    wanted = []
    for prompt in PROMPTS:
        torch.manual_seed(5)
        wanted.append(expected(plain(own), prompt, do_sample=True, **sampling))
    got = answers(base(own), seed=5, do_sample=True, **sampling)
    assert [answer for (answer,) in got] == wanted


def test_what_was_answered_before_memory_ran_out_was_given(
    own: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = base(own)
    done = []
    forward = model.model.forward
    calls = 0

    def runs_out(*args: Any, **kwargs: Any) -> Any:
        nonlocal calls
        calls += 1
        if calls > 2 * NEW:
            raise torch.OutOfMemoryError
        return forward(*args, **kwargs)

    monkeypatch.setattr(model.model, "forward", runs_out)
    given = decoder(model).answers(PROMPTS)
    with pytest.raises(torch.OutOfMemoryError):
        done.extend(index for index, _ in given)
    assert 0 < len(done) < len(PROMPTS)
    monkeypatch.undo()
    assert answers(model) == answers(base(own)), "attention is transformers' again after a failure"


@pytest.mark.parametrize("kind", ["gptj", "llama_tied"])
def test_bf16_products_stay_near(kind: str, tmp_path: Path) -> None:
    """Not equal: but the first token's choice holds, and keys are kept in bf16."""
    model = base(saved(kind, tmp_path))
    exact = answers(model, batch_size=5)
    with torch.autocast("cpu", torch.bfloat16):
        near = answers(model, batch_size=5)
    same = sum(a[0][0] == b[0][0] for a, b in zip(exact, near, strict=True))
    assert same >= len(PROMPTS) - 1


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device here")
def test_the_gpu_says_what_the_cpu_says(folder: Path) -> None:
    model = group(folder)
    here = answers(model)
    there = attach(
        load(folder, device="cuda").model, [lora(2), lora(5), lora(1, targets=["linear"])], [0, 1, 2]
    )
    for trial in range(3):
        fill_randomly(there, trial, seed=trial)
    assert answers(there) == here


@pytest.fixture(scope="module")
def wide_heads(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Heads of two registers, as the kernel in C wants them; the other tiny models' are narrower."""
    folder = tmp_path_factory.mktemp("wide")
    torch.manual_seed(0)
    config = GPTJConfig(vocab_size=96, n_embd=64, n_layer=2, n_head=2, rotary_dim=8, n_positions=64)
    GPTJForCausalLM(config).save_pretrained(folder)
    return folder


@pytest.mark.versions
@pytest.mark.parametrize("options", SEARCHES[:4], ids=str)
def test_wide_heads_give_what_transformers_gives(options: dict[str, Any], wide_heads: Path) -> None:
    got = answers(base(wide_heads), **options)
    assert [tokens for (tokens,) in got] == [
        expected(plain(wide_heads), prompt, **options) for prompt in PROMPTS
    ]


def test_prompts_are_read_together_up_to_so_many_tokens(
    wide_heads: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And one that is longer alone."""
    read: list[list[int]] = []
    begin = kv_cache.KVCache.begin_prefill

    def reading(
        cache: kv_cache.KVCache, slots: Sequence[int], lengths: Sequence[int], rows: int
    ) -> Sequences:
        read.append(list(lengths))
        return begin(cache, slots, lengths, rows)

    monkeypatch.setattr(decoder_file, "PREFILL_TOKENS", 12)
    monkeypatch.setattr(kv_cache.KVCache, "begin_prefill", reading)
    answers(base(wide_heads), [[8] * length for length in (13, 7, 5, 4, 3)], batch_size=5)
    assert read == [[13], [7, 5], [4, 3]]


@pytest.mark.parametrize("options", SEARCHES[:2], ids=str)
def test_tokens_are_the_same_without_the_kernels_in_c(
    options: dict[str, Any], wide_heads: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As on a processor without AVX-512, or without a compiler; with them, they are asked."""
    asked: list[str] = []
    for module, name in ((decode_gemm, "int8_gemm"), (decode_attention, "attend_in_c")):
        kernel = getattr(module, name)
        monkeypatch.setattr(
            module,
            name,
            lambda *given, k=kernel, n=name, **more: (asked.append(n), k(*given, **more))[1],
        )
    model = attach(load(wide_heads, "int8").model, [lora(2), lora(5)], [0, 1])
    for trial in range(2):
        fill_randomly(model, trial, seed=trial)
    with_them = answers(model, **options)
    assert set(asked) == (
        {"int8_gemm", "attend_in_c"} if native.available(decode_gemm.WHOLE_NUMBERS) else set()
    )
    asked.clear()
    for module in (decode_gemm, decode_attention):
        monkeypatch.setattr(module, "supports", lambda *given: False)
    assert answers(model, **options) == with_them
    assert not asked
