"""The one place that touches what a library has not made public; look here first when a release broke something.

Each entry says what it is for, why no public way does as well, and what happens once the private thing is gone: a
public way that gives the same result more slowly, and one line of the log that says so. Nothing is looked up
before it is needed, so that no release can break an import. tests/test_private_names.py keeps private names out of
all other modules, tests/test_compat.py takes each thing here away and compares the results.
"""

from __future__ import annotations

import logging
import os
import sys
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext, suppress
from functools import cache, lru_cache, partial, wraps
from importlib import import_module
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

if TYPE_CHECKING:
    import torch
    from torch import Tensor, nn
    from torch._subclasses.fake_tensor import FakeTensorMode
    from transformers import PretrainedConfig, PreTrainedModel

log = logging.getLogger(__name__)


@cache
def _gone(what: str, instead: str) -> None:
    """Say once in a process that a private thing is missing, and what happens instead.

    what: its dotted name.
    """
    from importlib import metadata

    package = what.partition(".")[0]
    with suppress(metadata.PackageNotFoundError):
        package = f"{package} {metadata.version(package)}"
    log.warning("compat: %s has no %s: %s", package, what, instead)


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
        return torch._weight_int8pack_mm(x, q, _ones(len(q), x.dtype))
    _gone("torch._weight_int8pack_mm", "int8 weights are made dense for each product, which is slower")
    return x @ q.t().to(x.dtype)


@lru_cache(maxsize=64)
def _ones(count: int, dtype: torch.dtype) -> Tensor:
    import torch

    return torch.ones(count, dtype=dtype)


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


def fp32_linear(x: Tensor, matrix: Tensor) -> Tensor:
    """x @ matrix.T in fp32 on a CPU, without a graph, by oneDNN; the matrix may be a transposed view.

    Why private: torch's public products in fp32 go to its BLAS; public ways to oneDNN copy x, the matrix and the
    result into its own layout.
    Once gone, or in a torch without oneDNN: torch's own product.
    """
    import torch
    import torch.nn.functional as F

    if not torch.backends.mkldnn.is_available():
        return F.linear(x, matrix)
    if hasattr(torch.ops.mkldnn, "_linear_pointwise"):
        rows = x.reshape(-1, x.shape[-1])
        y: Tensor = torch.ops.mkldnn._linear_pointwise(rows, matrix, None, "none", [], "")
        # Not a view of y, which what a pass returns may not be: adapters add to it in place.
        return y.resize_(*x.shape[:-1], len(matrix))
    _gone(
        "torch.ops.mkldnn._linear_pointwise",
        "products in fp32 are those of torch's BLAS, which may be slower",
    )
    return F.linear(x, matrix)


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


def foreach_norm(tensors: list[Tensor]) -> list[Tensor]:
    """The Euclidean norm of each tensor, in few launches for all of them.

    Why private: `torch.nn.utils.get_total_norm`, which calls this, gives one norm for all.
    Once gone: norm after norm, to the last bit the same.
    """
    import torch

    if hasattr(torch, "_foreach_norm"):
        return list(torch._foreach_norm(tensors, 2.0))
    _gone("torch._foreach_norm", TENSOR_BY_TENSOR)
    return [torch.linalg.vector_norm(tensor) for tensor in tensors]


TENSOR_BY_TENSOR = "it is done tensor by tensor, which is slower"


def foreach_mul_(tensors: list[Tensor], factor: Tensor) -> None:
    """Multiply each tensor by a scalar, in place, in few launches; as all of `foreach_norm`'s kind."""
    import torch

    if hasattr(torch, "_foreach_mul_"):
        torch._foreach_mul_(tensors, factor)
        return
    _gone("torch._foreach_mul_", TENSOR_BY_TENSOR)
    for tensor in tensors:
        tensor.mul_(factor)


def foreach_copy_(targets: list[Tensor], sources: list[Tensor]) -> None:
    """Copy each source into its target, in few launches; as all of `foreach_norm`'s kind."""
    import torch

    if hasattr(torch, "_foreach_copy_"):
        torch._foreach_copy_(targets, sources)
        return
    _gone("torch._foreach_copy_", TENSOR_BY_TENSOR)
    for target, source in zip(targets, sources, strict=True):
        target.copy_(source)


def foreach_zero_(tensors: list[Tensor]) -> None:
    """Fill each tensor with zeros, in few launches; as all of `foreach_norm`'s kind."""
    import torch

    if hasattr(torch, "_foreach_zero_"):
        torch._foreach_zero_(tensors)
        return
    _gone("torch._foreach_zero_", TENSOR_BY_TENSOR)
    for tensor in tensors:
        tensor.zero_()


