"""What an export is asked for, checked before anything heavy is imported."""

from __future__ import annotations

import importlib.util
import re
import shutil
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, ClassVar, Literal

from pydantic import Field
from pydantic_settings import CliPositionalArg

from summarizer.config.flags import Flags, FolderPath, Metavar
from summarizer.config.paths import nearest_existing
from summarizer.config.shared_flags import BaseModelFlags
from summarizer.errors import ConfigError, Issue, sound
from summarizer.exporting.base_model import CardFacts, base_name, is_hub_name
from summarizer.exporting.formats import FORMATS, Format

if TYPE_CHECKING:
    from summarizer.runs.trained_run import TrainedRun

LICENSE = re.compile(r"[a-z0-9][a-z0-9.-]*")
LANGUAGE = re.compile(r"[a-z]{2,3}|code|multilingual")
"""Source: https://huggingface.co/docs/hub/model-cards"""


class HubFlags(Flags):
    """What the model card says to the hub, and whether the folder goes there."""

    HEADING: ClassVar[str] = "the hub"

    push_to_hub: Annotated[str, Metavar("NAME")] | None = None
    """upload the folder as a new repository, `name` or `owner/name`; never without this flag"""
    private: bool = False
    """for --push-to-hub: a repository that others cannot see"""
    license: Annotated[str, Metavar("ID")] | None = None
    """for the model card, such as apache-2.0"""
    language: tuple[Annotated[str, Metavar("CODE")], ...] = ()
    """of the articles, for the model card, such as en; may be repeated"""
    hub_base: Annotated[str, Metavar("NAME")] | None = None
    """what the base model is called on the hub, for the model card, where it lay in a folder"""


class ExportFlags(BaseModelFlags, HubFlags):
    """Write a trained run into a folder that other programs load, with a model card."""

    run: CliPositionalArg[FolderPath] = Field(validation_alias="RUN")
    """the run's folder, or a sweep's, whose best run is taken"""
    format: Literal["peft", "merged", "ctranslate2", "gguf", "gguf-lora"] | None = None
    """required: peft (the adapter alone), merged (a model for transformers), ctranslate2, gguf (a model for
    llama.cpp) or gguf-lora (the adapter alone, for llama.cpp)"""
    dtype: Literal["bf16", "fp16", "fp32", "int8", "int8_float16", "int8_bfloat16", "int8_float32"] | None = (
        None
    )
    """type of the weights; default: bf16, for ctranslate2 int8, for llama.cpp fp16; those of int8 are for
    ctranslate2 alone"""
    output: FolderPath | None = None
    """new or empty (default: RUN/export/FORMAT); made whole or not at all"""
    weights: Literal["trained", "original"] | None = None
    """merge into the weights as the run had them, quantized (trained), or into the checkpoint's own (original); by
    default into those whose answers are nearer to the unmerged model's"""
    target: Literal["vllm"] | None = Field(None, validation_alias="for")
    """for peft: a folder that this server takes, or what stands against it"""
    with_base: bool = False
    """for peft and gguf-lora: a copy of the base model beside the adapter"""


@dataclass(frozen=True)
class ExportRequest:
    """An export whose flags are sound."""

    run: TrainedRun
    best_of: Path | None
    """The sweep that was named in the run's place."""
    format: str
    """A name in FORMATS."""
    dtype: str
    """One of the format's."""
    output: Path
    weights: str | None
    """trained or original; None takes whichever answers nearer to the unmerged model."""
    device: str
    with_base: bool
    """Put a copy of the base model beside the adapter."""
    target: str | None = None
    """The server that is to take a PEFT adapter."""
    facts: CardFacts = field(default_factory=CardFacts)
    push_to_hub: str | None = None
    """The repository that the folder is uploaded to."""
    private: bool = False

    @property
    def base(self) -> str:
        """What others call the base model."""
        return self.facts.base or base_name(self.run.spec.model.name_or_path)


def requested(flags: ExportFlags) -> ExportRequest:
    """Raises ConfigError with everything that is wrong with the run and the flags."""
    from summarizer.runs.trained_run import best_of_sweep, read_trained_run

    issues: list[Issue] = []
    best = sound(lambda: best_of_sweep(flags.run), issues)
    folder = best or flags.run
    trained = None if issues else sound(lambda: read_trained_run(folder, model=flags.model), issues)
    issues += [*flags.mistakes, *_disagreements(flags)]
    name = flags.format
    target = flags.output.expanduser() if flags.output else folder / "export" / (name or "")
    if flags.output or name:
        issues += output_issues(target)
    facts = CardFacts(flags.license, flags.language, flags.hub_base)
    issues += _of_hub(flags, facts, trained)
    if issues or trained is None or name is None:
        raise ConfigError(issues)
    return ExportRequest(
        run=trained,
        best_of=flags.run if best else None,
        format=name,
        dtype=flags.dtype or FORMATS[name].default_dtype,
        output=target,
        weights=flags.weights,
        device=flags.device,
        with_base=flags.with_base,
        target=flags.target,
        facts=facts,
        push_to_hub=flags.push_to_hub,
        private=flags.private,
    )


