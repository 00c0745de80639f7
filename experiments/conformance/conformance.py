"""One tiny random model of one architecture: what this project makes of it, beside what transformers and peft do.

Everything goes the way of a run: the config, the loaded base, batches of several trials, the decoder, the adapters
and PEFT's format. What is right is what transformers gives for each example alone.
"""

from __future__ import annotations

import logging
import traceback
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

import torch
import torch.nn.functional as F
from peft import PeftModel
from tiny_configs import END, PAD, VOCABULARY, tiny_config
from torch import Tensor
from transformers import AutoModelForCausalLM, GenerationConfig, PreTrainedModel

from summarizer.adapters.attach import AdaptedModel, attach
from summarizer.adapters.lora import LoRA
from summarizer.adapters.peft_format import load_adapter, save_adapter
from summarizer.config.schema import GenerationConfig as WritingConfig
from summarizer.config.schema import ModelConfig, QuantizationConfig
from summarizer.data.order import EncodedRow
from summarizer.data.prompt import Prompt
from summarizer.errors import CannotPlan, ConfigError
from summarizer.generation.decoder import Decoder
from summarizer.models.blocks import recompute_blocks
from summarizer.models.causal_lm import token_nll
from summarizer.models.load import Base, load_base
from summarizer.models.transformers_model import TransformersModel
from summarizer.training.dry_run import Microbatch, dry_run

MAX_TOKENS = 40
LENGTHS = ((19, 6), (4, 3), (11, 8))
"""Of each example: tokens of the article and of the summary. Longer and shorter than tiny windows."""
NEW_TOKENS = 10
SPREAD = 0.2
"""What is drawn onto every parameter: large enough that each one matters in the logits."""
CLOSE = 2e-4
"""Two losses or logits count as the same to this, of the largest."""

WORKS, REFUSED, WRONG, FAILS, NOT_IN_TRANSFORMERS = (
    "works",
    "refused",
    "wrong",
    "fails",
    "transformers cannot",
)


@dataclass
class Report:
    """What was found of one architecture."""

    model_type: str
    architecture: str = ""
    outcome: str = ""
    why: str = ""
    batches: str = ""
    """How rows go through: "own" forward, "packed" or "padded"."""
    adapted: int = 0
    """Layers with an adapter."""
    left: list[str] = field(default_factory=list)
    """Matrices without one, digits as *."""
    checks: dict[str, str] = field(default_factory=dict)
    """Each check's answer: "" where it passed."""
    lines: list[str] = field(default_factory=list)
    """What a person reads in the log."""


class _Lines(logging.Handler):
    def __init__(self) -> None:
        super().__init__(logging.WARNING)
        self.lines: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.lines.append(record.getMessage())


def conformance(model_type: str, folder: Path) -> Report:
    """folder: an empty one, for the model and the adapter."""
    report = Report(model_type)
    warnings.simplefilter("ignore")
    try:
        build(model_type, folder / "model")
        reference = transformers_model(folder / "model")
        report.architecture = type(reference).__name__
        right = [own_losses(reference, row) for row in rows()]
    except Exception as error:
        return _ended(report, NOT_IN_TRANSFORMERS, error)
    if not all(torch.isfinite(loss).all() for loss in right):
        report.outcome, report.why = NOT_IN_TRANSFORMERS, "its own loss is not finite"
        return report
    with _logged(report):
        try:
            base = load(folder / "model", "none")
        except ConfigError as error:
            return _ended(report, REFUSED, error)
        except Exception as error:
            return _ended(report, FAILS, error)
        _check(report, base, reference, right, folder)
    bad = {name: answer for name, answer in report.checks.items() if answer}
    silent = any(answer.startswith("differs") for answer in bad.values())
    report.outcome = WORKS if not bad else WRONG if silent else FAILS
    report.why = "; ".join(f"{name}: {answer}" for name, answer in bad.items())
    return report


