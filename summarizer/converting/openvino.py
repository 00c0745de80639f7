"""A run on OpenVINO's CPU plugin, for `generation.backend=openvino`.

The graph's weights are those that the adapter was trained beside, the adapter merged into them in fp32, and rounded
anew in groups, since a row's outliers would cost its other weights too much (`generation.openvino.stored.GROUPS`).
"""

from __future__ import annotations

import gc
import hashlib
import json
import logging
import re
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import torch
from torch import Tensor

from summarizer.adapters.lora import LoRA
from summarizer.config.paths import cache_folder
from summarizer.config.schema import GenerationConfig
from summarizer.console.progress import Bar, bar
from summarizer.converting.kept import kept, require_room
from summarizer.data.prompt import Prompt, build_prompt
from summarizer.errors import ConfigError, Issue
from summarizer.exporting.merge import Merge
from summarizer.exporting.model_folder import MergedModel
from summarizer.generation.openvino.known import GRAPH, refusal
from summarizer.models.load import base_digest, load_config
from summarizer.models.source import model_folder
from summarizer.models.tokenizer import check_context, load_tokenizer
from summarizer.runs.opened import open_runs
from summarizer.runs.trained_run import TrainedRun

if TYPE_CHECKING:
    from summarizer.exporting.shards import Piece
    from summarizer.generation.openvino.decode import OpenVinoDecoder
    from summarizer.generation.openvino.running import Running

KEY = "--backend"
PACKAGE = ".[openvino]"
Bits = Literal["int8", "int4"]
WEIGHTS: Mapping[str, Bits] = {"openvino": "int8", "openvino_int4": "int4"}
"""By generation.backend."""
GRAPH_VERSION = 1
"""Raised when the same model becomes another graph, so that kept ones of an older version are made anew."""
PRECISIONS = ("auto", "fp32", "bf16")

log = logging.getLogger(__name__)


def open_converted(
    runs: Sequence[TrainedRun], backend: str, *, device: str = "auto", precision: str = "auto"
) -> Converted:
    """A run to be answered for by OpenVINO; it is converted when its first answer, or `running`, is asked for.

    precision: auto leaves it to OpenVINO (bf16 where the processor has it, activations, keys and values in 8 bits);
    fp32 computes with the rounded weights exactly.
    Raises ConfigError with everything that speaks against it, before a weight is read.
    """
    issues = list(opening_issues(runs, device=device, precision=precision))
    if issues:
        raise ConfigError(issues)
    (run,) = runs
    config = load_config(model_folder(run.spec.model))
    if reason := refusal(config.to_dict()):
        raise ConfigError.single(
            KEY, f"{backend} cannot run {run.spec.model.name_or_path}: {reason}; use torch"
        )
    check_context(config, run.spec.prompt)
    return Converted(run, WEIGHTS[backend], precision)


def opening_issues(runs: Sequence[TrainedRun], *, device: str, precision: str) -> Iterator[Issue]:
    """What speaks against opening these runs so, as far as that is seen without reading anything of their base."""
    if find_spec("openvino") is None:
        yield Issue(KEY, f"openvino needs a package that is not installed: pip install '{PACKAGE}'")
    if len(runs) > 1:
        yield Issue(KEY, "openvino has one adapter merged into its weights; take several runs one by one")
    if device == "cuda":
        yield Issue(KEY, "openvino runs on the CPU; leave --device out")
    if precision not in PRECISIONS:
        yield Issue("--precision", f"{precision} is none of openvino's; it has {', '.join(PRECISIONS)}")
    for run in runs:
        adapter = run.spec.adapter.build()
        if not isinstance(adapter, LoRA):
            yield Issue(
                KEY, f"{type(adapter).__name__} adapters cannot be merged into its weights; use torch"
            )


