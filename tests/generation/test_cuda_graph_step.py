"""A token's pass at fixed places: on a processor, on a GPU that is not there, and captured where there is one."""

from __future__ import annotations

import logging
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from fake_gpu import GPU, bf16_products, fake_gpu
from test_decoder import END, NEW, PROMPTS, SEARCHES, answers, base, expected, group, likely_end
from test_kernel_graph_step import KINDS, made
from tiny_bases import fill_randomly, load, lora, plain, saved
from torch import Tensor
from torch._subclasses.fake_tensor import DataDependentOutputException
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from summarizer.adapters.attach import attach
from summarizer.generation import decode_graphs, decoder, kv_cache
from summarizer.generation.decode_graphs import CudaGraphStep
from summarizer.generation.kv_cache import KVCache
from summarizer.models.causal_lm import PackedModel
from summarizer.ops import decode_gemm
from summarizer.ops.decode_gemm import stored_weights_in_place
from summarizer.training.dry_run import fake_base

FREE = (
    "prim.device",
    *(f"aten.{name}" for name in ("view", "unsqueeze", "expand", "slice", "select", "transpose")),
)
FREE += tuple(
    f"aten.{name}" for name in ("_unsafe_view", "alias", "detach", "t.", "unbind", "permute", "split")
)
on_a_gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")


