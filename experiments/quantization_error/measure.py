"""How far each storage format moves a base from its unquantized self, on real text.

    python experiments/quantization_error/measure.py --model FOLDER_OR_HUB_NAME \
        --articles ../shared/cnn_dailymail/validation.jsonl.gz --rows 24 --out experiments/quantization_error

Every base sees the same tokens, prompt and summary, in the same precision. Without arguments it takes the model
and the rows inside the package.
"""

from __future__ import annotations

import argparse
import json
import logging
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from hydra import compose, initialize_config_dir
from torch import Tensor, nn

from summarizer.config.check import check
from summarizer.config.paths import conf_folder
from summarizer.config.schema import QuantizationConfig, RunConfig
from summarizer.console.progress import bar
from summarizer.data.prompt import build_prompt
from summarizer.data.splits import build_split
from summarizer.models.causal_lm import CausalLM
from summarizer.models.load import load_base
from summarizer.models.source import model_folder
from summarizer.models.tokenizer import load_tokenizer
from summarizer.quantization import formats_of, fp8
from summarizer.quantization.frozen import FrozenWeight
from summarizer.quantization.protocol import WeightFormat

REFERENCE = "none"


@dataclass(frozen=True)
class Variant:
    """A storage format, and how it is multiplied where the format leaves a choice."""

    label: str
    format: str
    """Of the base, as `quantization.formats_of` reads it."""
    products: WeightFormat | None = None
    only_gradient: bool = False
    """Its logits are another variant's."""


VARIANTS = (
    Variant("int8", "int8"),
    Variant("blockwise8", "blockwise8"),
    Variant("nf4, embedding and head too", "nf4"),
    Variant("nf4, embedding and head in int8", "nf4+int8"),
    Variant("nf4, embedding and head as they are", "nf4+none"),
    Variant("fp8, weights only", "fp8", fp8.WEIGHT_ONLY),
    Variant("fp8, W8A8", "fp8", fp8.W8A8),
    Variant("fp8, W8A8, gradients in e5m2", "fp8", fp8.W8A8_E5M2_GRADIENTS, only_gradient=True),
)


@dataclass(frozen=True)
class Passed:
    """One text through one base."""

    log_probabilities: Tensor
    """(t - 1, v), fp32: at each token but the last."""
    losses: Tensor
    """(summary tokens,), nats."""
    gradient: Tensor | None
    """(t, d): of the summary's loss, for the embedded text."""


@dataclass
class Error:
    """What a variant's predictions differ by from the reference's, gathered text by text."""

    kl: list[Tensor] = field(default_factory=list)
    losses: list[Tensor] = field(default_factory=list)
    flips: list[Tensor] = field(default_factory=list)
    gradients: list[float] = field(default_factory=list)

    def add(self, got: Passed, reference: Passed) -> None:
        expected, actual = reference.log_probabilities, got.log_probabilities
        self.kl.append(F.kl_div(actual, expected, log_target=True, reduction="none").sum(dim=-1))
        self.flips.append(actual.argmax(dim=-1) != expected.argmax(dim=-1))
        self.losses.append(got.losses)
        if got.gradient is not None and reference.gradient is not None:
            distance = torch.dist(got.gradient, reference.gradient) / reference.gradient.norm()
            self.gradients.append(float(distance))

    def summary(self, only_gradient: bool) -> dict[str, float]:
        gradient = {"gradient_error_percent": 100 * sum(self.gradients) / len(self.gradients)}
        if only_gradient:
            return gradient
        kl = torch.cat(self.kl)
        return {
            "kl_mean": float(kl.mean()),
            "kl_p95": float(kl.quantile(0.95)),
            "argmax_changed_percent": 100 * float(torch.cat(self.flips).float().mean()),
            "summary_loss": float(torch.cat(self.losses).mean()),
            **gradient,
        }


def pass_text(
    model: Any,
    ids: Sequence[int],
    prompt_tokens: int,
    device: torch.device,
    precision: str,
    *,
    backward: bool,
) -> Passed:
    """The base's weights take no gradient, the embedded text does."""
    tokens = torch.tensor([ids], device=device)
    embedded: list[Tensor] = []

    def detach(_: nn.Module, __: tuple[Any, ...], output: Tensor) -> Tensor:
        embedded.append(output.detach().requires_grad_())
        return embedded[0]

    hook = model.embedding.register_forward_hook(detach)
    autocast = torch.autocast(device.type, torch.bfloat16, enabled=precision == "bf16")
    with torch.set_grad_enabled(backward), autocast:
        logits = model.logits(tokens)[0, :-1].float()
        log_probabilities = F.log_softmax(logits, dim=-1)
        losses = F.nll_loss(
            log_probabilities[prompt_tokens - 1 :], tokens[0, prompt_tokens:], reduction="none"
        )
    hook.remove()
    gradient = torch.autograd.grad(losses.sum(), embedded)[0].flatten(0, -2) if backward else None
    return Passed(log_probabilities.detach(), losses.detach(), gradient)


def compose_spec(arguments: argparse.Namespace) -> RunConfig:
    """The run's own config, so that text, prompt and cut are those of a run."""
    overrides = [
        f"model.name_or_path={arguments.model}",
        "prompt=tldr",  # plain words, which any model knows
        f"prompt.max_tokens={arguments.max_tokens}",
        f"data.rows.validation={arguments.rows}",
        f"data={'files' if arguments.articles else 'sample'}",
    ]
    if arguments.articles:
        overrides += [f"data.{split}={arguments.articles}" for split in ("train", "validation")]
    with initialize_config_dir(str(conf_folder()), version_base="1.3"):
        return check(compose("config", overrides))


