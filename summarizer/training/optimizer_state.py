"""What an optimizer keeps beside the parameters."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable

import torch
from torch import Tensor, nn

BuildOptimizer = Callable[[list[nn.Parameter]], torch.optim.Optimizer]


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