@pytest.fixture(scope="module", params=["gptj", "llama_tied"])
def folder(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return saved(request.param, tmp_path_factory.mktemp(request.param))


class FixedStep(CudaGraphStep):
    """The same at fixed places, never captured."""

    def __call__(self, ids: Tensor, positions: Tensor) -> Tensor:
        self.ids.copy_(ids)
        self.positions.copy_(positions)
        return self._forward()


def fix(monkeypatch: pytest.MonkeyPatch, step: type[CudaGraphStep] = FixedStep) -> None:
    """From here on, tokens are written at fixed places by such steps, on a CPU too."""
    monkeypatch.setattr(decoder, "decodes_at_fixed_places", lambda device: True)
    monkeypatch.setattr(decode_graphs, "CudaGraphStep", step)


@pytest.fixture
def fixed(monkeypatch: pytest.MonkeyPatch) -> None:
    fix(monkeypatch)


@pytest.mark.usefixtures("fixed")
@pytest.mark.parametrize(
    ("options", "ends_early"),
    [(SEARCHES[place], False) for place in (0, 1, 2, 5)] + [(SEARCHES[place], True) for place in (0, 1)],
    ids=str,
)
def test_tokens_are_transformers_own(options: dict[str, Any], folder: Path, ends_early: bool) -> None:
    """Seven prompts of unequal length in three slots, and at last in one."""
    reference = plain(folder)
    end = likely_end(reference) if ends_early else END
    got = answers(base(folder), end=end, **options)
    assert [answer for (answer,) in got] == [
        expected(reference, prompt, end, **options) for prompt in PROMPTS
    ]


@pytest.mark.parametrize("options", SEARCHES[:2], ids=str)
def test_trials_get_the_tokens_of_the_usual_way(
    options: dict[str, Any], folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Three trials, more slots than half of which are free in the end."""
    model = group(folder)
    end = answers(model, [PROMPTS[0]], min_new_tokens=NEW)[0][1][2]
    usual = answers(model, batch_size=5, end=end, **options)
    fix(monkeypatch)
    assert answers(model, batch_size=5, end=end, **options) == usual
    assert any(len({len(answer) for answer in of_trials}) > 1 for of_trials in usual)


class Places(TorchDispatchMode):
    """Where a pass finds what it did not make itself, and all shapes, in the order of its calls."""

    def __init__(self) -> None:
        super().__init__()
        self.read: list[tuple[str, int, torch.Size]] = []
        self.made: list[Tensor] = []  # which stay, so that nothing else lies where they do

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        own = {tensor.untyped_storage().data_ptr() for tensor in self.made}
        for tensor in tree_leaves((args, kwargs)):
            if isinstance(tensor, Tensor):
                place = -1 if tensor.untyped_storage().data_ptr() in own else tensor.data_ptr()
                self.read.append((str(func), place, tensor.shape))
        given = {t.untyped_storage().data_ptr() for t in tree_leaves((args, kwargs)) if isinstance(t, Tensor)}
        out = func(*args, **(kwargs or {}))
        self.made += [
            tensor
            for tensor in tree_leaves(out)
            if isinstance(tensor, Tensor) and tensor.untyped_storage().data_ptr() not in given
        ]
        return out


@pytest.mark.parametrize("beams", [1, 3])
def test_every_pass_reads_the_same_places_in_the_same_shapes(
    beams: int, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """While answers grow, and a slot is filled again: what a captured pass would go on doing."""
    passes: list[list[tuple[str, int, torch.Size]]] = []

    class Watched(FixedStep):
        def _forward(self) -> Tensor:
            with Places() as places:
                y = super()._forward()
            passes.append(places.read)
            return y

    fix(monkeypatch, Watched)
    answers(base(folder), PROMPTS[:3], batch_size=2, num_beams=beams, min_new_tokens=NEW)
    rows = 2 * beams
    of_two = [read for read in passes if (rows, 96) in {shape for _, _, shape in read}]
    assert len(of_two) >= NEW - 1
    for read in of_two[1:]:
        assert read == of_two[0]


class OnCard(TorchDispatchMode):
    """Counts calls, and refuses tensors that lie elsewhere."""

    def __init__(self) -> None:
        super().__init__()
        self.calls: Counter[str] = Counter()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        self.calls[str(func)] += 1
        elsewhere = [
            t.device for t in tree_leaves((args, kwargs, out)) if isinstance(t, Tensor) and t.device != GPU
        ]
        assert not elsewhere, f"{func} on {elsewhere}"
        return out


def calls_of_a_pass(kind: str, layers: int, beams: int) -> Counter[str]:
    """Of a model of so many blocks on a GPU that is not there; two trials, in bf16."""
    name, options = KINDS[kind]
    depth = "n_layer" if name == "GPTJConfig" else "num_hidden_layers"
    config = getattr(transformers, name)(**options | {depth: layers})
    with fake_gpu() as mode, pytest.MonkeyPatch.context() as patched:
        patched.setattr(kv_cache, "moved", lambda tensor, device: tensor.to(device))  # pins no memory
        model = fake_base(config, "int8", mode, GPU)
        with mode, torch.no_grad(), bf16_products(), stored_weights_in_place():
            attach(model, [lora(2), lora(3)], [0, 1])
            assert isinstance(model, PackedModel)
            cache = KVCache(2, beams, 16, 8, GPU, at_fixed_places=True)
            heads = config.get_text_config()
            kv_heads = getattr(heads, "num_key_value_heads", heads.num_attention_heads)
            head_dim = getattr(heads, "head_dim", None) or heads.hidden_size // heads.num_attention_heads
            like = torch.empty(1, kv_heads, head_dim, dtype=torch.bfloat16, device=GPU)
            for layer in range(layers):  # as reading prompts leaves it
                cache.layers[layer] = cache._allocated(like), cache._allocated(like)
            step = FixedStep(model, cache, 2 * beams)
            cache.begin_decode()
            with OnCard() as watched:
                step._forward()
    return watched.calls


@pytest.fixture
def with_triton(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(decode_gemm, "triton_available", lambda: True)


@pytest.mark.usefixtures("with_triton")
@pytest.mark.parametrize("beams", [1, 4])
@pytest.mark.parametrize("kind", KINDS)
def test_a_pass_stays_on_the_gpu_and_asks_it_nothing(kind: str, beams: int) -> None:
    calls = calls_of_a_pass(kind, 2, beams)
    layers = 2 * (6 if kind in ("gptj", "phi") else 7) + 1
    assert calls["summarizer.int8_rows.default"] == layers
    assert calls["summarizer.attend_token.default"] == 2
    assert calls["summarizer.rotate_token.default"] == (2 if kind == "gptj" else 0)


@pytest.mark.usefixtures("with_triton")
def test_a_block_of_gptj_is_few_launches() -> None:
    """Of two rows: fifteen calls that compute, three of which convert inputs; views cost a graph nothing."""
    more, fewer = (calls_of_a_pass("gptj", layers, 1) for layers in (3, 2))
    of_a_block = {name: count for name, count in (more - fewer).items() if not name.startswith(FREE)}
    assert sum(of_a_block.values()) == 15, of_a_block


def test_a_number_that_is_asked_for_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(decode_gemm, "triton_available", lambda: True)
    monkeypatch.setattr(FixedStep, "_forward", lambda own: own.ids[: int(own.ids.max())])
    with pytest.raises(DataDependentOutputException):
        calls_of_a_pass("gptj", 1, 1)


def test_where_nothing_can_be_captured_the_log_says_so_once_and_tokens_are_the_same(
    folder: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """torch's CPU build knows no graphs, and says so where one is begun."""
    wanted = answers(base(folder))
    fix(monkeypatch, CudaGraphStep)
    monkeypatch.setattr(CudaGraphStep, "_beside", lambda own, compute: compute())
    monkeypatch.setattr(torch.cuda, "CUDAGraph", refusing)
    decode_graphs._warn.cache_clear()
    with caplog.at_level(logging.WARNING):
        assert answers(base(folder)) == wanted
        assert answers(base(folder)) == wanted
    assert [message for message in caplog.messages if "no graphs here" in message] == caplog.messages
    assert len(caplog.messages) == 1


def refusing() -> None:
    raise RuntimeError("no graphs here")


@pytest.mark.gpu
@on_a_gpu
@pytest.mark.parametrize("options", [SEARCHES[0], SEARCHES[1], SEARCHES[6]], ids=str)
@pytest.mark.parametrize("format_name", ["int8", "nf4"])
@pytest.mark.parametrize("kind", ["gptj", "llama"])
def test_captured_tokens_are_those_of_single_launches(
    kind: str,
    format_name: str,
    options: dict[str, Any],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    model = attach(
        load(made(KINDS[kind], tmp_path), format_name, device="cuda").model, [lora(2), lora(3)], [0, 1]
    )
    for trial in range(2):
        fill_randomly(model, trial, seed=trial)
    with torch.autocast("cuda", torch.bfloat16), caplog.at_level(logging.WARNING):
        captured = answers(model, **options)
        assert not caplog.messages
        fix(monkeypatch)
        assert answers(model, **options) == captured
