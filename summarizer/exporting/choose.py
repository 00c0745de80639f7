"""Which weights an adapter is merged into: those that answer most like the unmerged model."""

from __future__ import annotations

import logging
from dataclasses import dataclass

import torch

from summarizer.config.schema import QuantizationConfig
from summarizer.console.progress import bar
from summarizer.errors import ConfigError
from summarizer.exporting.examples import examples_of
from summarizer.exporting.measure import Divergence, Reference, log_probs_of
from summarizer.exporting.merge import Merge, merged_into
from summarizer.exporting.shards import DTYPES
from summarizer.models.load import load_base
from summarizer.models.source import model_folder
from summarizer.models.stored_base import is_stored_base
from summarizer.runs.loaded_run import LoadedRun

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Choice:
    """What was taken, and what it costs against the unmerged model."""

    merge: Merge
    weights: str
    """trained or original."""
    measured: dict[str, Divergence]
    """Of each candidate, rounded to the file's type."""
    unrounded: Divergence
    """Of the chosen one in fp32."""
    why: str
    """Why there was no other candidate, or how the choice was made."""
    reference: Reference
    where: str
    """What the measuring rows are called."""
    dtype: str

    @property
    def cost(self) -> Divergence:
        return self.measured[self.weights]

    def lines(self) -> list[str]:
        """For a person: what was taken and what it cost."""
        others = [
            f"{name} {divergence.kl:.2g}"
            for name, divergence in self.measured.items()
            if name != self.weights
        ]
        rounding = (
            "" if self.dtype == "fp32" else f", {self.unrounded.kl:.2g} before rounding to {self.dtype}"
        )
        return [
            f"weights: {self.weights} ({self.why})",
            f"KL from the unmerged model: {self.cost.kl:.2g} nats per summary token{rounding}"
            + (f"; {', '.join(others)}" if others else ""),
            f"summary loss: {self.cost.loss:.4f} nats per token, unmerged {self.reference.loss:.4f}",
            f"measured on {self.reference.tokens} summary tokens of {len(self.reference.examples)} rows of "
            f"{self.where}, products in fp32",
        ]


def choose(opened: LoadedRun, wanted: str | None, dtype: str) -> Choice:
    """Measure the candidates on a few rows and take the nearer to the unmerged model.

    wanted: trained or original, measured alone; None: whichever is nearer.
    Raises ConfigError where the base has no weights of the wanted kind.
    """
    candidates, why = _candidates(opened, wanted)
    examples, where = examples_of(opened.spec, opened.prompt)
    passes = 1 + len(candidates) + (dtype != "fp32")
    answer = log_probs_of(opened.adapted.model, opened.adapted.device)
    with bar("measuring", passes * len(examples)) as progress:
        reference = Reference.of(examples, answer, progress)
        measured: dict[str, Divergence] = {}
        for name, merge in candidates.items():
            progress.note(f"{name} weights in {dtype}")
            with merged_into(merge, DTYPES[dtype]):
                measured[name] = reference.divergence(answer, progress)
        nearest = min(measured, key=lambda name: measured[name].kl)
        unrounded = measured[nearest]
        if dtype != "fp32":
            progress.note(f"{nearest} weights in fp32")
            with merged_into(candidates[nearest], torch.float32):
                unrounded = reference.divergence(answer, progress)
    return Choice(candidates[nearest], nearest, measured, unrounded, why, reference, where, dtype)


def _candidates(opened: LoadedRun, wanted: str | None) -> tuple[dict[str, Merge], str]:
    """By name, and why it is these."""
    spec = opened.spec
    own_format = spec.quantization.format
    trained = Merge(opened.adapted, 0)
    if is_stored_base(model_folder(spec.model)):
        if wanted == "original":
            raise ConfigError.single(
                "--weights",
                f"original: {spec.model.name_or_path} is kept in a quantized form only; trained is what there is",
            )
        return {"trained": trained}, f"{own_format}, dequantized; the base has no others"
    if own_format == "none":
        return {"original": trained}, "the base was not quantized: trained and original are the same"
    if wanted == "trained":
        return {"trained": trained}, f"{own_format}, dequantized; as asked for"
    base = load_base(spec.model, QuantizationConfig(format="none", cache=False), torch.device("cpu"))
    original = Merge(opened.adapted, 0, base.model)
    if wanted == "original":
        return {"original": original}, "the checkpoint's own; as asked for"
    return {"trained": trained, "original": original}, "the nearer to the unmerged model"
