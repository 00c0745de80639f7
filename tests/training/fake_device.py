"""Whole training steps on a GPU that is not there. Run as a script, it takes two of a group on fake tensors.

Fake tensors know their device and hold no numbers: whatever reads one (a wait, on a GPU), or mixes the host's with
the GPU's, is an error, and the code goes the ways that are a GPU's. Three things stand in for what is not there:
torch's engine wants a GPU's streams, so backward goes through the graph node by node; memory is not pinned; events
are empty.
"""

from __future__ import annotations

import ctypes
import sys
import tempfile
from collections import defaultdict
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import bitsandbytes.functional
import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from training_groups import add_trials, spec_of
from transformers import GPTJConfig, LlamaConfig, PretrainedConfig

from summarizer.adapters.attach import attach
from summarizer.data.prompt import build_prompt
from summarizer.data.splits import build_split
from summarizer.models.blocks import recompute_blocks
from summarizer.models.source import model_folder
from summarizer.models.tokenizer import load_tokenizer
from summarizer.ops import attention, flash_attention
from summarizer.processes import Processes
from summarizer.training.dry_run import fake_base
from summarizer.training.loss_scale import build_scaling
from summarizer.training.step import Group, Microbatches
from summarizer.training.trainer import train_step

GPU = torch.device("cuda", 0)
HOPPER = SimpleNamespace(major=9, minor=0)
CONFIGS: dict[str, PretrainedConfig] = {
    "gptj": GPTJConfig(vocab_size=8192, n_embd=128, n_layer=2, n_head=2, rotary_dim=32, n_positions=256),
    "llama": LlamaConfig(
        vocab_size=8192,
        hidden_size=128,
        intermediate_size=256,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=1,
        max_position_embeddings=256,
    ),
}


def pretend_a_gpu() -> None:
    """So that autograd records, autocast converts and events are made."""
    if not torch.backends.cuda.is_built():
        # torch has a guard for each kind of device, a CPU's build none for GPUs: meta's does nothing and will do.
        library = ctypes.CDLL(str(Path(torch.__file__).parent / "lib" / "libc10.so"))
        guards = (ctypes.c_void_p * 20).in_dll(library, "_ZN3c104impl26device_guard_impl_registryE")
        cuda, meta = 1, 14  # c10/core/DeviceType.h
        assert guards[meta], "torch numbers its devices otherwise now"
        guards[cuda] = guards[meta]
    torch.cuda.amp.common.amp_definitely_not_available = lambda: False
    torch.cuda.is_bf16_supported = lambda *_, **__: True
    torch.cuda.get_device_properties = lambda *_: HOPPER
    torch.cuda.Event = lambda: SimpleNamespace(record=lambda: None, synchronize=lambda: None)
    FakeTensor.pin_memory = lambda self: self
    bitsandbytes.functional.create_dynamic_map = lambda signed: torch.empty(256)  # it reads what it computes


def backward(loss: Tensor) -> None:
    """As torch's engine: each node once, after all that use its result; gradients add up in leaves."""
    waiting: dict[Any, int] = defaultdict(int)
    nodes = [loss.grad_fn]
    seen = set(nodes)
    for node in nodes:
        for following, _ in node.next_functions:
            if following is not None:
                waiting[following] += 1
                if following not in seen:
                    seen.add(following)
                    nodes.append(following)
    given: dict[Any, dict[int, Tensor]] = defaultdict(dict)
    given[loss.grad_fn][0] = torch.ones_like(loss)
    ready = [loss.grad_fn]
    with torch.no_grad():
        while ready:
            node = ready.pop()
            came = given.pop(node, {})
            if hasattr(node, "variable"):
                node.variable.grad += came[0]
                continue
            gradients = [came.get(place) for place in range(len(node._input_metadata))]
            for (following, place), result in zip(
                node.next_functions, _results(node, gradients), strict=True
            ):
                if following is None:
                    continue
                if result is not None:
                    own, result = given[following], result.to(following._input_metadata[place].dtype)
                    own[place] = own[place] + result if place in own else result
                waiting[following] -= 1
                if not waiting[following]:
                    ready.append(following)


def _results(node: Any, gradients: list[Tensor | None]) -> list[Tensor | None]:
    """The gradients that a node gives, one for each of those that it goes on to."""
    if all(gradient is None for gradient in gradients):
        return [None] * len(node.next_functions)
    if callable(node):
        results = node(*gradients)
        return list(results) if isinstance(results, tuple) else [results]
    # One written in Python is its own context, and answers with None for inputs that are no tensors too.
    results = iter([one for one in node.apply(*gradients) if one is not None])
    return [None if following is None else next(results) for following, _ in node.next_functions]


class Seen(TorchDispatchMode):
    """The operators that ran on the GPU; no copy between it and the host may be one that the host waits for."""

    def __init__(self) -> None:
        super().__init__()
        self.names: set[str] = set()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        on_gpu = any(isinstance(leaf, Tensor) and leaf.is_cuda for leaf in tree_leaves((args, kwargs)))
        if on_gpu:
            self.names.add(str(func))
        out = func(*args, **(kwargs or {}))
        if str(func) in ("aten._to_copy.default", "aten.copy_.default"):
            ends = (args[0], args[1]) if "copy_." in str(func) else (args[0], out)
            unasked = not (kwargs or {}).get("non_blocking") and not any(one is True for one in args)
            if unasked and ends[0].is_cuda != ends[1].is_cuda:
                raise AssertionError(f"a copy that the host waits for: {ends}")
        return out


def main() -> None:
    kind, *overrides = sys.argv[1:]
    pretend_a_gpu()
    specs = [
        spec_of("data.rows.train=8", "trainer.batch_size=3", *overrides, f"adapter.dim={dim}", f"seed={dim}")
        for dim in (2, 4)
    ]
    first = specs[0]
    prompt = build_prompt(first.prompt, load_tokenizer(model_folder(first.model)))
    rows = build_split(first.data, "train", prompt)
    mode = FakeTensorMode()
    accelerator = SimpleNamespace(
        device=GPU, process_index=0, num_processes=1, is_main_process=True, backward=backward
    )
    processes = Processes(accelerator, first.trainer.precision)
    model = fake_base(CONFIGS[kind], first.quantization.format, mode, GPU)
    if first.trainer.memory == "low":
        recompute_blocks(model)
    flash, masked = flash_attention.flash_attention, attention.masked_attention
    ways: list[str] = []
    flash_attention.flash_attention = lambda *given: (ways.append("flash"), flash(*given))[1]
    attention.masked_attention = lambda *given: (ways.append("masked"), masked(*given))[1]
    with mode:
        adapted = attach(model, [], [])
        trials: list[Any] = []
        few = first.trainer.compile == "graphs"
        group = Group(
            adapted,
            trials,
            prompt,
            processes,
            Microbatches(first.trainer.microbatch_size, None, few),
            build_scaling(first.trainer.precision, trials, GPU),
            None,
        )
        folder = Path(tempfile.mkdtemp())
        group.enter(add_trials(group, specs, [folder / str(i) for i in range(len(specs))], rows))
        with adapted.training():
            train_step(group, [trial.next_batch() for trial in trials])  # optimizers make their state
            with Seen() as seen:
                measured = train_step(group, [trial.next_batch() for trial in trials])
        assert [step.error for step in measured.trials] == [None, None]
        assert measured.numbers.device.type == "cpu"
        assert measured.arrived is not None
    assert all(p.device == GPU for trial in group.trials for p in trial.parameters.values())
    print("attention", *sorted(set(ways)))
    print("operators", *sorted(seen.names))


if __name__ == "__main__":
    main()
