from __future__ import annotations

import pickle
from pathlib import Path

import pytest
import transformers
from tokenizers import AddedToken, Tokenizer, decoders, models, normalizers, processors

from summarizer.config.schema import PromptConfig
from summarizer.data.control_tokens import text_tokenizer
from summarizer.data.prompt import Prompt, build_prompt
from summarizer.errors import ConfigError

ARTICLE = "The council met.\n\nIt's 10,000 people — naïve café 東京 \U0001f600 & more:  two  spaces\ttab."
SUMMARY = "Council met.\nNothing was decided."
TLDR = PromptConfig(template="{article}\n\nTL;DR:", completion_token=None, end_token=None, max_tokens=128)
Fast = transformers.PreTrainedTokenizerFast


def spec(template: str = "{article}\n\nTL;DR:", **changes: object) -> PromptConfig:
    fields = {"completion_token": None, "end_token": None, "max_tokens": 128} | changes
    return PromptConfig(template=template, **fields)  # type: ignore[arg-type]


def whole(prompt: Prompt, article: str, summary: str) -> list[int]:
    return prompt.training_ids(*prompt.encode(article, summary))[0]


@pytest.fixture(scope="module")
def llama() -> Fast:
    """A SentencePiece-like tokenizer: starts each text with <s>, writes spaces as ▁ and puts one ahead."""
    letters = {chr(code): 10 + code for code in range(33, 127)}
    inner = Tokenizer(
        models.BPE({"<unk>": 0, "<s>": 1, "</s>": 2, "▁": 3, **letters}, merges=[], unk_token="<unk>")
    )
    inner.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    inner.decoder = decoders.Sequence([decoders.Replace("▁", " "), decoders.Fuse()])
    inner.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 1)])
    return Fast(tokenizer_object=inner, bos_token="<s>", eos_token="</s>", unk_token="<unk>")


@pytest.mark.parametrize(
    "template",
    ["{article}\n\nTL;DR:", "Article: {article}\n\nSummary: {completion}", "News:\n{article}\nShort:\n"],
)
def test_plain_prompts_are_tokenized_as_running_text(tokenizer: Fast, template: str) -> None:
    prompt = build_prompt(spec(template), tokenizer)
    text = template.replace("{completion}", "").replace("{article}", ARTICLE)
    text += SUMMARY if text.endswith((" ", "\n")) else " " + SUMMARY
    assert whole(prompt, f"  {ARTICLE}\n", SUMMARY + " \n") == [
        *tokenizer(text).input_ids,
        tokenizer.eos_token_id,
    ]


def test_the_completion_token_stands_between_prompt_and_summary(tokenizer: Fast, prompt: Prompt) -> None:
    ids, prompt_tokens = prompt.training_ids(*prompt.encode(ARTICLE, SUMMARY))
    head = tokenizer("Article: " + ARTICLE + "\n\nSummary: ").input_ids
    completion = tokenizer.convert_tokens_to_ids("<|extratoken_1|>")
    assert ids == [*head, completion, *tokenizer(SUMMARY).input_ids, tokenizer.eos_token_id]
    assert prompt_tokens == len(head) + 1


def test_a_template_may_use_the_models_own_control_tokens(tokenizer: Fast) -> None:
    prompt = build_prompt(spec("<|extratoken_3|>{article}<|extratoken_4|>\n"), tokenizer)
    assert prompt.before == (tokenizer.convert_tokens_to_ids("<|extratoken_3|>"),)
    assert prompt.after[0] == tokenizer.convert_tokens_to_ids("<|extratoken_4|>")


@pytest.mark.parametrize("spelled", ["<|endoftext|>", "<|extratoken_1|>", "x<|extratoken_1|>y <|endoftext|>"])
def test_control_tokens_spelled_in_a_text_are_text(tokenizer: Fast, prompt: Prompt, spelled: str) -> None:
    control = set(tokenizer.get_added_vocab().values())
    assert control & set(tokenizer(spelled).input_ids), "the original tokenizer does take it for control"
    article_ids, target_ids = prompt.encode(spelled, spelled)
    assert not control & set(article_ids)
    assert not control & set(target_ids[:-1])
    assert prompt.decode(target_ids) == spelled


