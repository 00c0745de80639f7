"""A quantized base on disk: safetensors shards and a manifest, loaded by memory map.

A folder of this kind is what the cache holds and what the package ships as its embedded model.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

from safetensors import SafetensorError, safe_open
from torch import Tensor

from summarizer.atomic import write_tensors
from summarizer.console.progress import bar
from summarizer.digests import check_digests, write_digests
from summarizer.errors import ConfigError
from summarizer.json_files import parse_json
from summarizer.quantization import NAMES, formats_of

MANIFEST = "base.json"
ALIGNMENT = 64
"""In bytes: a register of AVX-512, and what torch's own allocations have."""
SHARD_BYTES = 1 << 30
"""A shard is in memory while it is written; this bounds what writing adds to a load's peak."""


@dataclass(frozen=True)
class Manifest:
    """What a stored base is, beside its tensors."""

    format: str
    format_version: int
    source: str
    files: tuple[str, ...]


def is_stored_base(folder: Path) -> bool:
    return (folder / MANIFEST).is_file()


def read_manifest(folder: Path) -> Manifest:
    """Raises ConfigError on a manifest that is not one, or of a format that is unknown here."""
    path = folder / MANIFEST
    try:
        raw = parse_json(path.read_bytes())
        # A manifest from elsewhere cannot point outside its folder.
        files = tuple(str(Path(name).name) for name in raw["files"])
        base_format = str(raw["format"])
        if unknown := set(formats_of(base_format)) - set(NAMES):
            raise ValueError(f"format {unknown.pop()!r} is not one of {', '.join(NAMES)}")
        return Manifest(base_format, int(raw["format_version"]), str(raw["source"]), files)
    except (OSError, ValueError, KeyError, TypeError, OverflowError) as error:
        raise ConfigError.single(
            "model.name_or_path", f"{path} is not a stored base's manifest: {error}"
        ) from error


def stored_files(folder: Path) -> list[Path]:
    """The files of a stored base's tensors. Raises ConfigError where one is missing."""
    files = [folder / name for name in read_manifest(folder).files]
    for file in files:
        if not file.is_file():
            raise ConfigError.single("model.name_or_path", f"{file} is missing; put it there anew")
    return files


def write_base(
    folder: Path, tensors: Iterable[tuple[str, Tensor]], format_name: str, version: int, source: str
) -> None:
    """Write the tensors into `folder` as they come, in shards of SHARD_BYTES, then the manifest and the digests."""
    files: list[str] = []
    shard: dict[str, Tensor] = {}

    def flush() -> None:
        files.append(f"base-{len(files) + 1:05d}.safetensors")
        _write_shard(folder / files[-1], shard)
        shard.clear()

    size = 0
    for name, tensor in tensors:
        if shard and size + tensor.nbytes > SHARD_BYTES:
            flush()
            size = 0
        shard[name] = tensor.detach().cpu().contiguous()
        size += tensor.nbytes
    flush()
    manifest = Manifest(format_name, version, source, tuple(files))
    (folder / MANIFEST).write_text(json.dumps(asdict(manifest), indent=2) + "\n", encoding="utf-8")
    write_digests(folder, [*files, MANIFEST])


def is_as_written(folder: Path) -> bool:
    """Whether the files of a stored base are those that were written; False where no digests tell.

    Raises ValueError naming the file that is damaged or missing, and OSError where one cannot be read.
    """
    sizes = [file.stat().st_size for file in folder.glob("base*")]
    with bar("checking the base", sum(sizes), unit="bytes") as progress:
        return check_digests(folder, progress.advance)


def read_base(folder: Path) -> Iterator[tuple[str, Tensor]]:
    """Each stored tensor, memory-mapped unless it lies askew. Raises ConfigError on a missing or truncated file."""
    for file in stored_files(folder):
        try:
            with safe_open(file, framework="pt") as tensors:
                for key in tensors.keys():  # noqa: SIM118 - not a dict: it has no iterator
                    yield key, _aligned(tensors.get_tensor(key))
        except (SafetensorError, OSError) as error:
            raise ConfigError.single(
                "model.name_or_path",
                f"{file} is damaged ({error}); put it there anew",
            ) from error


def _write_shard(path: Path, shard: dict[str, Tensor]) -> None:
    """With a header so long that the tensors begin where vector instructions want them, and can stay mapped."""
    write_tensors(path, shard, {"padding": ""})
    with path.open("rb") as file:
        begin = 8 + int.from_bytes(file.read(8), "little")  # the header's length, the header, the tensors
    if missing := -begin % ALIGNMENT:
        write_tensors(path, shard, {"padding": " " * missing})


def _aligned(tensor: Tensor) -> Tensor:
    """A copy where a tensor does not begin where vector instructions want it: a file's header moves them."""
    return tensor if tensor.data_ptr() % ALIGNMENT == 0 else tensor.clone()
