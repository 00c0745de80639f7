"""The lines that load an exported folder and summarize an article: what a model card shows."""

from __future__ import annotations

from summarizer.config.schema import GenerationConfig
from summarizer.data.prompt import Prompt

ASK = """\
ids = {before}tokenizer({article}, add_special_tokens=False).input_ids[:{room}]{after}
"""
GENERATE = """\
output = model.generate(torch.tensor([ids]), attention_mask=torch.ones(1, len(ids)){settings})
print(tokenizer.decode(output[0, len(ids):], skip_special_tokens=True).strip())
"""


def merged_code(prompt: Prompt, generation: GenerationConfig) -> str:
    return (
        "import torch\n"
        "from transformers import AutoModelForCausalLM, AutoTokenizer\n\n"
        'folder, article = ".", "The text of an article."\n'
        "tokenizer, model = AutoTokenizer.from_pretrained(folder), AutoModelForCausalLM.from_pretrained(folder)\n"
        + _ask(prompt, generation)
        + GENERATE.format(settings="")
    )


def peft_code(prompt: Prompt, generation: GenerationConfig, base: str) -> str:
    """base: a hub name or a folder, as `from_pretrained` takes it."""
    return (
        "import torch\n"
        "from peft import PeftModel\n"
        "from transformers import AutoModelForCausalLM, AutoTokenizer, GenerationConfig\n\n"
        f'folder, base, article = ".", {base!r}, "The text of an article."\n'
        "tokenizer, settings = AutoTokenizer.from_pretrained(folder), GenerationConfig.from_pretrained(folder)\n"
        "model = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(base), folder)\n"
        + _ask(prompt, generation)
        + GENERATE.format(settings=", generation_config=settings")
    )


def ctranslate2_code(prompt: Prompt, generation: GenerationConfig) -> str:
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
    return (
        "import ctranslate2\n"
        "from transformers import AutoTokenizer\n\n"
        'folder, article = ".", "The text of an article."\n'
        "tokenizer, generator = AutoTokenizer.from_pretrained(folder), ctranslate2.Generator(folder)\n"
        + _ask(prompt, generation)
        + "tokens = tokenizer.convert_ids_to_tokens(ids)\n"
        f"results = generator.generate_batch([tokens], include_prompt_in_result=False{settings})\n"
        "print(tokenizer.decode(results[0].sequences_ids[0], skip_special_tokens=True).strip())\n"
    )


def _ask(prompt: Prompt, generation: GenerationConfig) -> str:
    lead = f"{prompt.article_lead!r} + " if prompt.article_lead else ""
    return ASK.format(
        article=f"{lead}article.strip()",
        room=max(prompt.room(generation.max_new_tokens), 1),
        before=f"{list(prompt.before)} + " if prompt.before else "",
        after=f" + {list(prompt.after)}" if prompt.after else "",
    )