@dataclass(frozen=True)
class Converted:
    """One run, as a `trained.summarizer.Model`: trial 0 is its adapter."""

    run: TrainedRun
    weights: Bits
    precision: str

    @cached_property
    def prompt(self) -> Prompt:
        return build_prompt(self.run.spec.prompt, load_tokenizer(model_folder(self.run.spec.model)))

    @contextmanager
    def decoding(
        self,
        trials: Sequence[int] | None,
        generation: GenerationConfig,
        *,
        at_once: int,
        on_step: Callable[[int], None] | None = None,
    ) -> Iterator[OpenVinoDecoder]:
        """at_once: of no consequence; articles are written one after the other."""
        from summarizer.generation.openvino.decode import OpenVinoDecoder

        assert trials is None or list(trials) == [0]
        running = self.running(base_alone=trials is None)
        yield OpenVinoDecoder(running, generation, self.prompt.end_id, on_step)

    def running(self, *, base_alone: bool) -> Running:
        """The graph on its plugin, which holds one at a time: converted now where no earlier conversion is kept."""
        if base_alone not in self._opened:
            self._opened.clear()
            self._opened[base_alone] = self._open(base_alone)
        return self._opened[base_alone]

    @cached_property
    def _opened(self) -> dict[bool, Running]:
        return {}

    def _open(self, base_alone: bool) -> Running:
        from summarizer.generation.openvino.running import SETTINGS, Running, read_graph

        home = self._home(base_alone)
        model = kept(
            home, lambda folder: self._convert(folder, base_alone), lambda folder: read_graph(folder / GRAPH)
        )
        start_s = time.monotonic()
        running = Running(model, threads=torch.get_num_threads(), settings=SETTINGS[self.precision])
        log.info(
            "openvino: %s, weights in %s, compiled for this processor in %.1f s",
            "the base alone" if base_alone else "the adapter merged into the base",
            self.weights,
            time.monotonic() - start_s,
        )
        return running

    def _home(self, base_alone: bool) -> Path:
        spec = self.run.spec
        made_from = {
            "base": base_digest(model_folder(spec.model), spec.quantization.format),
            "adapter": None if base_alone else self.run.adapter_digest(),
            "weights": self.weights,
            "openvino": version("openvino"),
            "graph": GRAPH_VERSION,
        }
        digest = hashlib.sha256(json.dumps(made_from).encode()).hexdigest()[:16]
        name = re.split("[/:]", spec.model.name_or_path.rstrip("/"))[-1]
        return cache_folder() / "openvino" / f"{name}-{self.weights}-{digest}"

    def _convert(self, folder: Path, base_alone: bool) -> None:
        from summarizer.generation.openvino.architectures import write_graph

        start_s = time.monotonic()
        opened = open_runs([self.run], device="cpu", precision="fp32")
        config = load_config(model_folder(self.run.spec.model))
        merge = Merge(opened.adapted, None if base_alone else 0)
        pieces = MergedModel(
            merge, config, opened.tokenizer, opened.prompt, self.run.spec.generation
        ).pieces()
        stored_bytes = sum(piece.nbytes(torch.int8) for piece in pieces)
        require_room(2 * stored_bytes)  # the constants, and the graph that is written from them
        with bar(f"converting to OpenVINO's {self.weights}", len(pieces)) as progress:
            read = _Pieces(pieces, progress)
            graph = write_graph(config.to_dict(), read, folder, self.weights)
        if read.left:
            raise ConfigError.single(
                KEY, f"openvino cannot run this model: its graph has no place for {min(read.left)}; use torch"
            )
        del opened, merge, pieces, read
        gc.collect()  # of the base, whose memory the plugin needs
        log.info(
            "openvino: converted in %.1f s, %.1f MB; %s keeps it for the next time",
            time.monotonic() - start_s,
            graph.with_suffix(".bin").stat().st_size / 1e6,
            self._home(base_alone),
        )


class _Pieces:
    """The tensors of a merged model by name, each made when the graph asks for it."""

    def __init__(self, pieces: Sequence[Piece], progress: Bar) -> None:
        self._make: dict[str, Callable[[], Tensor]] = {piece.name: piece.make for piece in pieces}
        self._progress = progress
        self.left = set(self._make)
        """What was not asked for yet."""

    def __call__(self, name: str) -> Tensor:
        if name in self.left:
            self.left.remove(name)
            self._progress.advance()
        return self._make[name]().detach().cpu()

    def __contains__(self, name: Any) -> bool:
        return name in self._make