def _disagreements(flags: ExportFlags) -> Iterator[Issue]:
    """Flags that are sound by themselves and have no place beside each other, or none on this machine."""
    name = flags.format
    if name is None:
        if "format" not in flags.mistaken:
            yield Issue("--format", f"is required; one of {', '.join(FORMATS)}")
        return
    wanted = FORMATS[name]
    yield from _of_dtype(flags, name, wanted)
    if flags.with_base and not wanted.adapter_alone:
        alone = " and ".join(other for other in FORMATS if FORMATS[other].adapter_alone)
        yield Issue("--with-base", f"goes with --format {alone} alone: {name} holds the base model itself")
    if wanted.adapter_alone and flags.weights is not None:
        yield Issue("--weights", f"an adapter for {name} is merged into nothing; see --format merged")
    if flags.target is not None and name != "peft":
        yield Issue("--for", f"goes with --format peft alone, which {flags.target} loads; not with {name}")
    if wanted.package and importlib.util.find_spec(wanted.package.partition(">")[0]) is None:
        yield Issue(
            "--format", f"{name} needs a package that is not installed: pip install '{wanted.package}'"
        )


def _of_dtype(flags: ExportFlags, name: str, wanted: Format) -> Iterator[Issue]:
    dtype = flags.dtype
    if dtype is None:
        return
    if dtype not in wanted.dtypes:
        yield Issue(
            "--dtype", f"{dtype!r} is a type of --format ctranslate2; {name} takes bf16, fp16 or fp32"
        )
    elif wanted.adapter_alone and not flags.with_base:
        yield Issue(
            "--dtype", "an adapter stays in fp32, as it was trained; with --with-base it is the base's"
        )


def _of_hub(flags: ExportFlags, facts: CardFacts, run: TrainedRun | None) -> Iterator[Issue]:
    if flags.private and flags.push_to_hub is None:
        yield Issue("--private", "goes with --push-to-hub, which names the repository")
    if flags.hub_base is not None and not is_hub_name(flags.hub_base):
        yield Issue("--hub-base", f"{flags.hub_base!r} is no name on the hub, such as org/model")
    if flags.license is not None and not LICENSE.fullmatch(flags.license):
        yield Issue(
            "--license", f"{flags.license!r} is no license's name as the hub has them, such as apache-2.0"
        )
    for code in flags.language:
        if not LANGUAGE.fullmatch(code):
            yield Issue("--language", f"{code!r} is no language's code of two or three letters, such as en")
    if flags.push_to_hub is None:
        return
    from summarizer.exporting.hub import naming_issues

    yield from naming_issues(flags.push_to_hub)
    for key, given, such in (("license", facts.license, "apache-2.0"), ("language", facts.language, "en")):
        if not given:
            yield Issue(
                f"--{key}", f"is required with --push-to-hub, for the model card; for instance {such}"
            )
    if run is not None and facts.base is None and not is_hub_name(run.spec.model.name_or_path):
        yield Issue(
            "--hub-base",
            f"is required with --push-to-hub: the base model lay in {run.spec.model.name_or_path}, and the card "
            "says what it is called on the hub",
        )


def require_room(folder: Path, needed_bytes: int) -> None:
    """Raises ConfigError where the disk that `folder` will lie on has fewer bytes left."""
    free = shutil.disk_usage(nearest_existing(folder)).free
    if needed_bytes > free:
        raise ConfigError.single(
            "--output",
            f"{folder} needs {needed_bytes / 1e9:.2f} GB, and its disk has {free / 1e9:.2f} GB left; "
            "name a folder on another one",
        )


def output_issues(folder: Path) -> Iterator[Issue]:
    """Why nothing can be exported into a folder."""
    if folder.is_dir():
        if any(folder.iterdir()):
            yield Issue(
                "--output", f"{folder} is not empty, and nothing in it is overwritten; name another folder"
            )
    elif folder.exists():
        yield Issue("--output", f"{folder} is a file; name a folder")
    elif not nearest_existing(folder).is_dir():
        yield Issue(
            "--output", f"{nearest_existing(folder)} is a file, so that no folder can be made below it"
        )
