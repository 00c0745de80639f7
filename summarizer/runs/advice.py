"""Advice before a run or a sweep, a line each and never a refusal: capacity, learning rates, warm-up, twins.

Sources, as they were read:

- Thinking Machines, Tinker docs, "LoRA Primer" (tinker-docs.thinkingmachines.ai/lora-primer): "For supervised
  learning, as a very rough approximation, LoRA will give good results as long as the number of LoRA parameters is
  at least as large as the number of completion tokens (i.e., weight=1 tokens)." The article behind it, Schulman et
  al. 2025 (LoRA Without Regret, doi:10.64434/tml.20250929), says: "LoRA works well when not capacity constrained,
  i.e., the number of trainable parameters exceeds the amount of information to be learned, which can be estimated
  in terms of dataset size"; beyond that "worse training efficiency"; and that with Adam alpha times the rate of B
  times A's first size "determines the scale of initial updates".
- Biderman et al. 2024 (LoRA Learns Less and Forgets Less, arXiv:2405.09673), section 4.7: with alpha = 2 r, sweep
  "learning rates between [1e-5, 5e-4]".
- peft's `create_loraplus_optimizer`: with LoRA+ "it helps to make the learning rate slightly smaller (e.g., by a
  factor of 2) than typical vanilla LoRA learning rates".
- Lee et al. 2026 (Learning Rate Matters, arXiv:2602.04998): "different LoRA methods favor distinct learning rate
  ranges".
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from summarizer.adapters.peft_config import KINDS
from summarizer.console.amounts import rate_text

if TYPE_CHECKING:
    from summarizer.config.schema import RunConfig

LOWEST, HIGHEST, AT_SCALE = 1e-5, 5e-4, 2.0
"""LoRA's rates where the pair's product is multiplied by 2: alpha = 2 r."""
OF_LORA_PLUS = 0.5
TARGET, LORA = "_target_", KINDS["LORA"].target
SHOWN = 4
"""Values that a line names one by one; of more, the first and the last."""


def advise(
    specs: Sequence[RunConfig],
    steps: Sequence[int],
    parameters: Sequence[int] | None,
    summary_tokens: int | None,
) -> list[str]:
    """What is worth knowing before these runs, which train on the same rows, begin.

    steps: of each run.  parameters: how many numbers each trains; None where that cannot be counted beforehand.
    summary_tokens: different ones that are learned from, at most an epoch's; None where only reading would tell.
    """
    lines = []
    if parameters is not None and summary_tokens:
        lines.append(_capacity(specs, parameters, summary_tokens))
    return [*lines, *_rates(specs), *_warm_ups(specs, steps)]


def learned_tokens(tokens_per_epoch: int, steps: int, steps_per_epoch: int) -> int:
    """The number of different summary tokens in the rows that so many steps train on: an epoch's at most."""
    return round(tokens_per_epoch * min(1.0, steps / steps_per_epoch))


# ---- capacity ----------------------------------------------------------------------------------------------------


def _capacity(specs: Sequence[RunConfig], parameters: Sequence[int], tokens: int) -> str:
    short = {count: spec for spec, count in zip(specs, parameters, strict=True) if count < tokens}
    rule = (
        "LoRA does well as long as it has at least as many parameters as there are completion tokens, very roughly "
        "(Thinking Machines 2025: Tinker's LoRA primer, after LoRA Without Regret)"
    )
    counts = _listed([f"{count:,}" for count in sorted({*parameters})])
    if not short:
        return f"capacity: {counts} trained parameters for {tokens:,} summary tokens are enough; {rule}"
    fewest, spec = min(short.items(), key=lambda item: item[0])
    adapter = _plain(spec.adapter)
    dim = adapter.get("dim")
    if not isinstance(dim, int) or kind_of(adapter) == "vera":  # whose shared matrices are not trained
        enough = ""
    else:
        enough = f"; adapter.dim={math.ceil(dim * tokens / fewest)} would be"
    which = _listed([f"{count:,}" for count in sorted(short)])
    return (
        f"capacity: {which} trained parameters for {tokens:,} summary tokens are not enough{enough}; {rule}. "
        "Fewer cost training efficiency rather than setting a floor"
    )


# ---- learning rates ----------------------------------------------------------------------------------------------


def kind_of(adapter: Mapping[str, Any]) -> str:
    """What a config's adapter is by the names of conf/adapter; those of all settings that differ from LoRA's."""
    if not _is_lora(adapter):
        return str(adapter[TARGET]).rpartition(".")[2].lower()
    names = []
    if adapter.get("use_dora"):
        names.append("dora")
    if isinstance(start := adapter.get("init_lora_weights"), str):
        names.append(start.partition("_")[0])
    if adapter.get("train_a") is False:
        names.append("lora_fa")
    if adapter.get("loraplus_lr_ratio", 1.0) != 1.0:
        names.append("lora_plus")
    if adapter.get("use_rslora"):
        names.append("rslora")
    return " ".join(names) or "lora"


