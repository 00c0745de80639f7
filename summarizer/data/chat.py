"""A model's own chat template: what it makes of a conversation about an article, as text that can be kept.

A template is a program: it may add a system text or the day, trim what it is given, and open the assistant's turn
in ways of its own. So it is asked once, about articles and a summary that are known, and what stands around them is
the prompt of a run: recorded with it, and the same on any later day, whatever becomes of the template.
Source: https://huggingface.co/docs/transformers/chat_templating
"""

from __future__ import annotations

import datetime
import logging
import re
import resource
import signal
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import jinja2

from summarizer.config.plain import read_option
from summarizer.config.schema import PromptConfig, RenderedChat
from summarizer.console.safe_text import one_line
from summarizer.errors import ConfigError

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

ARTICLES = (
    'A "first" article\'s <b>line</b> & more,\n\n  two  spaces, naïve 東京 {x} \\n, and its end.',
    "Another: (2nd) article",
)
SUMMARY = 'A "short" <i>summary</i>\nof naïve 東京.'
"""What templates are asked about: text of which nothing may be lost or rewritten."""
NO_REASONING = ("enable_thinking", "thinking")
"""What templates of models that reason (Qwen3, DeepSeek-V3.1, Granite) ask for, and are told is false: no reasoning
precedes a summary. Qwen3's then opens the turn with an empty `<think></think>`, as a finished conversation does."""
CALLS_FOR_THE_DAY = re.compile(r"strftime_now\(\s*(\"[^\"]*\"|'[^']*')\s*\)")

MOST_S = 5.0
"""For one conversation; the longest templates that models have take a few hundredths."""
MOST_BYTES = 2**30
"""Beyond what the process holds, for the same."""

Message = Mapping[str, str]

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Chat:
    """What a prompt is to those who have the tokenizer alone, such as the readers of a model card."""

    messages: tuple[Message, ...]
    """`role` and `content` of each turn ahead of the summary, `{article}` standing for the article, stripped."""
    template: str | None
    """The chat template with its day and no reasoning written into it: by it `apply_chat_template`, told nothing
    but the messages and `add_generation_prompt=True`, gives the run's own prompt. None where none does."""


def resolved_prompt(spec: PromptConfig, tokenizer: PreTrainedTokenizerFast) -> PromptConfig:
    """The prompt that a config comes to with a model's tokenizer: text, or a chat that has been rendered.

    A log line says what `auto` came to, and what a template made necessary. What is resolved stays as it is.
    Raises ConfigError where the config asks for a chat, and the tokenizer has no template that can hold an article.
    """
    if spec.kind == "auto":
        return _chosen(spec, tokenizer)
    if spec.kind == "chat" and spec.rendered is None:
        return _rendered(spec, tokenizer)
    return spec


def chat_of(spec: PromptConfig, tokenizer: PreTrainedTokenizerFast) -> Chat:
    """A rendered chat as its messages, and the template that makes its prompt of them by itself, if one does."""
    assert spec.rendered is not None
    text = spec.rendered.prompt
    template: str | None = None
    try:
        template = _pinned(tokenizer, spec)
        made = [_render(_turns(spec, article), tokenizer, template) for article in ARTICLES]
    except Exception:  # whatever the template that is there now raises: the prompt is the recorded one
        made = []
    if made != [text.replace("{article}", article) for article in ARTICLES]:
        template = None
    return Chat(_turns(spec, "{article}"), template)


# ---- from a config to what is recorded ---------------------------------------------------------------------------


def _chosen(spec: PromptConfig, tokenizer: PreTrainedTokenizerFast) -> PromptConfig:
    """What `auto` comes to: a chat where the tokenizer has a template that can hold an article, else words."""
    given = {name: value for name, value in spec.model_dump().items() if value is not None}
    chat = PromptConfig.model_validate(read_option("prompt", "chat") | given | {"kind": "chat"})
    try:
        rendered = _rendered(chat, tokenizer)
    except ConfigError as error:
        if spec.system is not None:
            raise
        why = error.issues[0].message.removeprefix("chat, but ").partition("; prompt=tldr")[0]
        log.info("prompt: tldr, as auto: %s", why)
        words = {name: value for name, value in given.items() if name not in ("kind", "date")}
        return PromptConfig.model_validate(read_option("prompt", "tldr") | words)
    log.info("prompt: chat, as auto: the model has a chat template; prompt=tldr takes plain words instead")
    return rendered


def _rendered(spec: PromptConfig, tokenizer: PreTrainedTokenizerFast) -> PromptConfig:
    if not getattr(tokenizer, "chat_template", None):
        raise ConfigError.single(
            "prompt.kind", "chat, but the model has no chat template; prompt=tldr takes plain words"
        )
    template = _pinned(tokenizer, spec)
    spec = _with_its_system(spec, tokenizer, template)
    parts = {_parts(spec, article, tokenizer, template) for article in ARTICLES}
    if len(parts) > 1:
        raise _unusable("what it puts around an article changes with the article")
    head, asked, opened, tail = parts.pop()
    # What the model has read ahead of an answer is the turn of a finished conversation, up to the answer.
    prompt, lead = head + "{article}" + opened, ""
    if opened.startswith(asked) and not opened[len(asked) :].strip():
        prompt, lead = head + "{article}" + asked, opened[len(asked) :]
    else:
        log.info(
            "prompt: the chat template opens the assistant's turn by %r when it asks for an answer, and by %r in "
            "a finished conversation; the prompt has the latter",
            *(one_line(asked[-60:]), one_line(opened[-60:])),
        )
    rendered = RenderedChat(prompt=prompt, answer=f"{lead}{{summary}}{tail}")
    if "${" in rendered.prompt + rendered.answer:
        raise _unusable("it writes ${, which a config cannot hold")
    return spec.model_copy(update={"rendered": rendered})


