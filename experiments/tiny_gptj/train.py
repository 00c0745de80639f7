"""Pre-train the small GPT-J that the package carries, from a folder of text.

    python experiments/tiny_gptj/train.py ../shared/text --out outputs/tiny_gptj      # a GPU: minutes
    python experiments/tiny_gptj/train.py --short --out outputs/tiny_gptj_short       # a CPU core: half a minute

Killed or stopped, the same command goes on from the last checkpoint, to the same losses. In the folder: model/
(transformers' format, bf16), embedded/ (the package's own format, int8), results.json, curve.png.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import logging
import sys
import time
from pathlib import Path

HERE = Path(__file__).resolve().parent


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("text", type=Path, nargs="?", help="folder of *.txt, *.txt.gz, *.txt.xz, in UTF-8")
    parser.add_argument("--out", type=Path, required=True, help="folder for all that is written")
    parser.add_argument("--recipe", type=Path, help="default: recipe.yaml beside this file")
    parser.add_argument(
        "--short", action="store_true", help="by short.yaml; without a text, on the package's sample"
    )
    parser.add_argument("--device", choices=("auto", "cpu", "cuda"), default="auto")
    arguments = parser.parse_args()
    if arguments.short and arguments.recipe:
        parser.error("--short has a recipe of its own")
    if arguments.text is None and not arguments.short:
        parser.error("say which folder the text is in")
    logging.basicConfig(level=logging.INFO, format="%(message)s")

    from summarizer.errors import ConfigError

    try:
        train(arguments)
    except ConfigError as error:
        print(error, file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print(
            f"stopped; the same command goes on from the last checkpoint in {arguments.out}", file=sys.stderr
        )
        return 130
    return 0


def train(arguments: argparse.Namespace) -> None:
    from bpe import train_tokenizer
    from prose import fingerprint, hold_out, read_documents, tokenize, unigram_loss
    from recipe import read_recipe

    from summarizer.errors import ConfigError

    seconds: dict[str, float] = {}

    def lap(part: str, since_s: float) -> float:
        seconds[part] = time.monotonic() - since_s
        return time.monotonic()

    # ---- recipe, text ------------------------------------------------------------------------------------------
    recipe = read_recipe(arguments.recipe or HERE / ("short.yaml" if arguments.short else "recipe.yaml"))
    clock_s = time.monotonic()
    text: Path = arguments.text or sample_text(arguments.out / "text")
    documents = read_documents(text, recipe.text.document_characters, recipe.seed)
    of_text = fingerprint(documents)
    lap("reading", clock_s)

    import torch  # only now, so that a mistake above costs no time
    from pretraining import CHECKPOINT, held_out_loss, pretrain
    from transformers import AutoModelForCausalLM
    from written import draw_curve, samples, write_embedded, write_model, write_results

    wanted = arguments.device
    if wanted == "cuda" and not torch.cuda.is_available():
        raise ConfigError.single("device", "torch sees no GPU here")
    on_gpu = wanted == "cuda" or (wanted == "auto" and torch.cuda.is_available())
    device = torch.device("cuda" if on_gpu else "cpu")

    # ---- tokenizer ---------------------------------------------------------------------------------------------
    clock_s = time.monotonic()
    tokenizer = train_tokenizer(documents, recipe.tokenizer, recipe.model.positions)
    clock_s = lap("tokenizer", clock_s)
    tokens = hold_out(tokenize(documents, tokenizer), recipe.text, recipe.training.context)
    unigram = unigram_loss(tokens, recipe.tokenizer.size)
    lap("tokens", clock_s)
    training = recipe.training
    passes = training.steps * training.batch * training.context / len(tokens.training)
    logging.info(
        "%s documents, %s tokens to train on, %s held out (%.3f nats by frequencies alone); %.1f passes on %s",
        *(
            f"{len(documents):,}",
            f"{len(tokens.training):,}",
            f"{len(tokens.held_out):,}",
            unigram,
            passes,
            device,
        ),
    )

    # ---- training ----------------------------------------------------------------------------------------------
    identity = hashlib.sha256(f"{recipe.model_dump_json()} {of_text}".encode()).hexdigest()
    model, course = pretrain(recipe, tokens, arguments.out, device, identity)

    # ---- what is left of it ------------------------------------------------------------------------------------
    clock_s = time.monotonic()
    write_model(model.cpu(), tokenizer, arguments.out / "model")
    write_embedded(arguments.out / "model", arguments.out / "embedded")
    clock_s = lap("writing", clock_s)
    written = AutoModelForCausalLM.from_pretrained(arguments.out / "model", dtype=torch.float32).to(device)
    loss, predicted = held_out_loss(written, tokens.held_out, training.context, training.batch, device)
    clock_s = lap("held-out loss of the written model", clock_s)
    drawn = samples(arguments.out / "model", tokenizer, recipe.seed)
    lap("samples", clock_s)
    results = {
        "recipe": recipe.model_dump(),
        "text_sha256": of_text,
        "documents": len(documents),
        "training_tokens": len(tokens.training),
        "passes": passes,
        "parameters": sum(parameter.numel() for parameter in model.parameters()),
        "device": torch.cuda.get_device_name() if on_gpu else "cpu",
        "torch": torch.__version__,
        "unigram_loss": unigram,
        "held_out_loss": loss,
        "held_out_tokens": predicted,
        "held_out_losses": course.held_out_losses,
        "train_losses": course.train_losses,
        "seconds": {part: round(spent, 1) for part, spent in (seconds | course.seconds).items()},
        "samples": drawn,
    }
    write_results(arguments.out, results)
    draw_curve(course, unigram, arguments.out / "curve.png")
    for sample in drawn:
        print(f"  {' '.join(sample.split())}")
    print(f"held-out loss {loss:.3f} nats a token, {unigram:.3f} by the tokens' frequencies alone")
    print("seconds: " + ", ".join(f"{part} {spent:.1f}" for part, spent in results["seconds"].items()))
    print(f"written: {arguments.out}/model, embedded, results.json, curve.png ({CHECKPOINT}/ can be deleted)")


def sample_text(folder: Path) -> Path:
    """The package's sample articles as a folder of text."""
    from summarizer.atomic import write_text
    from summarizer.config.paths import PACKAGE

    lines = (PACKAGE / "data" / "sample" / "train.jsonl").read_text(encoding="utf-8").splitlines()
    folder.mkdir(parents=True, exist_ok=True)
    write_text(folder / "sample.txt", "\n\n".join(json.loads(line)["article"] for line in lines) + "\n")
    return folder


if __name__ == "__main__":
    sys.exit(main())