def unscale_(gradients: list[Tensor], overflowed: Tensor, inverse_scale: Tensor) -> None:
    """Multiply each tensor, in place, and put 1 into `overflowed`, (1,), where a number of them is not finite.

    Why private: `torch.amp.GradScaler`, whose operator this is, has one scale for all optimizers. One product and
    one check for each tensor would be hundreds of launches, where this is one.
    Once gone: tensor by tensor.
    """
    import torch

    if hasattr(torch, "_amp_foreach_non_finite_check_and_unscale_"):
        torch._amp_foreach_non_finite_check_and_unscale_(gradients, overflowed, inverse_scale)
        return
    _gone("torch._amp_foreach_non_finite_check_and_unscale_", TENSOR_BY_TENSOR)
    for gradient in gradients:
        overflowed.logical_or_(~gradient.isfinite().all())
        gradient.mul_(inverse_scale)


# --- torch: what else it knows ----------------------------------------------------------------------------------


def compile_s() -> float:
    """Seconds that this process has spent in torch.compile so far, forward and backward; 0 without it.

    Why private: only the compiler's own clock tells compiling from the first run of what was compiled.
    Once gone: 0, so that the time counts as the first step's.
    """
    dynamo = sys.modules.get("torch._dynamo.utils")  # importing it for this alone would take a second
    if dynamo is None:
        return 0.0
    try:
        return float(dynamo.calculate_time_spent()["total_wall_time"])
    except (AttributeError, KeyError):
        what = "torch._dynamo.utils.calculate_time_spent"
        _gone(what, "the time to compile counts as the first step's")
        return 0.0


def import_without_compiling(name: str) -> ModuleType:
    """A module, without torch's compiler: it takes twice as long to import as torch, and a run that compiles
    nothing needs nothing of it.

    bitsandbytes has torch compile four functions when it is imported, that are called by none of its optimizers;
    its kernels, and the bookkeeping of all optimizers, are kept out of graphs. Both wait until there is a compiler.
    Why private: neither bitsandbytes nor torch has a setting for it. torch's own name for what it keeps out of
    graphs is no public one, and the methods of its optimizers are its own.
    Once gone: the compiler is imported.
    """
    if name.partition(".")[0] != "bitsandbytes":
        return import_module(name)
    import torch

    if COMPILER in sys.modules:
        return import_module(name)
    if not hasattr(torch, "_disable_dynamo"):
        _gone(
            "torch._disable_dynamo",
            "the first step of an optimizer imports torch's compiler, which takes longer",
        )
        return import_module(name)
    compiled, kept_out = torch.compile, torch._disable_dynamo
    unless_compiling = partial(_kept_out_of_graphs, kept_out)
    torch.compile, torch._disable_dynamo = partial(_compiled_when_called, compiled), unless_compiling
    try:
        found = import_module(name)
    finally:
        torch.compile, torch._disable_dynamo = compiled, kept_out
    for method in ("add_param_group", "zero_grad", "state_dict", "load_state_dict"):
        given = getattr(torch.optim.Optimizer, method)
        if hasattr(given, "__wrapped__") and not hasattr(given, "without_compiler"):
            setattr(torch.optim.Optimizer, method, unless_compiling(given.__wrapped__))
    return found


def _compiled_when_called(compiled: Callable[..., Any], function: Any = None, **how: Any) -> Any:
    """`torch.compile`, which is given as `compiled`, with the compiling put off until the function is called."""
    if function is None:
        return partial(_compiled_when_called, compiled, **how)
    once = cache(lambda: compiled(function, **how))
    return wraps(function)(lambda *given, **named: once()(*given, **named))


def _kept_out_of_graphs(kept_out: Callable[..., Any], function: Any = None, recursive: bool = True) -> Any:
    """`torch._disable_dynamo`, given as `kept_out`, once there is a compiler; until then the function itself."""
    if function is None:
        return partial(_kept_out_of_graphs, kept_out, recursive=recursive)
    disabled = kept_out(function, recursive)

    @wraps(function)
    def call(*given: Any, **named: Any) -> Any:
        return (disabled if COMPILER in sys.modules else function)(*given, **named)

    call.without_compiler = True  # type: ignore[attr-defined]
    return call


COMPILER = "torch._dynamo"
"""Whether it is imported is asked of sys.modules, which imports nothing."""