def _with_its_system(spec: PromptConfig, tokenizer: PreTrainedTokenizerFast, template: str) -> PromptConfig:
    """The same, with the system's text ahead of the user's where the template has no turn for it."""
    if spec.system is None:
        return spec
    turns = _turns(spec, ARTICLES[0])
    answered = [*turns, {"role": "assistant", "content": SUMMARY}]
    with suppress(ConfigError):  # what some templates raise for it
        texts = [_render(turns, tokenizer, template), _render(answered, tokenizer, template, asks=False)]
        if all(spec.system.strip() in text for text in texts):
            return spec
    log.info(
        "prompt: the system's text stands ahead of the user's, since the chat template has no turn for it"
    )
    return spec.model_copy(update={"system": None, "template": f"{spec.system}\n\n{spec.template}"})


def _parts(
    spec: PromptConfig, article: str, tokenizer: PreTrainedTokenizerFast, template: str
) -> tuple[str, str, str, str]:
    """What a template puts around an article and a summary.

    Ahead of the article; behind it when it asks for an answer; behind it up to the summary in a finished
    conversation; behind the summary.
    """
    turns = _turns(spec, article)
    asking = _render(turns, tokenizer, template)
    finished = _render([*turns, {"role": "assistant", "content": SUMMARY}], tokenizer, template, asks=False)
    for text, name in ((asking, "prompt"), (finished, "conversation")):
        if text.count(article) != 1:
            raise _unusable(f"its {name} does not hold the article word for word, once")
    if finished.partition(article)[2].count(SUMMARY) != 1:
        raise _unusable("its conversation does not hold the summary word for word, once, behind the article")
    head, _, asked = asking.partition(article)
    own_head, _, rest = finished.partition(article)
    if own_head != head:
        raise _unusable("it puts something else ahead of an article that has been answered")
    opened, _, tail = rest.partition(SUMMARY)
    return head, asked, opened, tail


def _turns(spec: PromptConfig, article: str) -> tuple[Message, ...]:
    assert spec.template is not None
    user = {"role": "user", "content": spec.template.replace("{article}", article)}
    return (user,) if spec.system is None else ({"role": "system", "content": spec.system}, user)


def _render(
    turns: Sequence[Message], tokenizer: PreTrainedTokenizerFast, template: str, *, asks: bool = True
) -> str:
    """What a template makes of these turns.  asks: whether the assistant is asked for one more."""
    try:
        with _bounded(template):
            text = tokenizer.apply_chat_template(
                [dict(turn) for turn in turns],
                chat_template=template,
                add_generation_prompt=asks,
                tokenize=False,
            )
    except MemoryError as error:
        raise _unusable(f"it wants more than {MOST_BYTES / 2**30:g} GB") from error
    except Exception as error:  # templates are programs, and raise what they like
        raise _unusable(f"it cannot be applied ({one_line(str(error)) or type(error).__name__})") from error
    return str(text)


@contextmanager
def _bounded(template: str) -> Iterator[None]:
    """For the block, which is to apply a template, a limit to its time and memory.

    transformers runs templates in jinja's sandbox, which bounds a loop, but neither loops inside each other nor a
    text. A signal ends them, in the main thread alone, and between two steps of the interpreter: powers, the one
    step that a few letters make endless, are refused.
    Raises TimeoutError, MemoryError, ValueError.
    """
    if any((kind, value) == ("operator", "**") for _, kind, value in jinja2.Environment().lex(template)):
        raise ValueError("it computes powers")

    def end(number: int, frame: object) -> None:
        raise TimeoutError(f"it was not done in {MOST_S:g} s")

    soft, hard = resource.getrlimit(resource.RLIMIT_AS)
    limits = [limit for limit in (soft, hard) if limit != resource.RLIM_INFINITY]
    if (statm := Path("/proc/self/statm")).exists():  # on Linux
        limits.append(int(statm.read_text().split()[0]) * resource.getpagesize() + MOST_BYTES)
    in_main = threading.current_thread() is threading.main_thread()
    if in_main:
        before = signal.signal(signal.SIGALRM, end)
        left_s, every_s = signal.setitimer(signal.ITIMER_REAL, MOST_S)
    try:
        resource.setrlimit(resource.RLIMIT_AS, (min(limits, default=soft), hard))
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_AS, (soft, hard))
        if in_main:
            signal.setitimer(signal.ITIMER_REAL, left_s, every_s)
            signal.signal(signal.SIGALRM, before)


def _pinned(tokenizer: PreTrainedTokenizerFast, spec: PromptConfig) -> str:
    """The tokenizer's chat template with the config's day in the place of today's, and reasoning for nobody.

    Written into it, since transformers hands a template no functions.
    """
    assert spec.date is not None
    day = datetime.date.fromisoformat(spec.date)
    template = tokenizer.get_chat_template()
    text = CALLS_FOR_THE_DAY.sub(lambda call: repr(day.strftime(call[1][1:-1])), template)
    settings = [
        f"{{%- set {name} = false %}}" for name in NO_REASONING if re.search(rf"\b{name}\b", template)
    ]
    return "".join([*settings, text])


def _unusable(reason: str) -> ConfigError:
    return ConfigError.single(
        "prompt.kind",
        f"chat, but the model's chat template is not usable: {reason}; prompt=tldr takes plain words",
    )
