"""Measure a model's loss on text: that of a folder, and articles that it was not trained on.

    python experiments/tiny_gptj/measure.py --model embedded:tiny_gptj --model ../shared/tiny_gptj \
        --text ../shared/text --articles ../shared/cnn_dailymail/validation.jsonl.gz \
        --out experiments/tiny_gptj/results/shipped.json

Of the folder the last tokens count, in the order in which train.py puts its documents.
"""

from __future__ import annotations

import argparse
import gzip
import json
import logging
import sys
from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray
    from transformers import PreTrainedModel

HERE = Path(__file__).resolve().parent


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--model", action="append", help="embedded:NAME or a folder; may be repeated")
    parser.add_argument("--text", type=Path, help="folder of text, as train.py takes it")
    parser.add_argument("--articles", type=Path, help="JSONL, also .gz, with a field article")
    parser.add_argument("--tokens", type=int, default=200_000, help="of each text, its last")
    parser.add_argument("--context", type=int, default=1024)
    parser.add_argument("--windows", type=int, help="so many of them, evenly spread; default: all")
    parser.add_argument("--out", type=Path, help="a JSON file for the figures")
    arguments = parser.parse_args()
    if not (arguments.text or arguments.articles):
        parser.error("say what to measure on: --text, --articles")
    logging.basicConfig(level=logging.WARNING, format="%(message)s")

    from summarizer.errors import ConfigError

    try:
        found = list(measured(arguments))
    except ConfigError as error:
        print(error, file=sys.stderr)
        return 2
    for one in found:
        low, high = one["interval"]
        print(
            f"{one['model']}, {one['text']}: {one['loss']:.3f} nats a token ({low:.3f} to {high:.3f}), "
            f"{one['tokens']:,} tokens"
        )
    if arguments.out:
        from summarizer.atomic import write_text

        write_text(arguments.out, json.dumps(found, indent=2) + "\n")
    return 0


def measured(arguments: argparse.Namespace) -> Any:
    import torch
    from prose import fingerprint, read_documents, tokenize
    from recipe import read_recipe

    from summarizer.config.schema import ModelConfig
    from summarizer.evaluation.metrics import bootstrap
    from summarizer.models.source import model_folder
    from summarizer.models.tokenizer import load_tokenizer

    recipe = read_recipe(HERE / "recipe.yaml")
    texts: dict[str, list[str]] = {}
    if arguments.text:
        texts[f"last of {arguments.text.name}"] = read_documents(
            arguments.text, recipe.text.document_characters, recipe.seed
        )
    if arguments.articles:
        texts[arguments.articles.name] = read_articles(arguments.articles)
    for name in arguments.model or ["embedded:tiny_gptj"]:
        spec = ModelConfig(name_or_path=name, revision=None, completion_token=None)
        tokenizer = load_tokenizer(model_folder(spec))
        model = load_model(spec)
        for text, documents in texts.items():
            tokens = tokenize(documents, tokenizer)[-arguments.tokens :]
            losses = window_losses(model, tokens, arguments.context, arguments.windows)
            interval = bootstrap({"loss": losses}, 1000, 0)["loss"]
            yield {
                "model": Path(name).name,
                "weights": "int8" if name.startswith("embedded:") else "as saved",
                "text": text,
                "text_sha256": fingerprint(documents),
                "context": arguments.context,
                "windows": len(losses),
                "tokens": len(losses) * arguments.context,
                "loss": interval.value,
                "interval": [interval.low, interval.high],
                "torch": torch.__version__,
            }


def read_articles(path: Path) -> list[str]:
    opener = gzip.open if path.suffix == ".gz" else open
    with opener(path, "rt", encoding="utf-8") as file:
        return [json.loads(line)["article"] for line in file]


def load_model(spec: Any) -> Any:
    """In fp32, called as transformers' models are: the package's as it is stored, another by transformers."""
    import torch
    from transformers import AutoModelForCausalLM

    from summarizer.config.schema import QuantizationConfig
    from summarizer.models.load import load_base
    from summarizer.models.source import model_folder
    from summarizer.models.stored_base import is_stored_base

    if is_stored_base(model_folder(spec)):
        base = load_base(spec, QuantizationConfig(format="int8", cache=False), torch.device("cpu"))
        as_called = torch.nn.Identity()
        as_called.forward = lambda input_ids, use_cache: SimpleNamespace(logits=base.model.logits(input_ids))
        return as_called
    model: PreTrainedModel = AutoModelForCausalLM.from_pretrained(model_folder(spec), dtype=torch.float32)
    return model.eval()


def window_losses(
    model: Any, tokens: NDArray[np.uint16], context: int, windows: int | None
) -> NDArray[np.float64]:
    """Nats per token of windows that do not overlap, shape (windows,); so many of them, evenly spread."""
    import numpy as np
    import torch
    from pretraining import held_out_loss

    from summarizer.console.progress import bar

    count = (len(tokens) - 1) // context
    chosen: Sequence[int] = np.linspace(0, count - 1, min(windows or count, count)).astype(int).tolist()
    losses = []
    with bar("windows", len(chosen)) as progress:
        for number in chosen:
            window = tokens[number * context : (number + 1) * context + 1]
            loss, _ = held_out_loss(model, window, context, 1, torch.device("cpu"))
            losses.append(loss)
            progress.advance()
    return np.array(losses)


if __name__ == "__main__":
    sys.exit(main())
