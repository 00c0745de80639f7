"""The card: what the hub reads of it, what it says and does not invent, and that no run folder can break out."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
from huggingface_hub import ModelCard
from omegaconf import OmegaConf
from trained_runs import EMBEDDED, finished, save_run

from summarizer.config.check import check
from summarizer.config.schema import RunConfig
from summarizer.data.prompt import build_prompt
from summarizer.errors import ConfigError
from summarizer.exporting.base_model import base_name, is_hub_name
from summarizer.exporting.card import Card
from summarizer.models.tokenizer import load_tokenizer
from summarizer.runs.record import write_summary


def spec_of(run: Path, **changes: Any) -> RunConfig:
    config = OmegaConf.load(run / ".hydra" / "config.yaml")
    for key, value in changes.items():
        OmegaConf.update(config, key.replace("__", "."), value)
    return check(config, [])


def card(run: Path, **changes: Any) -> str:
    spec = spec_of(run, **changes)
    return Card(
        format="merged",
        dtype="bf16",
        spec=spec,
        run_folder=run,
        prompt=build_prompt(spec.prompt, load_tokenizer(EMBEDDED)),
        end_token="<|endoftext|>",
        code="print('loaded')",
        export=["weights: trained"],
        limits=["a limit of its own"],
    ).text()


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_run("gptj", tmp_path_factory.mktemp("card"))


def test_what_the_hub_reads(run: Path) -> None:
    text = card(
        run,
        model__name_or_path="EleutherAI/gpt-j-6b",
        data__source="hub",
        data__path="abisee/cnn_dailymail",
        data__config="3.0.0",
    )
    data = ModelCard(text).data.to_dict()
    assert data["base_model"] == "EleutherAI/gpt-j-6b"
    assert data["base_model_relation"] == "finetune"
    assert (data["library_name"], data["pipeline_tag"]) == ("transformers", "summarization")
    assert data["datasets"] == ["abisee/cnn_dailymail"]
    assert data["metrics"] == ["rouge"]
    (result,) = data["model-index"][0]["results"]
    assert result["dataset"]["split"] == "validation"
    assert [(m["name"], m["value"]) for m in result["metrics"]][2:] == [
        ("ROUGE-L F1 (whole texts, rougeL)", 32.0),
        ("ROUGE-L F1 (sentence by sentence, rougeLsum)", 33.0),
    ]


def test_what_a_person_reads(run: Path) -> None:
    text = card(run)
    for said in (
        "| ROUGE-1 F1 | 30.00 (29.0–39.0) | 20.00 (19.0–29.0) | 35.00 (34.0–44.0) |",
        "| cross-entropy (nats per token) of the reference summaries | 2.5000 | 2.9000 | - |",
        "Split: `validation`, 50 rows",
        "- fingerprint (SHA-256 of ids and texts, in order): `f00d`",
        "- training rows: all",
        "- **Run**: completed by epochs after 12 steps; the adapter is that of step 8",
        "```text\n{article}\n\nTL;DR:\n```",
        "- end token: `<|endoftext|>` (id 0)",
        "| adapter: dim | 3 |",
        "| optimizer: lr | 0.001 |",
        "| batch size | 2 |",
        "- weights: trained",
        "- a limit of its own",
    ):
        assert said in text
    assert "[]" not in text.split("## Prompt")[0]


def test_no_path_of_this_machine(run: Path) -> None:
    text = card(run, data__train=str(run.parent / "articles.jsonl"))
    assert str(run.parent) not in text
    assert "`base` (a folder of the one who trained it, not a name on the hub)" in text
    assert "`articles.jsonl` (files)" in text
    assert ModelCard(text).data.to_dict()["base_model"] == "base"
    assert "datasets" not in ModelCard(text).data.to_dict()


@pytest.mark.parametrize(
    ("name", "called", "on_hub"),
    [
        ("EleutherAI/gpt-j-6b", "EleutherAI/gpt-j-6b", True),
        ("gpt2", "gpt2", True),
        ("embedded:tiny_gptj", "tiny_gptj", False),
        ("/data/models/smollm2/", "smollm2", False),
        ("~/models/smollm2", "smollm2", False),
        ("models/of/mine", "mine", False),
        (r"C:\models\mine", "mine", False),
    ],
)
def test_names_of_bases(name: str, called: str, on_hub: bool) -> None:
    assert (base_name(name), is_hub_name(name)) == (called, on_hub)


def test_what_is_not_known_is_said(tmp_path: Path) -> None:
    folder = save_run("gptj", tmp_path, summary=False)
    text = card(folder)
    assert "not finished: it has no summary.json" in text
    assert "Not known: the run did not come as far as its final scores." in text
    assert "| steps | not known |" in text
    assert "fingerprint (SHA-256 of ids and texts, in order): not known" in text
    stopped = finished("base").model_copy(
        update={"status": "stopped", "ended_by": "signal", "rouge": None, "base": None, "best_step": None}
    )
    write_summary(folder, stopped)
    assert "- **Run**: stopped by signal after 12 steps\n" in card(folder)
    write_summary(folder, finished("base").model_copy(update={"base": None, "baseline": None}))
    assert "| ROUGE-1 F1 | 30.00 (29.0–39.0) | not known | not known |" in card(folder)
    (folder / "summary.json").write_text('{"status": "perfect"}')
    with pytest.raises(ConfigError, match=r"summary.json: status"):
        card(folder)


def test_a_foreign_run_cannot_write_into_the_card(run: Path) -> None:
    evil = "```\n# Owned\n<script>alert(1)</script> {article}\n````\nTL;DR:"
    text = card(
        run, prompt__template=evil, model__name_or_path="/x/a`b|c<img>\n# Owned", data__train="/y/`|\n# Owned"
    )
    outside = re.sub(r"(`{5,})text\n.*?\n\1", "", text, flags=re.DOTALL)
    assert "# Owned" not in re.findall(r"^# .*$", outside, flags=re.MULTILINE)
    assert "<script>" not in outside
    assert "<img>" not in outside.split("---", 2)[2]