def _check(report: Report, base: Base, reference: PreTrainedModel, right: list[Tensor], folder: Path) -> None:
    model = base.model
    packs = model.packs(MAX_TOKENS)
    report.batches = (
        ("packed" if packs else "padded") if isinstance(model, TransformersModel) else "own forward"
    )

    def check(name: str, work: Callable[[], str]) -> None:
        try:
            report.checks[name] = work()
        except Exception as error:
            report.checks[name] = f"{type(error).__name__}: {_line(error)} @ {_place(error)}"

    check("plan", lambda: planned(folder / "model"))
    check("int8", lambda: close_enough(folder / "model", right))
    try:
        adapted = attach(model, [lora(2), lora(3)], [0, 1])
    except Exception as error:
        report.checks["attach"] = f"{type(error).__name__}: {_line(error)}"
        return
    report.adapted = len(adapted.layers)
    report.left = left_alone(adapted)
    check("said", lambda: unsaid(report, base))
    check("loss", lambda: losses_differ(adapted, right))
    check("text", lambda: texts_differ(adapted, reference))
    check("training", lambda: training_differs(adapted))
    check("step", lambda: step(adapted))
    check("recomputed", lambda: recomputed_differ(adapted))
    check("peft", lambda: peft_differs(adapted, reference, folder))


# ---- the model, and what transformers says of it -----------------------------------------------------------------


def build(model_type: str, folder: Path) -> None:
    """A random model, saved as transformers itself saves it."""
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(tiny_config(model_type), dtype=torch.float32)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.is_floating_point():
                parameter.add_(torch.randn_like(parameter) * SPREAD)
    model.save_pretrained(folder)


def transformers_model(folder: Path) -> PreTrainedModel:
    return cast(PreTrainedModel, AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval())


def rows() -> list[EncodedRow]:
    generator = torch.Generator().manual_seed(1)
    drawn = [
        torch.randint(8, VOCABULARY, (sum(lengths),), generator=generator).tolist() for lengths in LENGTHS
    ]
    return [
        EncodedRow(str(index), ids[: lengths[0]], [*ids[lengths[0] : -1], END])
        for index, (ids, lengths) in enumerate(zip(drawn, LENGTHS, strict=True))
    ]


def prompt() -> Prompt:
    return Prompt(
        before=(5,), after=(6, 7), end_id=END, pad_id=PAD, max_tokens=MAX_TOKENS, control_tokens=frozenset(),
        control_ids=frozenset(), text=cast(Any, None), article_lead="", summary_lead="",
    )  # fmt: skip


def own_losses(reference: PreTrainedModel, row: EncodedRow) -> Tensor:
    """Of each summary token of one row alone, in nats."""
    ids, begin = prompt().training_ids(row.article_ids, row.target_ids)
    with torch.no_grad():
        logits = reference(input_ids=torch.tensor([ids])).logits[0].float()
    return F.cross_entropy(logits[begin - 1 : -1], torch.tensor(ids[begin:]), reduction="none")


# ---- what this project makes of it -------------------------------------------------------------------------------


def load(folder: Path, format_name: str) -> Base:
    spec = ModelConfig(name_or_path=str(folder), revision=None, completion_token=None)
    return load_base(
        spec, QuantizationConfig(format=cast(Any, format_name), cache=False), torch.device("cpu")
    )


def lora(dim: int) -> LoRA:
    targets: Any = ["linear", "head", "embedding"]
    return LoRA(dim=dim, alpha=None, dropout=0.0, targets=targets, exclude=[], start_from=None)


def planned(folder: Path) -> str:
    """Whether a step can be planned, which comes before loading, or is said to have no plan."""
    from summarizer.models.load import load_config

    run = dry_run(load_config(folder), "int8", [lora(2)], torch.float32)
    try:
        return "" if run.cost(Microbatch(1, 16, 4)).peak_bytes > 0 else "no bytes"
    except CannotPlan:
        return ""  # a run says so in a line, and takes the least memory


