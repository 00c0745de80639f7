"""The training step of a config, on a model without weights: what it takes, without taking it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from contextlib import AbstractContextManager, nullcontext, suppress
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PretrainedConfig

from summarizer import compat
from summarizer.adapters.attach import AdaptedModel, attach
from summarizer.adapters.protocol import Adapter
from summarizer.data.batches import Batch
from summarizer.errors import CannotPlan
from summarizer.models.causal_lm import CausalLM, summary_nll
from summarizer.models.meta_model import build_meta_model
from summarizer.models.transformers_model import TransformersModel
from summarizer.training.simulate import Part, StepCost, step_cost

BuildOptimizer = Callable[[list[nn.Parameter]], torch.optim.Optimizer]
SUMMARY_TOKENS = 128
"""Of each row in the worst case, unless told."""


@dataclass(frozen=True)
class Microbatch:
    """The largest forward pass: what every trial has in it."""

    rows: int
    tokens: int
    """Of each row: prompt and summary together."""
    summary_tokens: int = SUMMARY_TOKENS

    @property
    def all_tokens(self) -> int:
        return self.rows * self.tokens


@dataclass(frozen=True)
class DryRun:
    """A group's model on fake tensors, whose steps can be taken but give no numbers."""

    mode: AbstractContextManager[Any]
    adapted: AdaptedModel
    dtype: torch.dtype
    """Of matrix products."""

    def cost(self, microbatch: Microbatch) -> StepCost:
        """What one forward and backward pass over that microbatch of every trial takes.

        Raises CannotPlan for a model of transformers whose step cannot be watched.
        """
        adapted = self.adapted
        with self.mode, adapted.training(), _full_rows(microbatch.tokens):
            batch = worst_batch(adapted, microbatch)
            adapted.set_dropout_inputs(batch, [0] * adapted.stack.size)
            try:
                return step_cost(
                    lambda: training_loss(adapted, batch, self.dtype),
                    resident(adapted),
                    adapted.model.head,
                )
            except Exception as error:
                if not isinstance(adapted.model, TransformersModel):
                    raise
                reason = (str(error).strip() or type(error).__name__).splitlines()[0]
                raise CannotPlan(f"{adapted.model.architecture}: {reason}") from error


def dry_run(
    config: PretrainedConfig,
    base_format: str,
    adapters: Sequence[Adapter],
    dtype: torch.dtype,
    *,
    prepare: Callable[[CausalLM], None] | None = None,
    device: torch.device | None = None,
) -> DryRun:
    """A group's model in the shapes of the real one. Only the config is read, and changed: its dropout is off.

    prepare: what the run does to its model before training, such as switching checkpointing on. device: whose
    kernels are imitated; the CPU's by default, and others only on a machine that has them.
    Needs `compat.can_simulate`. Raises ConfigError as attaching does.
    """
    mode = compat.fake_tensor_mode()
    model = fake_base(config, base_format, mode, torch.device("cpu") if device is None else device)
    if prepare is not None:
        prepare(model)
    with mode:
        adapted = attach(model, adapters, list(range(len(adapters))))
    return DryRun(mode, adapted, dtype)


def training_loss(adapted: AdaptedModel, batch: Batch, dtype: torch.dtype) -> Tensor:
    """The sum of the trials' losses, as the training loop back-propagates it."""
    with nullcontext() if dtype == torch.float32 else torch.autocast(adapted.device.type, dtype):
        nll = summary_nll(adapted.model, batch)
    return (nll / batch.targets.shape[1]).sum()


def worst_batch(adapted: AdaptedModel, microbatch: Microbatch) -> Batch:
    """Full rows for every trial, laid out as the model takes them, but of zeros."""
    n, rows, tokens, device = adapted.stack.size, microbatch.rows, microbatch.tokens, adapted.device
    packed = adapted.model.packs(tokens)
    shape = (n, rows * tokens) if packed else (n * rows, tokens)
    ids = torch.zeros(shape, dtype=torch.long, device=device)
    cu_seqlens = torch.zeros(n * rows + 1, dtype=torch.int32, device=device)
    summaries = torch.zeros(n, rows * microbatch.summary_tokens, dtype=torch.long, device=device)
    return Batch(
        input_ids=ids,
        position_ids=torch.zeros_like(ids) if packed else None,
        attention_mask=None if packed else torch.ones_like(ids),
        cu_seqlens=cu_seqlens if packed else None,
        positions=summaries,
        targets=torch.zeros_like(summaries),
        token_numbers=torch.zeros_like(ids),
    )


