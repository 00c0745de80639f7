"""`prompt=chat` in every command: the model reads the tokens that transformers' own `apply_chat_template` makes."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from config.composing import composed
from omegaconf import OmegaConf
from serving.served import served
from small_runs import run_here

import summarizer.evaluate
import summarizer.summarize
from summarizer.adapters.attach import AdaptedModel
from summarizer.config.check import check
from summarizer.config.paths import PACKAGE
from summarizer.config.plain import to_plain
from summarizer.exporting.export import export
from summarizer.exporting.request import ExportFlags, requested
from summarizer.generation.decoder import Decoder
from summarizer.runs.launch import with_resolved_prompt
from summarizer.runs.loaded_run import load_runs
from summarizer.runs.preflight import preflight
from summarizer.runs.record import RunRecord, read_config
from summarizer.runs.trained_run import read_trained_run

TEMPLATE = """\
{%- if messages[0].role != 'system' %}
{{- '<|extratoken_2|>system\\nYou write on ' + strftime_now('%d %b %Y') + '.<|extratoken_3|>\\n' }}
{%- endif %}
{%- for message in messages %}
{{- '<|extratoken_2|>' + message.role + '\\n' + message.content | trim + '<|extratoken_3|>\\n' }}
{%- endfor %}
{%- if add_generation_prompt %}{{- '<|extratoken_2|>assistant\\n' }}{%- endif %}"""
"""A day, a system text of its own, contents trimmed, a line break behind the end token."""
ROWS = [
    {
        "id": "a",
        "article": "The council of Orford met.\n\nIt spoke of trams.",
        "summary": "It met.",
    },
    {"id": "b", "article": '"No," said the mayor of Hale. He went home.', "summary": "The mayor said no."},
]
USER = "Summarize this article.\n\n"
RUN = (
    *("model=hf", "data=files", "data.columns.summary=summary", "tracking=none", "evaluation.base=false"),
    *(
        "trainer.precision=fp32",
        "trainer.max_steps=2",
        "generation.max_new_tokens=4",
        "prompt.max_tokens=200",
    ),
    *("evaluation.bootstrap_samples=5", "evaluation.rows_during_training=0"),
)

Ids = tuple[int, ...]


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The embedded model with a chat template."""
    folder = tmp_path_factory.mktemp("base") / "tiny_chat"
    shutil.copytree(PACKAGE / "models" / "embedded" / "tiny_gptj", folder)
    (folder / "chat_template.jinja").write_text(TEMPLATE)
    return folder


@pytest.fixture(scope="module")
def rows(base: Path) -> Path:
    path = base.parent / "rows.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in ROWS))
    return path


@pytest.fixture
def read(monkeypatch: pytest.MonkeyPatch) -> dict[str, set[Ids]]:
    """All that models read in this test: whole examples, and prompts to be continued."""
    found: dict[str, set[Ids]] = {"examples": set(), "prompts": set()}
    batch, answers, stream = AdaptedModel.batch, Decoder.answers, Decoder.stream

    def batched(self: AdaptedModel, trials: Sequence[Sequence[Any]], prompt: Any, *more: Any) -> Any:
        made = batch(self, trials, prompt, *more)
        ids = made.input_ids.flatten().tolist()
        for row in (row for own in trials for row in own):
            example = prompt.training_ids(row.article_ids, row.target_ids)[0]
            at = next(i for i in range(len(ids)) if ids[i : i + len(example)] == example)
            found["examples"].add(tuple(ids[at : at + len(example)]))
        return made

    def answered(self: Decoder, prompts: Sequence[Sequence[int]]) -> Iterator[Any]:
        found["prompts"] |= {tuple(prompt) for prompt in prompts}
        return answers(self, prompts)

    def streamed(self: Decoder, prompt: Sequence[int]) -> Iterator[Any]:
        found["prompts"].add(tuple(prompt))
        return stream(self, prompt)

    monkeypatch.setattr(AdaptedModel, "batch", batched)
    monkeypatch.setattr(Decoder, "answers", answered)
    monkeypatch.setattr(Decoder, "stream", streamed)
    return found


def asked(base: Path, *, answered: bool) -> set[Ids]:
    """What transformers makes of the rows, on the day of the config."""
    tokenizer = transformers.AutoTokenizer.from_pretrained(base)
    template = TEMPLATE.replace("strftime_now('%d %b %Y')", "'26 Jul 2024'")
    made = set()
    for row in ROWS:
        turns = [{"role": "user", "content": USER + row["article"]}]
        turns += [{"role": "assistant", "content": row["summary"]}] if answered else []
        ids = tokenizer.apply_chat_template(
            turns,
            chat_template=template,
            add_generation_prompt=not answered,
            return_dict=False,
        )
        made.add(tuple(ids[:-1] if answered else ids))  # the line break behind the end token is nobody's
    return made