def test_ordinary_text_is_tokenized_as_by_the_original(tokenizer: Fast) -> None:
    text = text_tokenizer(tokenizer)
    for example in (ARTICLE, SUMMARY, "", " ", "\n\n\n", "a" * 500, "<|", "|>"):
        assert text.encode(example, add_special_tokens=False).ids == tokenizer(example).input_ids


def test_added_runs_of_spaces_stay_text(tokenizer: Fast) -> None:
    spaced = pickle.loads(pickle.dumps(tokenizer))
    spaced.add_tokens([AddedToken("        ", normalized=False), AddedToken("[NOTE]", normalized=False)])
    prompt = build_prompt(spec(), spaced)
    assert prompt.encode_article("a        b") == spaced("a        b").input_ids
    assert "[NOTE]" in prompt.control_tokens
    assert "        " not in prompt.control_tokens


def test_a_start_token_is_set_only_where_the_tokenizer_sets_one(tokenizer: Fast, llama: Fast) -> None:
    assert build_prompt(TLDR, tokenizer).before == ()
    prompt = build_prompt(TLDR, llama)
    assert prompt.before == (1,)
    ids = whole(prompt, "abc <s>", "de")
    assert ids.count(1) == 1
    assert ids[-1] == 2
    # It puts the space before a word by itself; one more would be two.
    assert prompt.encode_target("de") == [3, 10 + ord("d"), 10 + ord("e"), 2]
    assert prompt.decode(prompt.encode_target("de fg")) == "de fg"


@pytest.mark.parametrize("length", [0, 1, 60, 61, 62, 500])
def test_only_the_article_is_cut_and_at_its_end(prompt: Prompt, length: int) -> None:
    article = list(range(1000, 1000 + length))
    target = [*range(2000, 2050), prompt.end_id]
    ids, prompt_tokens = prompt.training_ids(article, target)
    room = 128 - len(prompt.before) - len(prompt.after) - len(target)
    assert prompt.room(len(target)) == room
    assert ids == [*prompt.before, *article[: max(room, 0)], *prompt.after, *target]
    assert len(ids) == min(128, len(prompt.before) + length + len(prompt.after) + 51)
    assert ids[prompt_tokens:] == target


def test_a_summary_that_leaves_no_room_is_refused(prompt: Prompt) -> None:
    most = 128 - len(prompt.before) - len(prompt.after) - 1
    assert prompt.refusal([5] * most) is None
    assert prompt.refusal([5] * (most + 1)) == (
        f"summary of {most + 1} tokens leaves no room in prompt.max_tokens=128"
    )
    with pytest.raises(ValueError, match="leaves no room"):
        prompt.training_ids([1], [5] * (most + 1))


def test_generation_leaves_room_for_what_is_generated(prompt: Prompt) -> None:
    article = list(range(500, 900))
    ids = prompt.generation_ids(article, 40)
    assert len(ids) == 128 - 40
    assert tuple(ids[-len(prompt.after) :]) == prompt.after
    assert prompt.generation_ids(article[:3], 40) == [*prompt.before, *article[:3], *prompt.after]
    with pytest.raises(ConfigError, match=r"generation\.max_new_tokens: 128 leaves no room") as caught:
        prompt.generation_ids(article, 128)
    most = int(str(caught.value).rsplit(" ", 1)[1])
    assert len(prompt.generation_ids(article, most)) + most == 128


def test_decode_stops_at_the_end_token_and_drops_control_tokens(tokenizer: Fast, prompt: Prompt) -> None:
    words = tokenizer(" Two words.\n").input_ids
    spare = tokenizer.convert_tokens_to_ids("<|extratoken_2|>")
    assert prompt.decode([spare, *words, spare, prompt.end_id, *words]) == "Two words."
    assert prompt.decode([prompt.end_id, *words]) == ""
    assert prompt.decode([50_000, *words]) == "Two words."  # rows of a padded embedding name no token


