"""Pairs that start as a part of the base weight itself, which the layer then computes without.

PiSSA (Meng et al. 2024, arXiv:2404.02948) starts from the largest singular values and their vectors, OLoRA
(Büyükakyüz 2024, arXiv:2406.01775) from the first columns of Q and rows of R. The base stays as it is stored: the
pair that training starts from is kept beside the trained one and subtracted, where peft changes the weight. So
scale B A - scale B0 A0 is a low-rank pair of twice the rank, and that is how such an adapter is saved.

Singular values and vectors are cached, for the weight as it is stored: a trial's seed has no part in them.
"""

from __future__ import annotations

import logging
import re
from pathlib import Path

import torch
from jaxtyping import Float
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor
from xxhash import xxh3_128

from summarizer import atomic, compat
from summarizer.config.paths import cache_folder
from summarizer.digests import check_digests, write_digests
from summarizer.quantization.frozen import FrozenWeight

Decomposition = tuple[Float[Tensor, "d_out k"], Float[Tensor, " k"], Float[Tensor, "k d_in"]]
"""The first singular vectors and values of a weight: U, s, V^T."""

OVERSAMPLED = 8
"""Directions beyond those asked for that an approximate decomposition follows."""
FACTORS_FILE = "factors.safetensors"
KEPT_OF_EXACT = 64
"""A whole decomposition is cached up to so many singular values at least, since other dims ask for it too."""

log = logging.getLogger(__name__)


def principal_pair(
    frozen: FrozenWeight, method: str, dim: int, scale: float
) -> tuple[Float[Tensor, "r d_in"], Float[Tensor, "r d_out"]]:
    """A and B, as `r` rows: scale B^T A is taken from the weight, and given back by the pair that starts so.

    method: `pissa`, `pissa_niter_N` (by N rounds of subspace iteration) or `olora`, as peft's `init_lora_weights`.
    """
    if method == "olora":
        # The first columns of a weight's Q, and rows of its R, are those of its first columns alone.
        weight = frozen.dense(torch.float32)
        q = torch.linalg.qr(weight[:, :dim]).Q
        return (q.t() @ weight).contiguous(), q.t().contiguous()
    u, s, vh = _decomposition(frozen, method, dim)
    root = (s[:dim] / scale).sqrt()[:, None]
    return (root * vh[:dim]).contiguous(), (root * u[:, :dim].t()).contiguous()


def _decomposition(frozen: FrozenWeight, method: str, dim: int) -> Decomposition:
    rounds = re.fullmatch(r"pissa_niter_(\d+)", method)
    count = dim if rounds else min(max(dim, KEPT_OF_EXACT), *frozen.shape)
    if compat.is_fake(next(iter(frozen.parts.values()))):
        return _decomposed(frozen, rounds, count)
    folder = cache_folder() / "decompositions" / f"{_digest_of(frozen)}-{method}-{count}"
    if folder.exists():
        try:
            return _read(folder, frozen.device)
        except (OSError, SafetensorError, ValueError, KeyError) as error:
            log.warning("%s is made anew: %s", folder, error)
    made = _decomposed(frozen, rounds, count)
    try:
        _write(folder, made)
    except OSError as error:
        log.info("%s is not kept: %s", folder, error, extra={"quiet": True})  # it is only made again
    return made


def _decomposed(frozen: FrozenWeight, rounds: re.Match[str] | None, count: int) -> Decomposition:
    weight = frozen.dense(torch.float32)
    if rounds:
        u, s, vh = _leading(weight, count, int(rounds[1]))
    else:
        u, s, vh = torch.linalg.svd(weight, full_matrices=False)
    return u[:, :count].contiguous(), s[:count].contiguous(), vh[:count].contiguous()


def _leading(weight: Float[Tensor, "d_out d_in"], count: int, rounds: int) -> Decomposition:
    """The first singular vectors and values, by subspace iteration.

    Source: Halko et al. 2011 (arXiv:0909.4061), algorithms 4.4 and 5.1.
    """
    width = min(count + OVERSAMPLED, *weight.shape)
    guess = torch.randn(weight.shape[1], width, generator=torch.Generator().manual_seed(0)).to(weight.device)
    basis = torch.linalg.qr(weight @ guess).Q
    for _ in range(rounds):
        basis = torch.linalg.qr(weight.t() @ basis).Q
        basis = torch.linalg.qr(weight @ basis).Q
    u, s, vh = torch.linalg.svd(basis.t() @ weight, full_matrices=False)
    return basis @ u, s, vh


# ---- on disk -----------------------------------------------------------------------------------------------------


def _digest_of(frozen: FrozenWeight) -> str:
    digest = xxh3_128(repr((frozen.format.name, frozen.format.version, frozen.shape)).encode())
    for name, part in sorted(frozen.parts.items()):
        stored = part.detach().cpu().contiguous().reshape(-1).view(torch.uint8)
        digest.update(name.encode())
        digest.update(stored.numpy().data)
    return digest.hexdigest()


def _write(folder: Path, made: Decomposition) -> None:
    """Raises OSError."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    with atomic.new_folder(folder) as scratch:
        atomic.write_tensors(scratch / FACTORS_FILE, dict(zip(("u", "s", "vh"), made, strict=True)))
        write_digests(scratch, [FACTORS_FILE])


def _read(folder: Path, device: torch.device) -> Decomposition:
    """Raises OSError, SafetensorError, ValueError or KeyError where the files are not those that were written."""
    if not check_digests(folder):
        raise ValueError("it has no digests")
    stored = load_file(folder / FACTORS_FILE)
    return stored["u"].to(device), stored["s"].to(device), stored["vh"].to(device)