def close_enough(folder: Path, right: list[Tensor]) -> str:
    """Eight bits move a loss by a few percent."""
    adapted = attach(load(folder, "int8").model, [], [])
    with adapted.base_alone(), torch.no_grad():
        nll = token_nll(adapted.model, adapted.batch([rows()], prompt()))[0]
    off = float((nll.sum() - torch.cat(right).sum()).abs() / torch.cat(right).sum())
    return "" if off < 0.1 else f"differs: loss by {100 * off:.0f} %"


def losses_differ(adapted: AdaptedModel, right: list[Tensor]) -> str:
    """Three rows of two trials in one batch, beside each row alone; B is zero, so that adapters add nothing."""
    with torch.no_grad():
        nll = token_nll(adapted.model, adapted.batch([rows(), rows()], prompt()))
    wanted = torch.cat(right)
    off = max(float((own - wanted).abs().max()) for own in nll)
    return "" if off < CLOSE * max(1.0, float(wanted.abs().max())) else f"differs by {off:.2g} nats"


def training_differs(adapted: AdaptedModel) -> str:
    """The frozen base computes in training what it computes after it."""
    batch = adapted.batch([rows(), rows()], prompt())
    with torch.no_grad():
        after = token_nll(adapted.model, batch)
        with adapted.training():
            training = token_nll(adapted.model, batch)
    off = float((training - after).abs().max())
    return "" if off < 1e-5 else f"differs by {off:.2g} nats in training"


def recomputed_differ(adapted: AdaptedModel) -> str:
    """Gradients of both trials with every block computed anew, beside those without. Leaves it so."""
    batch = adapted.batch([rows(), rows()], prompt())

    def gradients() -> list[Tensor]:
        adapted.zero_grad()
        with adapted.training():
            token_nll(adapted.model, batch).sum().backward()
        return [stack.grad.clone() for stack in adapted.stacks() if stack.grad is not None]

    right = gradients()
    recompute_blocks(adapted.model)
    pairs = list(zip(gradients(), right, strict=True))
    adapted.zero_grad()
    off = max(float((own - other).abs().max()) for own, other in pairs)
    largest = max(float(other.abs().max()) for _, other in pairs)
    return "" if off < CLOSE * largest else f"differs: gradients by {off / largest:.2g} of the largest"


def texts_differ(adapted: AdaptedModel, reference: PreTrainedModel) -> str:
    prompts = [prompt().generation_ids(row.article_ids, NEW_TOKENS) for row in rows()]
    spec = WritingConfig(
        max_new_tokens=NEW_TOKENS, min_new_tokens=0, num_beams=1, do_sample=False, temperature=1.0, top_p=1.0,
        top_k=50, no_repeat_ngram_size=0, length_penalty=1.0, early_stopping=False, seed=0,
    )  # fmt: skip
    decoder = Decoder(adapted, spec, end_id=END, pad_id=PAD, batch_size=3)
    with adapted.base_alone():
        written = dict(decoder.answers(prompts))
    config = GenerationConfig(max_new_tokens=NEW_TOKENS, eos_token_id=END, pad_token_id=PAD, do_sample=False)
    wrong = []
    for index, ids in enumerate(prompts):
        given = torch.tensor([ids])
        with torch.no_grad():
            out = reference.generate(given, attention_mask=torch.ones_like(given), generation_config=config)
        right = out[0, len(ids) :].tolist()
        right = right[: right.index(END)] if END in right else right
        if written[index] != [right]:
            wrong.append(f"{written[index]} for {right}")
    return "" if not wrong else f"differs in {len(wrong)} of {len(prompts)}: {wrong[0]}"