def _is_lora(adapter: Mapping[str, Any]) -> bool:
    return bool(adapter[TARGET] == LORA)


def scale_of(adapter: Mapping[str, Any]) -> float | None:
    """What the pair's product is multiplied by; None for one of several ranks, and for another kind than LoRA."""
    dim = adapter.get("dim")
    if not _is_lora(adapter) or not isinstance(dim, int):
        return None
    alpha = dim if adapter.get("alpha") is None else adapter["alpha"]
    return float(alpha) / (math.sqrt(dim) if adapter.get("use_rslora") else dim)


def rates_of(adapter: Mapping[str, Any]) -> tuple[float, float] | None:
    """The lowest and highest rate of Adam's that suit the adapter; None where no source gives one for its kind."""
    scale, kind = scale_of(adapter), kind_of(adapter)
    if scale is None or kind not in ("lora", "rslora", "lora_plus"):
        return None
    factor = AT_SCALE / scale * (OF_LORA_PLUS if kind == "lora_plus" else 1.0)
    return LOWEST * factor, HIGHEST * factor


def _rates(specs: Sequence[RunConfig]) -> list[str]:
    lines = []
    by_kind: dict[str, list[RunConfig]] = {}
    for spec in specs:
        if "adam" in spec.optimizer.target.lower():
            by_kind.setdefault(kind_of(_plain(spec.adapter)), []).append(spec)
    unknown = []
    for kind, own in by_kind.items():
        known = [(spec, rates) for spec in own if (rates := rates_of(_plain(spec.adapter))) is not None]
        if not known:
            unknown.append(kind)
            continue
        low, high = min(rates[0] for _, rates in known), max(rates[1] for _, rates in known)
        scales = _span([f"{scale:.3g}" for scale in sorted({_scale(spec) for spec, _ in known})])
        outside = sorted(
            {spec.optimizer.lr for spec, (a, b) in known if not a * 0.999 <= spec.optimizer.lr <= b * 1.001}
        )
        said = f", {_listed([rate_text(rate) for rate in outside])} lies outside" if outside else ""
        lines.append(
            f"rates for {kind} at scale {scales}: {_rounded(low)} to {_rounded(high)} with Adam{said} (1e-5 to "
            "5e-4 at alpha = 2 r, Biderman et al. 2024, arXiv:2405.09673; a first step goes as alpha times the rate"
            + (", and LoRA+ takes half, as peft has it)" if kind == "lora_plus" else ", LoRA Without Regret)")
        )
    if unknown:
        lines.append(
            f"rates for {_listed(unknown)}: no published range was found that holds in general; kinds favor "
            "different ones (arXiv:2602.04998), so give each at least three"
        )
    return lines


def _rounded(rate: float) -> str:
    return rate_text(float(f"{rate:.2g}"))


def _scale(spec: RunConfig) -> float:
    scale = scale_of(_plain(spec.adapter))
    assert scale is not None
    return scale


# ---- warm-up -----------------------------------------------------------------------------------------------------


def _warm_ups(specs: Sequence[RunConfig], steps: Sequence[int]) -> list[str]:
    lines: dict[str, None] = {}
    for spec, count in zip(specs, steps, strict=True):
        warmup = spec.trainer.schedule.warmup_steps
        if warmup > count:
            lines[
                f"warm-up: trainer.schedule.warmup_steps={warmup} is more than the {count:,} steps, so that "
                f"optimizer.lr is never reached, {count / warmup:.0%} of it at most"
            ] = None
        elif warmup > count / 2:
            lines[
                f"warm-up: trainer.schedule.warmup_steps={warmup} is more than half of the {count:,} steps"
            ] = None
    return list(lines)


# ---- twins -------------------------------------------------------------------------------------------------------


def normal_form(config: Mapping[str, Any]) -> str:
    """A plain composed config as text that is the same for runs that compute the same, however they are written.

    An alpha is what it makes of the scale, so that null is dim, and rsLoRA of dim 1 is LoRA. What is only recorded
    of a run has no part.
    """
    kept = {name: value for name, value in config.items() if name != "tracking"}
    adapter = dict(config["adapter"])
    dim = adapter.get("dim")
    if isinstance(dim, Mapping) and set(dim) == {"default"}:
        adapter["dim"] = dim["default"]
    if (scale := scale_of(adapter)) is not None:
        adapter |= {"alpha": round(scale, 12), "use_rslora": None}
    return json.dumps({**kept, "adapter": adapter}, sort_keys=True, default=str)


def _plain(adapter: Any) -> dict[str, Any]:
    kind = type(adapter)
    plain: dict[str, Any] = {TARGET: f"{kind.__module__}.{kind.__qualname__}", **adapter.model_dump()}
    return plain


def _listed(names: Sequence[str]) -> str:
    if len(names) > SHOWN:
        return f"{names[0]} to {names[-1]}"
    *first, last = names
    return f"{', '.join(first)} and {last}" if first else last


def _span(names: Sequence[str]) -> str:
    return names[0] if len(names) == 1 else f"{names[0]} to {names[-1]}"