def without_compiling() -> AbstractContextManager[object]:
    """Within it, what was compiled runs as it was written.

    Why private: the public `set_stance` imports the compiler to say so, also where nothing was compiled.
    Once gone: the public way, each time.
    """
    import torch

    return torch.compiler.set_stance("force_eager") if COMPILER in sys.modules else nullcontext()


# --- torch: steps that are watched instead of taken -------------------------------------------------------------


def can_simulate() -> bool:
    """Whether `fake_tensor_mode` and `operators_seen_by` have what they need.

    Why private: torch documents both under its private names alone ("Fake tensor", "Extending PyTorch"); the meta
    device knows no kernels of a processor or a GPU, and no public mode sees what a backward pass calls.
    Once gone: no step is planned. Where the plan would say what fits, all blocks are recomputed, one example goes
    through at a time, and the trials of a group train one after the other; `plan=true` is refused.
    """
    for module, name in (
        ("torch._subclasses.fake_tensor", "FakeTensorMode"),
        ("torch.utils._python_dispatch", "TorchDispatchMode"),
    ):
        try:
            getattr(import_module(module), name)
        except (ImportError, AttributeError):
            _gone(f"{module}.{name}", NO_PLANS)
            return False
    return True


NO_PLANS = (
    "no step is planned; what a plan would decide takes the least memory, and runs train one after the other"
)


def fake_tensor_mode() -> FakeTensorMode:
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


def checkpoint_names(model: PreTrainedModel) -> Callable[[str], tuple[str, bool]]:
    """From a name in a checkpoint to the one that the model has now, where transformers has renamed modules since.

    With it, whether the tensor is more than renamed on its way, as experts are that become one stack.
    Why private: `from_pretrained` alone applies these names, and it loads the whole model by its own ways.
    Once gone: names stay as they are; a checkpoint with old names lacks tensors then, and is loaded whole by
    `from_pretrained` for it.
    """
    try:
        from transformers.conversion_mapping import get_model_conversion_mapping
        from transformers.core_model_loading import WeightConverter, WeightRenaming, rename_source_key

        found = get_model_conversion_mapping(model)
        renamings = [one for one in found if isinstance(one, WeightRenaming)]
        converters = [one for one in found if isinstance(one, WeightConverter)]
        if not isinstance(rename_source_key("a.name", renamings, converters), tuple):
            raise TypeError("it no longer returns the name and more")
    except (ImportError, AttributeError, TypeError):
        what = "transformers.conversion_mapping.get_model_conversion_mapping"
        _gone(what, "a checkpoint whose names are not the model's is loaded whole, which takes more memory")
        return lambda name: (name, False)

    def known(name: str) -> tuple[str, bool]:
        renamed, converter = rename_source_key(name, renamings, converters)
        return str(renamed), converter is not None

    return known


def causal_lm_class_name(config: PretrainedConfig) -> str:
    """The name of the class that `AutoModelForCausalLM` makes of a config that it knows.

    Why private: the public mapping from configs to classes imports a class to name it, and with it most of
    transformers, which a model of our own needs nothing of.
    Once gone: it is imported.
    """
    from transformers import MODEL_FOR_CAUSAL_LM_MAPPING

    try:
        from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

        named = MODEL_FOR_CAUSAL_LM_MAPPING_NAMES[config.model_type]
        if isinstance(named, str):
            return named
    except ImportError:
        what = "transformers.models.auto.modeling_auto.MODEL_FOR_CAUSAL_LM_MAPPING_NAMES"
        _gone(what, "a model's class is imported to learn its name, which takes longer")
    except KeyError:
        pass  # registered by its user
    return str(MODEL_FOR_CAUSAL_LM_MAPPING[type(config)].__name__)


def row_zeroed_by_loading(model: PreTrainedModel, embedding: nn.Module) -> int | None:
    """Which row of an embedding `from_pretrained` sets to 0, whatever the checkpoint holds, if any.

    Youtu's does: its code for fresh weights runs over loaded ones too, which are marked, but for a slice of them.
    Why private: only `from_pretrained` runs that code, and it loads the whole model.
    Once gone: None; the row is used as the checkpoint has it.
    """
    import torch
    from torch import nn

    row: int | None = getattr(embedding, "padding_idx", None)
    if row is None:
        return None
    loaded: Any = nn.Embedding(row + 1, 1, row)
    nn.init.ones_(loaded.weight)
    loaded._is_hf_initialized = loaded.weight._is_hf_initialized = True
    try:
        with torch.no_grad():
            model._init_weights(loaded)
    except (AttributeError, TypeError):
        what = "transformers.PreTrainedModel._init_weights"
        _gone(what, "a padding token's embedding is as the checkpoint has it")
        return None
    return None if loaded.weight[row].any() else row