def test_ordinary_words_that_were_added_to_a_tokenizer_are_text(tokenizer: Fast) -> None:
    """In articles and in summaries; what is special, or written as control tokens are, is none."""
    words = pickle.loads(pickle.dumps(tokenizer))
    words.add_tokens(["homework", "Cassavine", "<|turn|>", "[CITE]"])
    words.add_special_tokens({"additional_special_tokens": ["PAUSE"]})
    prompt = build_prompt(spec(), words)
    text = "Eden Cassavine did her homework."
    ids = prompt.encode_article(text)
    assert {words.convert_tokens_to_ids(word) for word in ("homework", "Cassavine")} <= set(ids)
    assert ids == words(text, add_special_tokens=False).input_ids
    assert prompt.decode(ids) == text
    assert not {"homework", "Cassavine"} & prompt.control_tokens
    assert {"<|turn|>", "[CITE]", "PAUSE"} <= prompt.control_tokens
    assert words.convert_tokens_to_ids("PAUSE") not in prompt.encode_article("PAUSE here")
    assert build_prompt(spec(), tokenizer).identity() != prompt.identity()


def test_it_travels_to_other_processes(prompt: Prompt) -> None:
    copy = pickle.loads(pickle.dumps(prompt))
    assert copy.encode(ARTICLE, SUMMARY) == prompt.encode(ARTICLE, SUMMARY)
    assert copy.identity() == prompt.identity()


def test_its_identity_follows_what_it_does_to_a_text(tokenizer: Fast, prompt: Prompt) -> None:
    variants = [
        spec(),
        spec(max_tokens=64),
        spec(end_token="<|extratoken_5|>"),
        spec("{article}\nTL;DR:"),
        spec("{article}{completion}", completion_token="<|extratoken_1|>"),
        spec("News:{article}\nTL;DR:"),
        spec("News: {article}\nTL;DR:"),
    ]
    identities = {build_prompt(variant, tokenizer).identity() for variant in variants}
    assert len(identities) == len(variants)
    assert build_prompt(spec(), tokenizer).identity() in identities


@pytest.mark.parametrize(
    ("changes", "keys", "message"),
    [
        ({"end_token": "<|endoftxt|>"}, ["prompt.end_token"], "did you mean '<|endoftext|>'?"),
        (
            {
                "template": "{article}{completion}",
                "completion_token": "<|extra_token_1|>",
                "end_token": "END",
            },
            ["prompt.completion_token", "prompt.end_token"],
            "did you mean '<|extratoken_1",
        ),
        ({"completion_token": "<|extratoken_1|>"}, ["prompt.completion_token"], "has no {completion}"),
        ({"template": "{article}{completion}"}, ["prompt.completion_token"], "nothing in the template marks"),
        ({"template": "{article} "}, ["prompt.completion_token"], "nothing in the template marks"),
        (
            {"template": "{article}{completion}", "completion_token": "<|endoftext|>"},
            ["prompt.completion_token"],
            "is the end token too",
        ),
        (
            {"template": "long " * 40 + "{article}\nTL;DR:", "max_tokens": 32},
            ["prompt.max_tokens"],
            "at least",
        ),
    ],
)
def test_mistakes(tokenizer: Fast, changes: dict[str, object], keys: list[str], message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        build_prompt(spec(**changes), tokenizer)  # type: ignore[arg-type]
    assert [issue.key for issue in caught.value.issues] == keys
    assert message in str(caught.value)


def test_a_tokenizer_without_end_of_text_needs_an_end_token(llama: Fast) -> None:
    endless = pickle.loads(pickle.dumps(llama))
    endless.eos_token = None
    with pytest.raises(ConfigError, match=r"prompt\.end_token: null"):
        build_prompt(TLDR, endless)
    assert build_prompt(spec(end_token="</s>"), endless).end_id == 2


def test_gpt2s_own_vocabulary() -> None:
    folder = Path(__file__).resolve().parents[2].parent / "shared" / "tokenizer" / "gpt2"
    if not folder.is_dir():
        pytest.skip("GPT-2's vocabulary is not beside this checkout")
    gpt2 = transformers.GPT2TokenizerFast(
        vocab=str(folder / "vocab.json"), merges=str(folder / "merges.txt"), eos_token="<|endoftext|>"
    )
    prompt = build_prompt(TLDR, gpt2)
    expected = gpt2(f"{ARTICLE}\n\nTL;DR: {SUMMARY}").input_ids
    assert len(gpt2) == 50257
    assert whole(prompt, ARTICLE, SUMMARY) == [*expected, 50256]
