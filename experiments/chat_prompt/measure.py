"""The chat template or plain words: SmolLM2-135M-Instruct trained with each at equal steps, on the same rows.

    python experiments/chat_prompt/measure.py --model MODEL_FOLDER --articles ROWS_FOLDER --runs outputs/chat_prompt

Both runs are the public command; what they say of themselves is put side by side in results.json.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from dataclasses import asdict
from pathlib import Path
from typing import Any

from summarizer.data.prompt import build_prompt
from summarizer.data.splits import build_split
from summarizer.models.tokenizer import load_tokenizer
from summarizer.runs.record import read_summary
from summarizer.runs.trained_run import read_trained_run

HERE = Path(__file__).parent
PROMPTS = ("tldr", "chat")
SETTINGS = (
    *(
        "model=smollm2",
        "data=files",
        "data.columns.summary=highlights",
        "tracking=none",
        "evaluation.base=true",
    ),
    *("trainer.epochs=1.0", "evaluation.rows_during_training=0"),
)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", type=Path, required=True)
    parser.add_argument(
        "--articles", type=Path, required=True, help="folder of train and validation.jsonl.gz"
    )
    parser.add_argument(
        "--runs", type=Path, required=True, help="where the two runs go; one that is there is kept"
    )
    parser.add_argument("--train-rows", type=int, default=64)
    parser.add_argument("--validation-rows", type=int, default=24)
    arguments = parser.parse_args()
    results = {prompt: measured(prompt, arguments) for prompt in PROMPTS}
    (HERE / "results.json").write_text(json.dumps(results, indent=2) + "\n")
    print(json.dumps(results, indent=2))


def measured(prompt: str, arguments: argparse.Namespace) -> dict[str, Any]:
    """Train with a prompt, unless that is done already; what came of it."""
    folder = arguments.runs / prompt
    if not (folder / "summary.json").is_file():
        command = [
            *(
                sys.executable,
                "-m",
                "summarizer.run",
                *SETTINGS,
                f"prompt={prompt}",
                f"hydra.run.dir={folder}",
            ),
            *(f"model.name_or_path={arguments.model}", f"data.rows.train={arguments.train_rows}"),
            f"data.rows.validation={arguments.validation_rows}",
            *(f"data.{split}={arguments.articles / split}.jsonl.gz" for split in ("train", "validation")),
        ]
        subprocess.run(command, check=True)
    summary = read_summary(folder)
    spec = read_trained_run(folder).spec
    bound = build_prompt(spec.prompt, load_tokenizer(arguments.model))
    split = build_split(spec.data, "validation", bound)
    tokens = sum(len(row.target_ids) for row in split.encoded(range(len(split))))
    assert summary.rouge is not None
    assert summary.base is not None
    assert summary.base.rouge is not None
    assert summary.val_loss is not None
    assert summary.base.val_loss is not None
    return {
        "rows": summary.rows,
        "steps": summary.steps,
        "prompt_tokens": len(bound.before) + len(bound.after),
        "articles_cut": split.report.cut_rows,
        "summary_tokens": tokens,
        "base": scores(summary.base.val_loss, summary.base.rouge, tokens, len(split)),
        "adapter": scores(summary.val_loss, summary.rouge, tokens, len(split)),
    }


def scores(loss: float, rouge: Any, tokens: int, rows: int) -> dict[str, Any]:
    """A model's loss, also as nats of a whole summary: the same text, whatever the number of its tokens."""
    return {
        "loss": round(loss, 4),
        "nats_per_summary": round(loss * tokens / rows, 2),
        **{name: asdict(rouge[name]) for name in ("rouge1", "rouge2", "rougeL", "rougeLsum")},
    }


if __name__ == "__main__":
    main()
