"""What one training step is made of: operators from the dispatcher, launches and waits from the profiler.

    python experiments/training_throughput/anatomy.py --model embedded:tiny_gptj --lengths 256

takes the arguments of measure.py and writes anatomy.json and anatomy.md for the first point of its grid. Two steps
are looked at: one under torch's dispatch mode, which sees every operator with its tensors (compiled code runs
uncompiled there, so these counts are of the arithmetic), and one under torch.profiler as it really runs.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

EIGHT_BIT = frozenset({torch.int8, torch.uint8, torch.float8_e4m3fn, torch.float8_e5m2})
PRODUCTS = frozenset(
    {
        "mm",
        "addmm",
        "bmm",
        "baddbmm",
        "_scaled_mm",
        "_int_mm",
        "linear",
        "addmv",
        "mv",
        "dot",
        "_addmm_activation",
    }
    | {"int8_linear_matmul", "int8_mixed_scaled_mm", "int8_scaled_mm", "gemm_4bit", "gemv_4bit"}
    | {"baddbmm_", "addmm_", "mkldnn_rnn_layer", "_weight_int8pack_mm"}
    | {"fp32_linear", "narrowed", "add_widened_", "row_sums"}
)
"""Operators of aten, of bitsandbytes and of this project that multiply matrices."""
COPIES = frozenset({"_to_copy", "copy_", "clone", "cat", "stack", "contiguous", "repeat", "index_copy_"})
HOST_WAITS = frozenset({"_local_scalar_dense", "nonzero", "masked_select", "equal", "unique_dim", "_unique2"})
"""Operators whose result's value or shape the host must know: on a GPU it waits for the device there."""
BIG = 1 << 16
"""Numbers that make a tensor a weight or an activation rather than a table or a scale."""

COUNTED = {
    "operators": "operators",
    "products": "matrix products",
    "attentions": "fused attentions",
    "dequantizations": "dequantizations",
    "dequantized_bytes": "bytes dequantized to",
    "quantizations": "activations quantized",
    "copied_bytes": "bytes moved by copies",
    "touched_bytes": "bytes into and out of operators",
    "host_waits": "host waits (operators)",
    "launches": "kernel launches",
    "runtime_waits": "stream synchronizations",
    "kernel_s": "seconds in kernels",
}
"""What is counted, as the table's rows name it. The last three are the GPU's alone."""
RUNTIME_LAUNCHES = (
    "cudaLaunchKernel",
    "cudaLaunchKernelExC",
    "cuLaunchKernel",
    "cuLaunchKernelEx",
    "cudaGraphLaunch",
)
RUNTIME_WAITS = ("cudaStreamSynchronize", "cudaDeviceSynchronize", "cudaEventSynchronize", "cudaMemcpy")


class OperatorCounts(TorchDispatchMode):  # type: ignore[misc]
    """Adds up the operators that run within it. Views cost nothing and are left out."""

    def __init__(self) -> None:
        super().__init__()
        self.counts: Counter[str] = Counter()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        if not getattr(func, "is_view", False):
            inputs = [leaf for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, Tensor)]
            outputs = [leaf for leaf in tree_leaves(out) if isinstance(leaf, Tensor)]
            name = func._schema.name.split("::")[-1]
            self._add(name, inputs, outputs)
            self.counts["host_waits"] += name in HOST_WAITS or _waits_to_read(
                func, args, kwargs, inputs, outputs
            )
        return out

    def _add(self, name: str, inputs: list[Tensor], outputs: list[Tensor]) -> None:
        counts = self.counts
        counts["operators"] += 1
        counts["products"] += name in PRODUCTS
        counts["attentions"] += "attention" in name or name == "_varlen_attn"
        moved = _bytes(inputs) + _bytes(outputs)
        counts["touched_bytes"] += moved
        if name in COPIES:
            counts["copied_bytes"] += moved
        from_eight, to_eight = _eight_bit(inputs), _eight_bit(outputs)
        if name in PRODUCTS:
            return
        if from_eight and not to_eight and (wide := _wide(outputs)):
            counts["dequantizations"] += 1
            counts["dequantized_bytes"] += _bytes(wide)
        if to_eight and not from_eight and _wide(inputs):
            counts["quantizations"] += 1


def count_step(step: Callable[[], None], device: torch.device) -> dict[str, float]:
    """One step's counts, by the names of COUNTED; what only a GPU has is left out elsewhere."""
    with OperatorCounts() as mode:
        step()
    counts: dict[str, float] = {name: mode.counts[name] for name in COUNTED if name not in _ON_A_GPU}
    if device.type != "cuda":
        return counts
    from torch.profiler import ProfilerActivity, profile

    torch.cuda.synchronize(device)
    with profile(activities=[ProfilerActivity.CPU, ProfilerActivity.CUDA]) as profiled:
        step()
        torch.cuda.synchronize(device)
    events = profiled.events() or []
    counts["launches"] = sum(event.name.startswith(RUNTIME_LAUNCHES) for event in events)
    # One wait is this function's own, at the end.
    counts["runtime_waits"] = sum(event.name in RUNTIME_WAITS for event in events) - 1
    counts["kernel_s"] = sum(event.self_device_time_total for event in profiled.key_averages()) / 1e6
    return counts


_ON_A_GPU = ("launches", "runtime_waits", "kernel_s")


def anatomy_table(counts: dict[str, dict[str, float]], problems: dict[str, str]) -> str:
    """counts: by contender.  problems: contenders that have none, and why."""
    lines = ["| one step | " + " | ".join(counts) + " |", "|---" * (len(counts) + 1) + "|"]
    for name, title in COUNTED.items():
        if any(name in own for own in counts.values()):
            values = (shown(name, own.get(name)) for own in counts.values())
            lines.append(f"| {title} | " + " | ".join(values) + " |")
    lines += [f"\n{name}: {problem}" for name, problem in problems.items()]
    return "\n".join(lines)


def shown(name: str, value: float | None) -> str:
    if value is None:
        return ""
    if name.endswith("_bytes"):
        return f"{value / 1e6:,.1f} MB"
    return f"{value * 1e3:,.1f} ms" if name.endswith("_s") else f"{value:,.0f}"


def _waits_to_read(func: Any, args: Any, kwargs: Any, inputs: list[Tensor], outputs: list[Tensor]) -> bool:
    """Whether a copy from a GPU to the host is one that the host waits for."""
    to_host = (
        any(t.is_cuda for t in inputs) and bool(outputs) and all(t.device.type == "cpu" for t in outputs)
    )
    if not to_host:
        return False
    names = [argument.name for argument in func._schema.arguments]
    given = dict(zip(names, args, strict=False)) | (kwargs or {})
    return not given.get("non_blocking", False)


def _bytes(tensors: Iterable[Tensor]) -> int:
    return sum(tensor.numel() * tensor.element_size() for tensor in tensors)


def _wide(tensors: Iterable[Tensor]) -> list[Tensor]:
    return [tensor for tensor in tensors if tensor.is_floating_point() and tensor.numel() >= BIG]


def _eight_bit(tensors: Iterable[Tensor]) -> bool:
    return any(tensor.dtype in EIGHT_BIT and tensor.numel() >= BIG // 2 for tensor in tensors)


if __name__ == "__main__":
    import measure

    measure.main_anatomy()
