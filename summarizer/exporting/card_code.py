"""The lines of a model card that load what was exported and summarize an article, for each program that loads it.

They write the prompt as text, and cut the article as training did. A test runs them.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from summarizer.config.schema import GenerationConfig
from summarizer.data.chat import Chat
from summarizer.data.control_tokens import sets_start
from summarizer.exporting.card_sections import fenced

if TYPE_CHECKING:
    from summarizer.exporting.steps import Words

ARTICLE = '"The text of an article."'
GENERATE = """\
prompt = torch.tensor([ids])
output = model.generate(prompt, attention_mask=torch.ones_like(prompt){settings})
print(tokenizer.decode(output[0, len(ids):], skip_special_tokens=True).strip())
"""


def merged_code(words: Words, generation: GenerationConfig) -> str:
    """How a merged folder is loaded with transformers."""
    return fenced(
        "import torch\n"
        "from transformers import AutoModelForCausalLM, AutoTokenizer\n\n"
        f'folder, article = ".", {ARTICLE}\n'
        "tokenizer, model = AutoTokenizer.from_pretrained(folder), AutoModelForCausalLM.from_pretrained(folder)\n"
        + _ids(words, generation)
        + GENERATE.format(settings=""),
        "python",
    )


def peft_code(words: Words, generation: GenerationConfig, base: str) -> str:
    """How an adapter is loaded with peft.

    base: a hub name or a folder, as `from_pretrained` takes it.
    """
    return fenced(
        "import torch\n"
        "from peft import PeftModel\n"
        "from transformers import AutoModelForCausalLM, AutoTokenizer, GenerationConfig\n\n"
        f'folder, base, article = ".", {base!r}, {ARTICLE}\n'
        "tokenizer, settings = AutoTokenizer.from_pretrained(folder), GenerationConfig.from_pretrained(folder)\n"
        "model = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(base), folder)\n"
        + _ids(words, generation)
        + GENERATE.format(settings=", generation_config=settings"),
        "python",
    )


def ctranslate2_code(words: Words, generation: GenerationConfig) -> str:
    """How a converted folder is loaded with CTranslate2."""
    options: dict[str, float] = {
        "max_length": generation.max_new_tokens,
        "min_length": generation.min_new_tokens,
        "beam_size": generation.num_beams,
        "no_repeat_ngram_size": generation.no_repeat_ngram_size,
    }
    if generation.num_beams > 1:
        options["length_penalty"] = generation.length_penalty
    if generation.do_sample:
        options["sampling_temperature"] = generation.temperature
        options["sampling_topp"] = generation.top_p
        options["sampling_topk"] = generation.top_k
    settings = "".join(f", {name}={value!r}" for name, value in options.items())
    return fenced(
        "import ctranslate2\n"
        "from transformers import AutoTokenizer\n\n"
        f'folder, article = ".", {ARTICLE}\n'
        "tokenizer, generator = AutoTokenizer.from_pretrained(folder), ctranslate2.Generator(folder)\n"
        + _ids(words, generation)
        + "tokens = tokenizer.convert_ids_to_tokens(ids)\n"
        f"results = generator.generate_batch([tokens], include_prompt_in_result=False{settings})\n"
        "print(tokenizer.decode(results[0].sequences_ids[0], skip_special_tokens=True).strip())\n",
        "python",
    )


ASK = """\
import json
from urllib.request import Request, urlopen

url, article = "http://127.0.0.1:8080", {article}

def ask(path, **body):
    headers = {{"Content-Type": "application/json"}}
    with urlopen(Request(f"{{url}}/{{path}}", json.dumps(body).encode(), headers)) as answer:
        return json.load(answer)