def by_hand(folder: Path) -> set[Ids]:
    """What somebody makes of the rows who has a folder's tokenizer alone, on whatever day."""
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    turns = [[{"role": "user", "content": USER + row["article"]}] for row in ROWS]
    made = [
        tokenizer.apply_chat_template(own, add_generation_prompt=True, return_dict=False) for own in turns
    ]
    return set(map(tuple, made))


def by_the_card(folder: Path, monkeypatch: pytest.MonkeyPatch) -> set[Ids]:
    """What the code of an export's card has the model read."""
    code = re.findall(r"```python\n(.*?)```", (folder / "README.md").read_text(), flags=re.DOTALL)[0]
    found: set[Ids] = set()

    def generate(self: Any, inputs: Any = None, **more: Any) -> torch.Tensor:
        ids = more["input_ids"] if inputs is None else inputs
        found.add(tuple(ids[0].tolist()))
        return ids

    monkeypatch.setattr(transformers.GenerationMixin, "generate", generate)
    monkeypatch.chdir(folder)
    exec(compile(code.replace('"The text of an article."', repr(ROWS[1]["article"])), "card", "exec"), {})
    return found


@pytest.mark.slow
def test_all_five_read_what_apply_chat_template_makes(
    base: Path, rows: Path, read: dict[str, set[Ids]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = tmp_path / "run"
    files = [f"model.name_or_path={base}", f"data.train={rows}", f"data.validation={rows}"]
    prompts, examples = asked(base, answered=False), asked(base, answered=True)
    assert (len(prompts), len(examples)) == (2, 2)

    def taken() -> tuple[set[Ids], set[Ids]]:
        seen = set(read["examples"]), set(read["prompts"])
        read["examples"].clear()
        read["prompts"].clear()
        return seen

    # train, which evaluates too
    run_here([*RUN, *files, f"hydra.run.dir={run}", f"prompt.template='{USER}{{article}}'"])
    assert taken() == (examples, prompts)
    prompt = read_config(run)["prompt"]
    assert prompt["kind"] == "chat"
    assert "You write on 26 Jul 2024." in prompt["rendered"]["prompt"]
    assert by_hand(run / "adapter") == prompts

    # From here on the model's folder has another template: what a run recorded is what counts.
    (base / "chat_template.jinja").write_text("{{ raise_exception('not the one of the run') }}")
    try:
        assert summarizer.evaluate.command([str(run), "--output", str(tmp_path / "scored")]) == 0
        assert taken() == (examples, prompts)
        assert (
            summarizer.summarize.command([str(run), str(rows), "--output", str(tmp_path / "out.jsonl")]) == 0
        )
        assert taken() == (set(), prompts)
        loaded = load_runs([read_trained_run(run)], precision="fp32")
        with served(loaded) as client:
            for row in ROWS:
                assert client.events({"article": row["article"]})
        assert taken() == (set(), prompts)
    finally:
        (base / "chat_template.jinja").write_text(TEMPLATE)

    for format_name in ("peft", "merged"):
        folder = tmp_path / format_name
        flags = ExportFlags(
            run=run,
            format=format_name,
            dtype=None,
            output=folder,
            weights=None,
            model=None,
            device="cpu",
            with_base=format_name == "peft",
        )
        list(export(requested(flags)))
        assert by_hand(folder) == prompts
        (own,) = by_the_card(folder, monkeypatch)
        assert own in prompts
        monkeypatch.undo()


def test_what_auto_comes_to_is_recorded(base: Path, tmp_path: Path) -> None:
    """In the run's folder and in its record; what is resolved already stays as it is."""
    for name, model in (("chat", base), ("tldr", PACKAGE / "models" / "embedded" / "tiny_gptj")):
        config = composed("model=hf", f"model.name_or_path={model}")
        folder = tmp_path / name
        (folder / ".hydra").mkdir(parents=True)
        OmegaConf.save(config, folder / ".hydra" / "config.yaml")
        record = RunRecord(config=to_plain(config), folder=str(folder))
        (found,) = with_resolved_prompt([record], preflight(config))
        assert read_config(folder) == found.config
        others = [
            {key: value for key, value in one.items() if key != "prompt"}
            for one in (found.config, record.config)
        ]
        assert others[0] == others[1]
        assert with_resolved_prompt([found], preflight(OmegaConf.create(found.config))) == [found]
        explicit = composed("model=hf", f"model.name_or_path={model}", f"prompt={name}")
        (same,) = with_resolved_prompt([RunRecord(config=to_plain(explicit))], preflight(explicit))
        assert check(OmegaConf.create(same.config)).prompt == check(OmegaConf.create(found.config)).prompt
        assert found.config["prompt"].get("kind", "text") == ("chat" if name == "chat" else "text")
