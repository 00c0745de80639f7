"""How much of the device a training step uses: model FLOP utilization.

FLOPs of training adapters beside a frozen base, a product of (m, k) and (k, n) being 2 m k n of them:

- A frozen linear layer of N weights takes 2 N per token forward and 2 N backward, for its input's gradient. Its
  weights have none, which is where full training takes 2 N more. In all 4 N.
- The head is such a layer, but only the tokens that predict a summary token pass it. In our own models they alone
  pass what lies behind the last block's attention, too, and count so.
- An adapter of P weights takes 2 P forward, and backward 2 P for its input's gradient and 2 P for its own: 6 P.
- Causal attention: the i-th token of an example meets i keys, whose scores and whose weighted sum of values take
  2 i w each, with w = heads x head dim. Over t tokens and l layers that is 4 w l t (t + 1) / 2 forward. Both
  products have two factors that are not frozen, so backward takes twice that. In all 6 w l t (t + 1).
- Looking up a row of an embedding takes none.

Left out, as Chowdhery et al. 2022 (arXiv:2204.02311, appendix B) leave it out: what the mathematics does not ask
for (recomputed activations, dequantized weights, padding, keys behind the mask), and what is no product (norms,
activation functions, softmax, rotations). Where the embedding has no adapter, the lowest adapted layer needs no
gradient of its input, so that this counts a little too much.
"""

from __future__ import annotations

import logging
import platform
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache

import torch
from torch import Tensor

from summarizer.adapters.attach import AdaptedModel
from summarizer.adapters.layer import AdaptedLayer
from summarizer.adapters.protocol import Role
from summarizer.config.paths import cache_folder
from summarizer.errors import ConfigError
from summarizer.json_files import Part, read_part, write_part
from summarizer.models.causal_lm import AttentionShape
from summarizer.processes import Processes
from summarizer.quantization.frozen import FrozenEmbedding, FrozenLinear

RATE_BUDGET_S = 0.25
"""About how long `matrix_rate` may take."""
SIDES = {"cpu": (256, 512, 1024), "cuda": (1024, 2048, 4096, 8192)}
"""Sides of the square matrices that `matrix_rate` multiplies. The largest take 400 MB on a GPU."""
MEMORY_BYTES = 2**28
"""What `memory_rate` reads at a time: many times a processor's caches."""

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class ModelShape:
    """What the FLOPs of one trial's training depend on, as counts of weights."""

    linear: int
    """Weights in the frozen linear layers that every token passes."""
    head: int
    """Weights of the frozen head, and of other layers that only the tokens that predict a summary token pass."""
    linear_adapters: int
    head_adapters: int
    """Beside the layers that `head` counts."""
    embedding_adapters: int
    """Weights of the embedding's adapter without the table that rows are looked up in."""
    attention_width: int
    """Layers x heads x head dim."""


@dataclass(frozen=True)
class TrainingFlops:
    """FLOPs of forward and backward, by part."""

    linear: int
    head: int
    adapters: int
    attention: int

    @property
    def total(self) -> int:
        return self.linear + self.head + self.adapters + self.attention


def training_flops(shape: ModelShape, lengths: Sequence[int], summary_tokens: int) -> TrainingFlops:
    """FLOPs of training on some examples once; the module's docstring derives them.

    lengths: tokens of each example, prompt and summary.  summary_tokens: those that the loss is over, in all.
    """
    tokens = sum(lengths)
    return TrainingFlops(
        linear=4 * shape.linear * tokens,
        head=4 * shape.head * summary_tokens,
        adapters=6 * (shape.linear_adapters + shape.embedding_adapters) * tokens
        + 6 * shape.head_adapters * summary_tokens,
        attention=6 * shape.attention_width * sum(t * (t + 1) for t in lengths),
    )


def shape_of(adapted: AdaptedModel, trial: int) -> ModelShape:
    """The counts of one trial. The model may be on the meta device."""
    roles: dict[int, Role] = {id(layer.base): _counted_as(layer) for layer in adapted.layers.values()}
    model = adapted.model
    frozen: Counter[Role] = Counter()
    for name, module in model.module.named_modules():
        if isinstance(module, FrozenLinear):
            alone = module is model.head or model.is_at_positions(name)
            role = roles.get(id(module), "head" if alone else "linear")
            frozen[role] += module.in_features * module.out_features
    own: Counter[Role] = Counter()
    for layer in adapted.layers.values():
        base = layer.base
        for parameter in layer.trials[trial].values():
            looked_up = isinstance(base, FrozenEmbedding) and base.num_embeddings in parameter.shape
            own[_counted_as(layer)] += 0 if looked_up else parameter.numel()
    attention = AttentionShape.of(model.config)
    return ModelShape(
        linear=frozen["linear"],
        head=frozen["head"],
        linear_adapters=own["linear"],
        head_adapters=own["head"],
        embedding_adapters=own["embedding"],
        attention_width=0 if attention is None else attention.layers * attention.heads * attention.head_dim,
    )