def read_texts(spec: RunConfig) -> Iterator[tuple[list[int], int]]:
    """Each row's tokens, prompt and summary, and how many of them are the prompt's."""
    prompt = build_prompt(spec.prompt, load_tokenizer(model_folder(spec.model, weights=False)))
    split = build_split(spec.data, "validation", prompt)
    for row in split.encoded(range(len(split))):
        yield prompt.training_ids(row.article_ids, row.target_ids)


def as_config(base_format: str) -> QuantizationConfig:
    layers, embedding = formats_of(base_format)
    return QuantizationConfig.model_validate(
        {"format": layers, "embedding_format": embedding, "cache": False}
    )


def multiply_by(model: CausalLM, products: WeightFormat) -> None:
    for module in model.module.modules():
        if isinstance(module, FrozenWeight):
            module.format = products


def measure(
    spec: RunConfig,
    texts: Sequence[tuple[list[int], int]],
    gradient_texts: int,
    device: torch.device,
    precision: str,
) -> Iterator[dict[str, Any]]:
    """The error of each variant over the texts so far, after each. All bases are in memory at once."""
    names = [REFERENCE, *dict.fromkeys(variant.format for variant in VARIANTS)]
    models = {name: load_base(spec.model, as_config(name), device).model for name in names}
    errors = {variant.label: Error() for variant in VARIANTS}
    losses = torch.empty(0, device=device)
    tokens = 0
    for done, (ids, prompt_tokens) in enumerate(texts):
        backward = done < gradient_texts
        reference = pass_text(models[REFERENCE], ids, prompt_tokens, device, precision, backward=backward)
        losses = torch.cat([losses, reference.losses])
        tokens += len(ids) - 1
        for variant in VARIANTS:
            if variant.only_gradient and not backward:
                continue
            if variant.products:
                multiply_by(models[variant.format], variant.products)
            got = pass_text(models[variant.format], ids, prompt_tokens, device, precision, backward=backward)
            errors[variant.label].add(got, reference)
        yield {
            "texts": done + 1,
            "gradient_texts": min(gradient_texts, done + 1),
            "predicted_tokens": tokens,
            "summary_tokens": len(losses),
            "reference_summary_loss": float(losses.mean()),
            "variants": {
                variant.label: errors[variant.label].summary(variant.only_gradient) for variant in VARIANTS
            },
        }


def table(results: dict[str, Any]) -> str:
    """The README's table."""
    reference = results["reference_summary_loss"]
    lines = [
        "| base | KL, mean | KL, 95th percentile | other first choice | summary loss | gradient's error |",
        "|---|---|---|---|---|---|",
        f"| unquantized | 0 | 0 | 0 | {reference:.4f} | 0 |",
    ]
    for label, error in results["variants"].items():
        logits = "| the same | | | "
        if "kl_mean" in error:
            logits = (
                f"| {error['kl_mean']:.5f} | {error['kl_p95']:.5f} | {error['argmax_changed_percent']:.2f} % "
                f"| {error['summary_loss']:.4f} ({error['summary_loss'] - reference:+.4f}) "
            )
        lines.append(f"| {label} {logits}| {error['gradient_error_percent']:.1f} % |")
    return "\n".join(lines)


def draw(results: dict[str, Any], picture: Path) -> None:
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(figsize=(8, 3.6), layout="constrained")
    labels = [label for label, error in results["variants"].items() if "kl_mean" in error]
    for key, marker, name in (("kl_mean", "o", "mean"), ("kl_p95", "|", "95th percentile")):
        axes.plot([results["variants"][label][key] for label in labels], labels, marker, ms=9, label=name)
    axes.set(xscale="log", xlabel="KL from the unquantized base (nats per token)")
    axes.invert_yaxis()
    axes.grid(alpha=0.3)
    axes.legend()
    figure.savefig(picture, dpi=150)
    plt.close(figure)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--model", default="embedded:tiny_gptj", help="folder, hub name or embedded:NAME")
    parser.add_argument("--articles", help="a file of articles and highlights; default: the package's sample")
    parser.add_argument("--rows", type=int, default=2, help="how many of them, from the first")
    parser.add_argument("--gradient-rows", type=int, default=1, help="of these, how many to go backward on")
    parser.add_argument("--max-tokens", type=int, default=512, help="of prompt and summary together")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--precision", choices=("fp32", "bf16"), default="fp32", help="of all products")
    parser.add_argument("--out", type=Path, help="folder for results.json and kl.png")
    arguments = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(message)s")

    if not 1 <= arguments.gradient_rows <= arguments.rows:
        parser.error("--gradient-rows must be between 1 and --rows")
    start_s = time.monotonic()
    spec = compose_spec(arguments)
    texts = list(read_texts(spec))
    setting = {
        "model": Path(arguments.model).name if Path(arguments.model).is_dir() else arguments.model,
        "precision": arguments.precision,
        "device": arguments.device,
        "max_tokens": arguments.max_tokens,
        "torch": torch.__version__,
    }
    results: dict[str, Any] = {}
    with bar("texts", len(texts)) as progress:
        for so_far in measure(
            spec, texts, arguments.gradient_rows, torch.device(arguments.device), arguments.precision
        ):
            results = so_far | setting | {"wall_s": round(time.monotonic() - start_s, 1)}
            progress.advance()
            if arguments.out:
                write(results, arguments.out)
    print(table(results))


def write(results: dict[str, Any], folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "results.json").write_text(json.dumps(results, indent=2) + "\n", encoding="utf-8")
    (folder / "results.md").write_text(table(results) + "\n", encoding="utf-8")
    draw(results, folder / "kl.png")


if __name__ == "__main__":
    main()
