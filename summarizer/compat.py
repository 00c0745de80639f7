"""The one place that touches what a library has not made public; look here first when a release broke something.

Each entry says what it is for, why no public way does as well, and what happens once the private thing is gone: a
public way that gives the same result more slowly, and one line of the log that says so. Nothing is looked up
before it is needed, so that no release can break an import. tests/test_private_names.py keeps private names out of
all other modules, tests/test_compat.py takes each thing here away and compares the results.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from contextlib import AbstractContextManager
from importlib import metadata
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch
    from torch import Tensor
    from transformers import PreTrainedModel

log = logging.getLogger(__name__)

_said: set[str] = set()
"""What has been reported as gone, in this process."""


def _gone(what: str, instead: str) -> None:
    """Say once in a process that a private thing is missing, and what happens instead.

    what: its dotted name, which begins with the distribution's.
    """
    if what in _said:
        return
    _said.add(what)
    package = what.partition(".")[0]
    log.warning("compat: %s %s has no %s: %s", package, metadata.version(package), what, instead)


# --- torch: kernels ---------------------------------------------------------------------------------------------


def scaled_mm(a: Tensor, b: Tensor, a_scale: Tensor, b_scale: Tensor, dtype: torch.dtype) -> Tensor:
    """(a * a_scale) @ (b * b_scale).T by the tensor cores that multiply 8-bit floats.

    a: (rows, d), a_scale: (rows, 1), b: (columns, d), b_scale: (columns, 1).
    Why private: `torch.nn.functional.scaled_mm` is the public name, but torch 2.11 cannot compile it (pytorch issue
    180604). Row-wise kernels are only fast with use_fast_accum (torchao's row-wise recipe, which sets it always).
    Once gone: the same product in fp32, several times slower.
    """
    import torch

    if hasattr(torch, "_scaled_mm"):
        return torch._scaled_mm(a, b.t(), a_scale, b_scale.t(), out_dtype=dtype, use_fast_accum=True)
    _gone("torch._scaled_mm", "products of fp8 weights are taken in fp32, which is slower")
    with torch.autocast(a.device.type, enabled=False):
        return (a.float() @ b.float().t() * a_scale * b_scale.t()).to(dtype)


def int8_weight_mm(x: Tensor, q: Tensor) -> Tensor:
    """x @ q.T for a few rows x, (m, d_in) in bf16 or fp32, and int8 q, (d_out, d_in), without making q dense.

    Why private: torch has no public product of numbers of different types.
    Once gone: q is made dense for each product.
    """
    import torch

    if hasattr(torch, "_weight_int8pack_mm"):
        return torch._weight_int8pack_mm(x, q, torch.ones(len(q), dtype=x.dtype))
    _gone("torch._weight_int8pack_mm", "int8 weights are made dense for each product, which is slower")
    return x @ q.t().to(x.dtype)


def int8_mm(a: Tensor, b: Tensor) -> Tensor:
    """a @ b of int8 matrices, exactly, in int32.

    Why private: the public `torch.mm` of whole numbers wraps around within int8.
    Once gone: in fp64, which holds all sums of fewer than 2**38 products exactly.
    """
    import torch

    if hasattr(torch, "_int_mm"):
        return torch._int_mm(a, b)
    _gone("torch._int_mm", "products of int8 matrices are taken in fp64, which is slower")
    return (a.double() @ b.double()).to(torch.int32)


def softmax_backward(grad: Tensor, weight: Tensor) -> Tensor:
    """The gradient of scores s, given that of softmax(s, -1) = weight: (grad - sum(grad * weight)) * weight.

    Why private: autograd would keep the scores, or compute the softmax again; one kernel does the formula, with its
    sums in fp32 for numbers of any type.
    Once gone: the formula, kernel by kernel.
    """
    import torch

    if hasattr(torch, "_softmax_backward_data"):
        return torch._softmax_backward_data(grad, weight, -1, weight.dtype)
    _gone("torch._softmax_backward_data", "softmax's gradient is written out, which is slower")
    wide, weights = grad.float(), weight.float()
    return ((wide - (wide * weights).sum(-1, keepdim=True)) * weights).to(weight.dtype)


def was_never_written_in_place(tensor: Tensor) -> bool:
    """Whether no operator of torch's has changed a tensor since it was made.

    Why private: autograd's own count of such changes is the only trace that they leave.
    Once gone: False; a token is written by the model's modules rather than by its recorded kernels.
    """
    if hasattr(tensor, "_version"):
        return bool(tensor._version == 0)
    _gone("torch.Tensor._version", "a token is written module by module, which is slower")
    return False


# --- torch: steps that are watched instead of taken -------------------------------------------------------------


def can_simulate() -> bool:
    """Whether `fake_tensor_mode` and `operators_seen_by` have what they need.

    Why private: torch documents both under its private names alone ("Fake tensor", "Extending PyTorch"); the meta
    device knows no kernels of a processor or a card, and no public mode sees what a backward pass calls.
    Once gone: no step is planned. What would be planned takes the least memory instead: see `summarizer.runs`.
    """
    try:
        from torch._subclasses.fake_tensor import FakeTensorMode  # noqa: F401
        from torch.utils._python_dispatch import TorchDispatchMode  # noqa: F401
    except ImportError as error:
        _gone(f"torch.{error.name or 'fake tensors'}".replace("torch.torch", "torch"), NO_PLANS)
        return False
    return True


NO_PLANS = "no step can be planned; blocks are recomputed, and runs go one after the other with small batches"


def fake_tensor_mode() -> AbstractContextManager[Any]:
    """Within it tensors are made that have a shape, a type and a device and hold no numbers.

    It may be entered again and again; tensors of one do not mix with those of another. Needs `can_simulate`.
    """
    from torch._subclasses.fake_tensor import FakeTensorMode

    return FakeTensorMode()


def is_fake(tensor: Tensor) -> bool:
    """Whether it was made within a `fake_tensor_mode`; nothing is where there can be none."""
    try:
        from torch._subclasses.fake_tensor import FakeTensor
    except ImportError:
        return False
    return isinstance(tensor, FakeTensor)


def operators_seen_by(
    answer: Callable[[Any, tuple[Any, ...], dict[str, Any]], Any],
) -> AbstractContextManager[Any]:
    """Within it, each of torch's operators, of backward passes too, is `answer(operator, args, kwargs)` instead.

    answer may call the operator, which within it is not seen again. Needs `can_simulate`.
    """
    from torch.utils._python_dispatch import TorchDispatchMode

    class Seen(TorchDispatchMode):
        def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            return answer(func, args, kwargs or {})

    return Seen()  # type: ignore[no-untyped-call]


# --- transformers -----------------------------------------------------------------------------------------------


def checkpoint_renamings(model: PreTrainedModel) -> Callable[[str], str]:
    """From a name in a checkpoint to the one that the model has now, where transformers has renamed modules since.

    Why private: `from_pretrained` alone applies these names, and it loads the whole model by its own ways.
    Once gone: names stay as they are, and a checkpoint with old names is refused for the tensors it lacks.
    """
    try:
        from transformers.conversion_mapping import get_model_conversion_mapping
        from transformers.core_model_loading import WeightRenaming, rename_source_key

        renamings = [one for one in get_model_conversion_mapping(model) if isinstance(one, WeightRenaming)]
        rename_source_key("", renamings, [])
    except (ImportError, AttributeError, TypeError):
        what = "transformers.conversion_mapping.get_model_conversion_mapping"
        _gone(what, "a checkpoint's names are taken as they are; older checkpoints may not fit")
        return lambda name: name
    return lambda name: str(rename_source_key(name, renamings, [])[0])


def attention_implementation(model: PreTrainedModel) -> str | None:
    """What a model's attention function is called, such as "sdpa".

    Why private: `set_attn_implementation` is public, but nothing public reads what it left.
    Once gone: None; the model attends by its own code, batches are padded, and `generate` writes.
    """
    config = model.config.get_text_config()
    if not hasattr(config, "_attn_implementation"):
        _gone("transformers.PretrainedConfig._attn_implementation", NO_PACKING)
        return None
    return str(config._attn_implementation)


def attends_through_interface(model: PreTrainedModel) -> bool:
    """Whether a model's layers look their attention function up by `AttentionInterface`.

    Why private: `set_attn_implementation` warns where they do not, and sets the name in some of them all the same.
    Once gone: False; the model attends by its own code, batches are padded, and `generate` writes.
    """
    if not hasattr(model, "_supports_attention_backend"):
        _gone("transformers.PreTrainedModel._supports_attention_backend", NO_PACKING)
        return False
    return bool(model._supports_attention_backend)


NO_PACKING = "examples are padded rather than packed, and summaries are written by generate, which is slower"