def _counted_as(layer: AdaptedLayer) -> Role:
    return "head" if layer.at_positions else layer.role


def utilization(flops: int, seconds: float, flops_per_s: float) -> float | None:
    """Model FLOP utilization: the share of the device's rate that went into `flops`. 1 is all of it.

    flops_per_s: of all devices that shared the work. None is a share above 1, which says that the rate was measured
    while others used the device, and nothing of the share.
    """
    share = flops / seconds / flops_per_s
    return share if share <= 1 else None


class MatrixRates(Part):
    """`matrix_rates.json` in the cache."""

    flops_per_s: dict[str, float]
    """The best rate that was ever measured, by machine, device, threads and precision."""


BELIEVABLE = 10.0
"""A kept rate of more than so many times the one measured now is no rate of this device."""


@cache
def matrix_rate(device: torch.device, dtype: torch.dtype) -> float:
    """FLOP/s of matrix products on a device, in one precision: the best that was ever measured on this machine.

    Measured once per process and kept in the cache: cores that others use look slow.
    Takes about RATE_BUDGET_S, and some times that where a processor has no instructions for the precision.
    """
    precision = str(dtype).removeprefix("torch.")
    measured = _measured_rate(device, dtype)
    best = _best_kept(f"{platform.node()}, {_device_name(device)}, {precision}", measured)
    log.info(
        "matrix rate of %s in %s: %.3g TFLOP/s%s",
        device,
        precision,
        best / 1e12,
        "" if best == measured else f", at its best; now {measured / 1e12:.3g}",
    )
    return best


def devices_rate(processes: Processes) -> float:
    """`matrix_rate` of all devices together that share a run's batches."""
    return matrix_rate(processes.device, processes.dtype) * processes.count


def _device_name(device: torch.device) -> str:
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    return f"{device.type} with {torch.get_num_threads()} threads"


def _best_kept(name: str, measured: float) -> float:
    path = cache_folder() / "matrix_rates.json"
    try:
        kept = read_part(path, MatrixRates, "rates").flops_per_s
    except ConfigError:
        kept = {}
    if measured < kept.get(name, 0.0) <= BELIEVABLE * measured:
        return kept[name]
    try:
        write_part(path, MatrixRates(flops_per_s=kept | {name: measured}))
    except OSError as error:
        log.debug("the matrix rate was not kept: %s", error)
    return measured


def _measured_rate(device: torch.device, dtype: torch.dtype) -> float:
    """The best of a few square products."""
    generator = torch.Generator(device=device).manual_seed(0)
    best = 0.0
    sides = SIDES[device.type]
    for side in sides:
        a, b = (torch.rand(side, side, generator=generator, device=device).to(dtype) for _ in "ab")
        seconds = [_seconds_of_product(a, b) for _ in range(2)]
        while sum(seconds) < RATE_BUDGET_S / len(sides):
            seconds.append(_seconds_of_product(a, b))
        best = max(best, 2 * side**3 / min(seconds))
        # Twice the side is eight times the work. Busy cores make the small products look slow, so not too strict.
        if 2 * 8 * min(seconds) > 4 * RATE_BUDGET_S:
            break
    return best


def memory_rate(device: torch.device) -> float:
    """Bytes/s at which a device reads its memory: the best of a few sums over MEMORY_BYTES. Takes milliseconds."""
    numbers = torch.ones(MEMORY_BYTES // 4, device=device)  # zeros would be one page of memory, seen often
    seconds = []
    for _ in range(5):
        _wait_for(device)
        started_s = time.perf_counter()
        numbers.sum()
        _wait_for(device)
        seconds.append(time.perf_counter() - started_s)
    return MEMORY_BYTES / min(seconds)


def _seconds_of_product(a: Tensor, b: Tensor) -> float:
    _wait_for(a.device)
    started_s = time.perf_counter()
    torch.mm(a, b)
    _wait_for(a.device)
    return time.perf_counter() - started_s


def _wait_for(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