def step(adapted: AdaptedModel) -> str:
    """A few steps of Adam on both trials lower both losses."""
    trials = [list(adapted.parameters_of(trial).values()) for trial in range(2)]
    optimizers = [torch.optim.Adam(own, lr=1e-2) for own in trials]
    batch = adapted.batch([rows(), rows()], prompt())
    before: Tensor | None = None
    with adapted.training():
        for _ in range(3):
            adapted.zero_grad()
            losses = token_nll(adapted.model, batch).sum(dim=1)
            before = losses.detach() if before is None else before
            losses.sum().backward()
            gradients = [p.grad for own in trials for p in own if p.grad is not None]
            if not all(torch.isfinite(gradient).all() for gradient in gradients):
                return "differs: a gradient is not finite"
            for optimizer in optimizers:
                optimizer.step()
    with torch.no_grad():
        after = token_nll(adapted.model, batch).sum(dim=1)
    assert before is not None
    return "" if bool((after < before).all()) else f"differs: losses {before.tolist()} -> {after.tolist()}"


def peft_differs(adapted: AdaptedModel, reference: PreTrainedModel, folder: Path) -> str:
    """After those steps: saved here and loaded by peft, equal logits; loaded here again, equal tensors."""
    generator = torch.Generator().manual_seed(2)
    with torch.no_grad():
        for parameter in adapted.parameters_of(0).values():
            parameter.copy_(torch.randn(parameter.shape, generator=generator) * 0.1)
    save_adapter(adapted, 0, folder / "adapter", str(folder / "model"))
    fresh = attach(load(folder / "model", "none").model, [lora(2)], [7])
    load_adapter(fresh, 0, folder / "adapter")
    for name, parameter in adapted.parameters_of(0).items():
        if not torch.equal(parameter, fresh.parameters_of(0)[name]):
            return f"differs: {name} loaded here again"
    ids = torch.tensor([rows()[0].article_ids])
    with torch.no_grad():
        ours = fresh.model.logits(ids)
        try:
            loaded = PeftModel.from_pretrained(reference, folder / "adapter").eval()
            theirs = loaded(input_ids=ids).logits.float()
        except Exception as error:
            return f"peft cannot: {_line(error)}"
    off = float((ours - theirs).abs().max()) / float(theirs.abs().max())
    return "" if off < 10 * CLOSE else f"differs: peft's logits by {off:.2g}"


def left_alone(adapted: AdaptedModel) -> list[str]:
    """Matrices and stacks of them that no adapter stands beside."""
    import re

    inside = tuple(f"{name}." for name in adapted.layers)
    found = dict.fromkeys(
        re.sub(r"\d+", "*", name)
        for name, parameter in adapted.model.module.named_parameters()
        if parameter.ndim > 1 and not name.startswith(inside)
    )
    return list(found)


def unsaid(report: Report, base: Base) -> str:
    """Every matrix that is left without an adapter is named in a line of the log."""
    import re

    said = " ".join([*map(str, base.unconverted), *report.lines])
    said = re.sub(r"\d+", "*", said)
    silent = [name for name in report.left if name not in said and name.rpartition(".")[0] not in said]
    return "" if not silent else f"left without a word: {', '.join(silent)}"


@contextmanager
def _logged(report: Report) -> Iterator[None]:
    handler = _Lines()
    report.lines = handler.lines
    logger = logging.getLogger("summarizer")
    logger.addHandler(handler)
    try:
        yield
    finally:
        logger.removeHandler(handler)


def _ended(report: Report, outcome: str, error: Exception) -> Report:
    report.outcome, report.why = outcome, f"{type(error).__name__}: {_line(error)}"
    if outcome != REFUSED:
        report.why += f" @ {_place(error)}"
    return report


def _line(error: BaseException) -> str:
    return " ".join(str(error).split())[:300]


def _place(error: BaseException) -> str:
    frames = traceback.extract_tb(error.__traceback__)
    return " < ".join(f"{Path(frame.filename).name}:{frame.lineno}" for frame in reversed(frames[-4:]))