ids = ask("tokenize", content={text}, parse_special=False)["tokens"][:{room}]
answer = ask("completion", prompt=[{pieces}], {settings})
print(answer["content"].strip())
"""


IN_FP32 = "--flash-attn off --cache-type-k f32 --cache-type-v f32"
"""What llama.cpp's server needs to compute in fp32 throughout: its flash attention casts keys and values to fp16,
whatever they are kept in (`build_attn_mha` of src/llama-graph.cpp). Measured on SmolLM2: log-probabilities are up
to 0.008 from those of fp64 with it, 0.0001 without."""


def llama_cpp_code(words: Words, generation: GenerationConfig, files: str, dtype: str | None) -> str:
    """How files are loaded with llama.cpp's server, and how it is asked.

    files: the server's flags that name them.  dtype: of the model's weights; None for a model that is elsewhere.
    """
    options: dict[str, float] = {"n_predict": generation.max_new_tokens, "temperature": 0}
    if generation.do_sample:
        options |= {
            "temperature": generation.temperature,
            "top_p": generation.top_p,
            "top_k": generation.top_k,
        }
    prompt = words.prompt
    asked = ASK.format(
        article=ARTICLE,
        text=_article(words),
        room=_room(words, generation),
        pieces=", ".join([*_first_pieces(words), "*ids", *_pieces(prompt.after, words)]),
        settings=", ".join(f"{name}={value!r}" for name, value in options.items()),
    )
    flags = [files, *([IN_FP32] if dtype == "fp32" else []), f"--ctx-size {prompt.max_tokens}", "--port 8080"]
    served = f"llama-server {' '.join(flags)}"
    return f"{fenced(served, 'bash')}\n\n{fenced(asked, 'python')}"


def _ids(words: Words, generation: GenerationConfig) -> str:
    """The lines that make `ids`, the tokens of the whole prompt."""
    prompt = words.prompt
    if prompt.chat is not None and prompt.chat.template is not None:
        return _chat_ids(prompt.chat, _room(words, generation))
    options = "add_special_tokens=False, split_special_tokens=True"  # one that an article spells out is text
    article = f"tokenizer({_article(words)}, {options}).input_ids[:{_room(words, generation)}]"
    before, after = ("" if not ids else _call(ids, words) for ids in (prompt.before, prompt.after))
    lines = [f"ids = {f'{before} + ' if before else ''}{article}", *([f"ids += {after}"] if after else [])]
    return "".join(f"{line}\n" for line in lines)


def _chat_ids(chat: Chat, room: int) -> str:
    """The same by the chat template that is exported; an article is cut ahead of it."""
    *others, user = chat.messages
    head, _, tail = user["content"].partition("{article}")
    content = " + ".join([*([repr(head)] if head else []), "article", *([repr(tail)] if tail else [])])
    turns = [*(repr(dict(turn)) for turn in others), f'{{"role": {user["role"]!r}, "content": {content}}}']
    cut = f"tokenizer(article.strip(), add_special_tokens=False).input_ids[:{room}]"
    return (
        f"article = tokenizer.decode({cut}, clean_up_tokenization_spaces=False).strip()\n"
        f"messages = [{', '.join(turns)}]\n"
        "ids = tokenizer.apply_chat_template(messages, add_generation_prompt=True, return_dict=False)\n"
    )


def _call(ids: Sequence[int], words: Words) -> str:
    text = _text(ids, words)
    if text is None:
        return f"tokenizer.convert_tokens_to_ids({words.tokenizer.convert_ids_to_tokens(list(ids))!r})"
    return f"tokenizer({text!r}, add_special_tokens=False).input_ids"


def _pieces(ids: Sequence[int], words: Words) -> list[str]:
    """The tokens as few texts, one after another: each the longest that is made of its tokens by itself.

    A token that no text is made of stands as its id.
    """
    pieces: list[str] = []
    while ids:
        for end in range(len(ids), 0, -1):
            if (text := _text(ids[:end], words)) is not None:
                break
        pieces.append(str(ids[0]) if text is None else repr(text))
        ids = ids[end:]
    return pieces


def _first_pieces(words: Words) -> list[str]:
    """What stands ahead of the article, for a server that sets the start token ahead of a text, not of an id."""
    before, start = words.prompt.before, words.added_start
    pieces = _pieces(before[start:], words)
    if start and (not pieces or pieces[0].isdecimal()):
        return [str(before[0]), *pieces]
    if pieces and not start and sets_start(words.tokenizer) and not pieces[0].isdecimal():
        return [str(before[0]), *_pieces(before[1:], words)]
    return pieces


def _text(ids: Sequence[int], words: Words) -> str | None:
    """The text that the tokenizer makes these tokens of; None where no text does."""
    text = str(words.tokenizer.decode(list(ids), clean_up_tokenization_spaces=False))
    again = words.tokenizer(text, add_special_tokens=False).input_ids
    return text if list(again) == list(ids) else None


def _article(words: Words) -> str:
    lead, tail = words.prompt.article_lead, words.prompt.article_tail
    parts = [*([repr(lead)] if lead else []), "article.strip()", *([repr(tail)] if tail else [])]
    return " + ".join(parts)


def _room(words: Words, generation: GenerationConfig) -> int:
    """How many tokens of an article fit."""
    return max(words.prompt.room(generation.max_new_tokens), 1)
