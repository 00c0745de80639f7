"""What speaks against opening runs, found without importing torch as far as that goes."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from summarizer.errors import Issue
from summarizer.runs.trained_run import TrainedRun, base_differences


def opening_issues(runs: Sequence[TrainedRun], *, device: str, precision: str) -> Iterator[Issue]:
    """What speaks against opening these runs so, as far as that is seen without reading anything of their base."""
    yield from base_differences(runs)
    on_card = False
    if device == "cuda" or (device == "auto" and precision == "int8"):
        import torch  # seconds, where nothing else would tell

        on_card = torch.cuda.is_available()
    if device == "cuda" and not on_card:
        yield Issue("--device", "cuda, but PyTorch sees no CUDA device here; use auto or cpu")
    if precision == "int8" and (on_card or runs[0].spec.quantization.format != "int8"):
        yield Issue(
            "--precision",
            "int8 is for bases that are quantized to int8, on a CPU; leave it out for the best there is",
        )