def misread_by_peft(model: PreTrainedModel, layers: Sequence[str]) -> list[str]:
    """Which of a model's linear layers plain peft takes for others when it loads their adapters, by their names.

    peft reads adapters of models whose experts became one stack in transformers 5, and goes by the last part of a
    layer's name alone: a shared expert's or a dense block's `gate_proj` counts as an expert's, and what its adapter
    computes is lost. It also applies the renamings of old checkpoints, some of which match names of today.
    Why private: peft documents no way to ask for it, but the functions are under their public names.
    Once gone: none is left out.
    """
    try:
        from peft import LoraConfig
        from peft.utils.transformers_weight_conversion import (
            convert_peft_adapter_state_dict_for_transformers,
            convert_peft_config_for_transformers,
        )
    except ImportError:
        what = "peft.utils.transformers_weight_conversion.convert_peft_config_for_transformers"
        _gone(what, "layers are adapted that plain peft may take for others")
        return []
    import torch

    taken = set()
    for leaf in dict.fromkeys(name.rpartition(".")[2] for name in layers):
        config = LoraConfig(target_modules=[f"x.{leaf}"])
        try:
            convert_peft_config_for_transformers(config, model, None)
        except ValueError:  # it wants other layers of the experts' beside this one
            taken.add(leaf)
            continue
        if f"x.{leaf}" not in (config.target_modules or ()):
            taken.add(leaf)
    keys = {
        f"base_model.model.{name}.lora_A.weight": name
        for name in layers
        if name.rpartition(".")[2] not in taken
    }
    try:
        one = torch.zeros(1, 1)
        read = convert_peft_adapter_state_dict_for_transformers(model, LoraConfig(), dict.fromkeys(keys, one))
    except Exception:  # whatever its conversions raise for tensors that are none of theirs
        read = keys
    lost = {name for key, name in keys.items() if key not in read}
    return [name for name in layers if name.rpartition(".")[2] in taken or name in lost]


def refused_by_peft(model: PreTrainedModel, layers: Sequence[str]) -> list[str]:
    """Which of a model's linear layers plain peft puts no adapter beside, since Mamba's kernels go past them.

    Why private: peft says so only while it attaches an adapter, which takes a whole model.
    Once gone: none is left out, and peft refuses to load an adapter of such a model.
    """
    try:
        from peft import LoraConfig
        from peft.tuners.tuners_utils import _check_lora_target_modules_mamba
    except ImportError:
        what = "peft.tuners.tuners_utils._check_lora_target_modules_mamba"
        _gone(what, "layers of Mamba are adapted that plain peft may refuse")
        return []
    refused = set()
    for leaf in dict.fromkeys(name.rpartition(".")[2] for name in layers):
        try:
            _check_lora_target_modules_mamba(LoraConfig(), model, leaf)
        except ValueError:
            refused.add(leaf)
    return [name for name in layers if name.rpartition(".")[2] in refused]


def blocks(model: PreTrainedModel) -> list[nn.Module] | None:
    """A model's blocks, in the order of the data: what transformers itself would recompute one by one.

    Why private: `gradient_checkpointing_enable` is public, but recomputes all blocks or none, in its own way.
    Once gone: None; see `summarizer.models.blocks`.
    """
    try:
        from transformers.modeling_layers import GradientCheckpointingLayer
    except ImportError:
        what = "transformers.modeling_layers.GradientCheckpointingLayer"
        _gone(what, "a model's blocks are taken to be its longest list of alike modules")
        return None
    return [module for module in model.modules() if isinstance(module, GradientCheckpointingLayer)]


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


# --- bitsandbytes -----------------------------------------------------------------------------------------------


def smallest_8bit_state(optimizer: torch.optim.Optimizer) -> int | None:
    """Numbers from which on a tensor's state is kept in 8 bits: 0 where all tensors are treated alike.

    Why private: bitsandbytes' optimizers take `min_8bit_size` and keep it, undocumented, in `args`.
    Once gone: None, and tensors are stepped one by one as they come.
    """
    if not _is_of_bitsandbytes(optimizer):
        return 0
    try:
        arguments = optimizer.args  # type: ignore[attr-defined]
        return int(arguments.min_8bit_size) if arguments.optim_bits == 8 else 0
    except AttributeError:
        _gone(
            "bitsandbytes.optim.optimizer.Optimizer8bit.args", "each tensor is stepped alone, which is slower"
        )
        return None