def _full_rows(tokens: int) -> AbstractContextManager[Any]:
    """Answers the one question about numbers that a step asks, on the CPU: how long each of its examples is."""

    def answer(operator: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        # int32 is the type of a batch's cu_seqlens; a step that reads other numbers cannot be planned, and says so.
        if str(operator) == "aten._local_scalar_dense.default" and args[0].dtype == torch.int32:
            return tokens
        return operator(*args, **kwargs)

    return compat.operators_seen_by(answer)


# ---- a base model without weights --------------------------------------------------------------------------------


def fake_base(
    config: PretrainedConfig, base_format: str, mode: AbstractContextManager[Any], device: torch.device
) -> CausalLM:
    """The frozen model that `load_base` would give, on fake tensors of `mode`.

    Only its config is read. A format that keeps the checkpoint's own type (`none`) takes it from the config.
    """
    meta = build_meta_model(config, base_format)
    checkpoint_type = getattr(config.get_text_config(), "dtype", None) or torch.float32
    with mode:
        for weight in meta.weights.values():
            parts = weight.format.stored_parts(weight.shape, checkpoint_type)
            weight.load(
                {
                    name: torch.empty(shape, dtype=dtype, device=device)
                    for name, (shape, dtype) in parts.items()
                }
            )
        for module in meta.model.module.modules():
            _fake_plain_tensors(module, device)
    meta.model.module.eval()
    if isinstance(meta.model, TransformersModel):
        if any(parameter.ndim == 3 for parameter in meta.model.module.parameters()):
            # Products of stacked experts know no fake tensors, which torch reports with a traceback of its own; one
            # expert after the other asks which tokens are whose, and is said to have no plan.
            with suppress(Exception):
                meta.model.model.set_experts_implementation("eager")
        # As loading does, on numbers. Where a pass cannot be watched, a step cannot either, which says so.
        with mode, suppress(Exception):
            meta.model.note_weights_read(torch.zeros(1, 2, dtype=torch.long, device=device))
    return meta.model


def _fake_plain_tensors(module: nn.Module, device: torch.device) -> None:
    """Norms, biases and tables of one module: floats in fp32, as loading leaves them."""
    for name, parameter in list(module.named_parameters(recurse=False)):
        setattr(module, name, nn.Parameter(torch.empty(parameter.shape, device=device), requires_grad=False))
    for name, buffer in list(module.named_buffers(recurse=False)):
        if not compat.is_fake(buffer):
            setattr(module, name, torch.empty(buffer.shape, dtype=buffer.dtype, device=device))


def resident(adapted: AdaptedModel) -> dict[Part, Sequence[Tensor]]:
    """What lies in memory between two steps, by part; without the optimizer's state."""
    adapters = list(adapted.stacks())
    scales = [scale for layer in adapted.layers.values() for scale in layer.stacks.buffers()]
    own = {id(tensor) for tensor in (*adapters, *scales)}
    module = adapted.model.module
    return {
        "base": [t for t in (*module.parameters(), *module.buffers()) if id(t) not in own],
        "adapters": [*adapters, *scales],
        "gradients": [adapter.grad for adapter in adapters if adapter.grad is not None],
    }


# ---- what the optimizers keep beside the parameters --------------------------------------------------------------


def group_state_bytes(run: DryRun, optimizers: Sequence[BuildOptimizer]) -> int:
    """What the optimizers of all trials keep."""
    return sum(
        optimizer_state_bytes(build, (tuple(p.shape) for p in run.adapted.parameters_of(trial).values()))
        for trial, build in enumerate(optimizers)
    )


def optimizer_state_bytes(build: BuildOptimizer, shapes: Iterable[tuple[int, ...]]) -> int:
    """Bytes of state after the first step, over parameters of these shapes.

    Asked of the optimizer itself, by a step with gradients of zero on the CPU: 8-bit optimizers keep small tensors
    in fp32, some keep tables that all parameters share. Of each shape two are built, the others count as they do.
    """
    counts = Counter(shapes)
    parameters = {
        shape: [nn.Parameter(torch.zeros(shape)) for _ in range(min(count, 2))]
        for shape, count in counts.items()
    }
    everyone = [parameter for alike in parameters.values() for parameter in alike]
    for parameter in everyone:
        parameter.grad = torch.zeros_like(parameter)
    optimizer = build(everyone)
    optimizer.step()
    users = Counter(address for parameter in everyone for address in _storages(optimizer, parameter))
    own_bytes = sum(
        size * count
        for shape, count in counts.items()
        for address, size in _storages(optimizer, parameters[shape][0]).items()
        if users[address] == 1
    )
    shared = {
        address: size
        for parameter in everyone
        for address, size in _storages(optimizer, parameter).items()
        if users[address] > 1
    }
    return own_bytes + sum(shared.values())


def _storages(optimizer: torch.optim.Optimizer, parameter: nn.Parameter) -> dict[int, int]:
    """Bytes of what the state of one parameter holds, by address."""
    held = (value for value in optimizer.state[parameter].values() if isinstance(value, Tensor))
    storages = [tensor.untyped_storage() for tensor in held]
    return {storage.data_ptr(): storage.nbytes() for storage in storages}