def keep_state_in_32_bits(optimizer: torch.optim.Optimizer) -> None:
    """As if each of its tensors were too small for 8 bits. For one of which `smallest_8bit_state` is above 0.

    Why private: the documented `GlobalOptimManager.override_config` goes by the ids of tensors, which come again.
    """
    optimizer.args.optim_bits = 32  # type: ignore[attr-defined]


def step_without_waiting(optimizer: torch.optim.Optimizer, parameter: nn.Parameter) -> None:
    """A step of an optimizer with one parameter, without bitsandbytes' wait for the GPU after it.

    Paged state needs that wait.
    Why private: `step` waits after each parameter, and what it calls is not documented.
    Once gone: `step`, to the last bit the same.
    """
    if not _is_of_bitsandbytes(optimizer):
        optimizer.step()
        return
    try:
        init_state, update_step = optimizer.init_state, optimizer.update_step  # type: ignore[attr-defined]
        is_paged = optimizer.is_paged  # type: ignore[attr-defined]
    except AttributeError:
        what = "bitsandbytes.optim.optimizer.Optimizer8bit.update_step"
        _gone(what, "each step waits for the device, which is slower")
        is_paged = True
    if is_paged:
        optimizer.step()
        return
    group = optimizer.param_groups[0]
    if not optimizer.state[parameter]:
        init_state(group, parameter, 0, 0)
    update_step(group, parameter, 0, 0)


def _is_of_bitsandbytes(optimizer: torch.optim.Optimizer) -> bool:
    return type(optimizer).__module__.startswith("bitsandbytes.")


# --- accelerate -------------------------------------------------------------------------------------------------


def forget_processes() -> None:
    """Let accelerate join anew: it keeps the process group of its first time for the life of the process.

    Why private: `Accelerator.end_training` ends the group and goes on as if it were there.
    Once gone: the same dictionary is emptied through an object that shares it.
    """
    from accelerate.state import AcceleratorState, GradientState, PartialState

    for state in (AcceleratorState, GradientState, PartialState):
        if hasattr(state, "_reset_state"):
            state._reset_state()
        else:
            _gone("accelerate.state.PartialState._reset_state", "its state is emptied through an instance")
            vars(state()).clear()


# --- wandb ------------------------------------------------------------------------------------------------------


def wandb_settings(**public: Any) -> Any:
    """wandb's settings, with those that keep a machine's user, command line, hardware and packages out of a run.

    Why private: wandb has settings for these alone whose names begin with x_, which it says may go at any time.
    Once gone: wandb records them, and the line says so.
    """
    import wandb

    wanted = {"x_disable_meta": True, "x_save_requirements": False}
    known = {name: value for name, value in wanted.items() if name in wandb.Settings.model_fields}
    for name in wanted.keys() - known.keys():
        what = f"wandb.Settings.{name}"
        _gone(
            what, "what it kept back of the machine goes into wandb's runs; tracking=none goes without wandb"
        )
    return wandb.Settings(**public, **known)


def has_wandb_key(server: str) -> bool:
    """Whether a netrc file holds a key for a server, given as its URL.

    Why private: only wandb knows which of its servers share a key; its public `wandb.login` asks for one, or
    sends it.
    Once gone: whether the file has an entry for that very server.
    """
    try:
        from wandb.errors import AuthenticationError
        from wandb.sdk.lib.wbauth import read_netrc_auth
    except ImportError:
        what = "wandb.sdk.lib.wbauth.read_netrc_auth"
        _gone(what, "a key counts where the netrc file names the very server")
        return _has_netrc_key(server)
    try:
        return read_netrc_auth(host=server) is not None
    except AuthenticationError:
        return False  # what is there cannot be a key


WANDB_KEY_CHARACTERS = 40
"""At least. Source: wandb's documentation of WANDB_API_KEY."""


def _has_netrc_key(server: str) -> bool:
    """Source of where the file lies: wandb's documentation of `wandb login`, and Python's `netrc`."""
    import netrc

    places = [os.environ["NETRC"]] if os.environ.get("NETRC") else ["~/.netrc", "~/_netrc"]
    for path in (Path(place).expanduser() for place in places):
        if path.exists():
            try:
                found = netrc.netrc(path).authenticators(urlsplit(server).netloc)
            except (netrc.NetrcParseError, OSError):
                return False
            return found is not None and len(found[2] or "") >= WANDB_KEY_CHARACTERS
    return False


# --- datasets and the hub ---------------------------------------------------------------------------------------
