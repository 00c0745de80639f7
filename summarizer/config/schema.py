"""The typed form of a composed config: one class per config group, a unit beside every number.

`conf/` holds the defaults and says what each key is for; these classes hold the types and the bounds. A
value outside them becomes a line of the one `ConfigError` that `config.check` raises.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Literal, Self

from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    StrictFloat,
    StrictInt,
    ValidationInfo,
    field_validator,
)
from pydantic_core import PydanticCustomError

from summarizer.config.targets import OptimizerConfig, imported_adapter

if TYPE_CHECKING:
    from summarizer.adapters.protocol import Adapter
else:
    Adapter = BaseModel  # torch comes with the classes; see RunConfig.imported

LARGEST_COUNT = 10**12
"""Of rows, steps and the like: what is beyond is a slip of the keyboard, and overflows in some library."""
Count = Annotated[int, Field(ge=0, le=LARGEST_COUNT)]
PositiveCount = Annotated[int, Field(ge=1, le=LARGEST_COUNT)]
ProcessCount = Annotated[int, Field(ge=1, le=1024)]
BatchSize = Annotated[int, Field(ge=1, le=2**20)]
LARGEST_SEED = 2**63 - 1
"""What torch.Generator takes as a signed number."""
Seed = Annotated[int, Field(ge=0, le=LARGEST_SEED)]
Fraction = Annotated[float, Field(ge=0, le=1)]
NonEmpty = Annotated[str, Field(min_length=1)]
NonEmptyList = Annotated[list[NonEmpty], Field(min_length=1)]


class Section(BaseModel):
    """Strict (no silent conversion of types), closed (no unknown key) and immutable."""

    model_config = ConfigDict(
        extra="forbid", frozen=True, strict=True, allow_inf_nan=False, use_attribute_docstrings=True
    )


class ModelConfig(Section):
    name_or_path: NonEmpty
    """A folder, a hub name, or `embedded:NAME` for a base model inside the package."""
    revision: str | None
    """Hub branch, tag or commit."""
    completion_token: str | None
    """A vocabulary entry that the base model never saw in pre-training; marks where the summary starts."""


class QuantizationConfig(Section):
    format: Literal["int8", "blockwise8", "nf4", "fp8", "none"]
    """How the frozen weights are stored: int8 by row, blockwise8 and nf4 (4 bits) by block, fp8, or as they are."""
    cache: bool
    """Keep the quantized base model on disk and memory-map it the next time."""
    embedding_format: Literal["int8", "blockwise8", "nf4", "fp8", "none"] | None = None
    """Likewise those of the embedding and the head; null: as all others."""

    @field_validator("embedding_format")
    @classmethod
    def _own(cls, value: str | None, info: ValidationInfo) -> str | None:
        """One name for one thing: the format of all others is null."""
        return None if value == info.data.get("format") else value

    @property
    def name(self) -> str:
        """Both formats, as `quantization.formats_of` reads them."""
        return self.format if self.embedding_format is None else f"{self.format}+{self.embedding_format}"


class Columns(Section):
    """The source's own names for the fields of a row."""

    article: NonEmpty | NonEmptyList | None
    """The article's column, or several whose texts are joined; null recognizes it by its name (`data.columns`)."""
    summary: NonEmpty | None
    """Likewise the summary's."""
    id: str | None
    """Null numbers the rows."""
    messages: NonEmpty | None = None
    """The column of chat turns, in place of article and summary: the user's, and the assistant's last."""


def _share_or_rows(value: object) -> object:
    """A number in the place of validation rows, if it is one that can be held out of the training rows."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return value
    if 0 < value < 1 or (isinstance(value, int) and 1 <= value <= LARGEST_COUNT):
        return value
    raise PydanticCustomError("hold_out", "no number of rows")


HeldOutOrPath = Annotated[
    NonEmpty | NonEmptyList | StrictInt | StrictFloat | None, BeforeValidator(_share_or_rows)
]


class RowLimits(Section):
    """At most so many rows of each split; null is all."""

    train: PositiveCount | None
    validation: PositiveCount | None
    test: PositiveCount | None


class DataConfig(Section):
    source: Literal["files", "hub"]
    """Files of one's own, or a data set of the Hugging Face hub."""
    path: str | None
    """Hub name; null for files."""
    config: str | None
    """The hub data set's configuration, such as a version."""
    revision: str | None
    train: NonEmpty | NonEmptyList
    """Split name (hub) or path, glob or list of them (files); `embedded:NAME` lies in the package."""
    validation: HeldOutOrPath
    """Likewise; or what is held out of train by a hash of the article: a share below 1, or a number of rows."""
    test: NonEmpty | NonEmptyList | None
    columns: Columns
    rows: RowLimits
    rows_seed: Seed | None
    """Null takes the first rows of a split; a number draws rows at random with that seed."""
    streaming: bool
    """Read the training split as it goes, for sets that do not fit on disk; needs trainer.max_steps."""
    shuffle_buffer_rows: Annotated[int, Field(ge=1, le=10**8)]
    """How many rows a streamed split is shuffled over."""
    max_bad_rows: Count
    """Skip up to so many unusable rows per split, named in the log; one more refuses the run."""
    processes: ProcessCount | None
    """Processes that tokenize; null is one per core."""


class RenderedChat(Section):
    """What a chat template makes of a conversation about an article: text, with the control tokens spelled out."""

    prompt: NonEmpty
    """All that is read ahead of a summary, with `{article}` where the article stands."""
    answer: NonEmpty
    """What comes after it: `{summary}`, and the end of the assistant's turn."""


class PromptConfig(Section):
    kind: Literal["text", "chat", "auto"] = "text"
    """text stands around the article as it is; chat is put into turns by the model's own chat template; auto is
    chat where the model has one."""
    template: NonEmpty | None
    """Text around one `{article}`, ending in `{completion}` if the completion token is to be used; of a chat the
    user's turn. Null for auto alone: that of whichever it comes to."""
    system: NonEmpty | None = None
    """Of a chat, the system's turn; null leaves it to the chat template."""
    date: NonEmpty | None = None
    """The day, as 2024-07-26, that a chat template is told which asks for today's: the same on every day."""
    completion_token: str | None
    """Vocabulary entry that stands for `{completion}`; null where the template ends in plain words."""
    end_token: str | None
    """Vocabulary entry that closes a summary; null is the tokenizer's own end of text, of a chat its turn's end."""
    max_tokens: Annotated[int, Field(ge=16, le=2**24)]
    """Longest prompt and summary together; the article is cut at its end to fit."""
    rendered: RenderedChat | None = None
    """Of a chat, the text that its template made; null until a run begins, which records it."""


class ScheduleConfig(Section):
    name: Literal["constant", "linear", "cosine"]
    """How the learning rate goes on after the warm-up."""
    warmup_steps: Count
    """Optimizer steps over which the rate rises from 0."""
    final_fraction: Fraction
    """What the rate decays to at the last step, as a fraction of optimizer.lr (linear and cosine)."""


class EarlyStoppingConfig(Section):
    patience: PositiveCount | None
    """Evaluations without improvement before the run ends; null never stops early."""
    min_change: Annotated[float, Field(ge=0)]
    """What counts as an improvement, in the metric's own unit."""


class TrainerConfig(Section):
    batch_size: BatchSize
    """Examples per optimizer step, over all processes."""
    microbatch_size: PositiveCount | None
    """Examples per forward pass and process; fewer than the batch accumulates gradients. Null: all."""
    batch_tokens: PositiveCount | Literal["auto"] | None
    """Tokens per forward pass and process, likewise; auto is the most that fit, by the plan. Null: any number."""
    epochs: Annotated[float, Field(gt=0, le=10**6)] | None
    """Passes over the training split; null trains for max_steps."""
    max_steps: PositiveCount | None
    """Optimizer steps; ends the run before `epochs` does where it is smaller."""
    shuffle: bool
    """Another order of the examples in each epoch, by the run's seed."""
    group_by_length: bool
    """Batches of like length, which saves padding; the order of batches stays random."""
    precision: Literal["auto", "fp32", "bf16", "fp16"]
    """Precision of matrix products; all else is in fp32. auto is bf16 where the device multiplies it natively, fp16
    (with a loss scale for each trial) on other CUDA devices, fp32 on other processors."""
    max_grad_norm: Annotated[float, Field(gt=0)] | None
    """The norm that each trial's gradient is clipped to; null does not clip."""
    memory: Literal["fast", "low", "auto"]
    """fast keeps all activations, low only the inputs of blocks; auto recomputes as many blocks as do not fit."""
    compile: bool | Literal["auto", "graphs"]
    """Compile the model's blocks; auto does on a GPU. graphs also records what each launches, for each of the few
    shapes that batches are padded to then, and replays it (CUDA graphs)."""
    schedule: ScheduleConfig
    log_every_steps: PositiveCount
    """Optimizer steps between lines of metrics.jsonl."""
    evaluate_every_steps: PositiveCount | None
    """Optimizer steps between evaluations; null evaluates at the end of each epoch."""
    checkpoint_every_steps: PositiveCount | None
    """Optimizer steps between checkpoints; null saves at the end of each epoch."""
    keep_checkpoints: PositiveCount
    """The newest so many stay; older ones are deleted."""
    best_metric: Literal["val/loss", "val/rouge1", "val/rouge2", "val/rougeL", "val/rougeLsum"]
    """Which evaluation decides on the adapter that is saved; a loss is best low, ROUGE best high."""
    early_stopping: EarlyStoppingConfig
    device: Literal["auto", "cpu", "cuda"]
    """auto is the GPU where there is one."""
    processes: ProcessCount | None
    """Processes that share each batch; null is as many as the launcher started."""


class EvaluationConfig(Section):
    split: Literal["train", "validation", "test"]
    """The split of the final scores; evaluations during training always use validation."""
    rows: PositiveCount | None
    """Rows of the final scores; null is the whole split."""
    loss_rows: PositiveCount | None
    """Validation rows of the loss at each evaluation during training; null is the whole split."""
    rows_during_training: Count
    """Validation rows to generate and score with ROUGE at each evaluation; 0 measures the loss alone."""
    base: bool
    """Score the untrained base model too, on the same rows: at step 0 and at the end."""
    batch_size: BatchSize
    """Articles at once when summaries are written."""
    rouge_tokenizer: Literal["auto", "rouge-score", "words", "characters"] = "auto"
    """What ROUGE's tokens are: rouge-score is for English; auto chooses by the script of the references."""
    article_gain: bool = False
    """Score how much the article raises each final summary's likelihood by the base model: two passes a system."""
    nli: NonEmpty | None = None
    """Folder of a model of natural language inference: does the article entail each final summary?"""
    bertscore: NonEmpty | None = None
    """Folder of an encoder for BERTScore of the final summaries, by the layer at three quarters of its depth."""
    confirm_split: Literal["test", "validation"] | None = "test"
    """The rows that the best settings of a sweep are compared on at its end, which chose nothing. validation, and
    in a sweep without data.test test too, holds half of validation out by a hash of the article. Null: none."""
    confirm_rows: PositiveCount = 200
    """At most so many of them."""
    bootstrap_samples: Annotated[int, Field(ge=1, le=100_000)]
    """Resamples of the rows for the 95 % intervals."""
    bootstrap_seed: Seed
    """Seed of the resamples."""
    sample_summaries: Count
    """Summaries shown in the log and in wandb at each evaluation."""


class GenerationConfig(Section):
    """How summaries are generated; every setting is as `transformers.generate` defines it."""

    max_new_tokens: PositiveCount
    """Longest summary, in tokens."""
    min_new_tokens: Count
    """Shortest summary, in tokens."""
    num_beams: Annotated[int, Field(ge=1, le=1000)]
    """Beams of the search; 1 is greedy search."""
    length_penalty: Annotated[float, Field(ge=-50, le=50)]
    """Above 0 favors longer summaries among beams."""
    early_stopping: bool
    """End as soon as as many beams as there are have ended."""
    no_repeat_ngram_size: Count
    """No so many tokens occur twice in a row; 0 is no limit."""
    do_sample: bool
    """Draw tokens at random."""
    temperature: Annotated[float, Field(gt=0)]
    """Divides the logits of what is drawn from; needs sampling."""
    top_p: Annotated[float, Field(gt=0, le=1)]
    """Draw among the likeliest tokens of so much probability; needs sampling."""
    top_k: Count
    """Draw among so many likeliest tokens, 0 is all; needs sampling."""
    seed: Seed
    """Seed of the tokens that are drawn at random."""

    @classmethod
    def key(cls, name: str) -> str:
        """What messages call a setting; a class of flags has the flags' names in its place."""
        return f"generation.{name}"


class SweepConfig(Section):
    """How the runs of a sweep share the device; a run alone has nothing to share."""

    max_concurrent_trials: PositiveCount | Literal["auto"]
    """Trials of a group that train at once; auto is as many as fit into memory, by the plan."""
    stopping: Literal["successive_halving"] | None
    """Stop what is not among the best at a rung, by trainer.best_metric; null trains every run to its end."""
    reduction_factor: Annotated[int, Field(ge=2)]
    """Of the runs that reach a rung, one in so many is promoted; the next rung lies so many times further."""
    first_rung: PositiveCount
    """Evaluations before the first decision."""


class TrackingConfig(Section):
    mode: Literal["offline", "online", "disabled"]
    """What wandb does beside the files that are always written."""
    project: NonEmpty
    """The wandb project."""
    entity: str | None
    """The wandb account or team; null is the account's default."""
    name: str | None
    """The run's name in wandb; null is its overrides."""
    group: str | None
    """The group of the run in wandb; null is the sweep's folder name, or none for a single run."""
    tags: list[str]
    """Tags of the run in wandb."""
    log_adapter: bool
    """Upload the adapter as a wandb artifact."""
    tensorboard: bool = False
    """Write TensorBoard's event files into the run folder."""


class RunConfig(Section):
    """One run: what a composed config says once it is checked."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)

    seed: Seed
    resume: None
    plan: bool
    """Say what the run would take, and end."""
    plan_tokens_per_s: Annotated[float, Field(gt=0)] | None
    """The rate at which the plan says the hours."""
    preview: PositiveCount | None = None
    """Show so many training examples as the model reads them, and end."""
    model: ModelConfig
    quantization: QuantizationConfig
    adapter: Adapter
    """An instance of the class that the config names; until that is imported, of a class with its fields alone."""
    optimizer: OptimizerConfig
    data: DataConfig
    prompt: PromptConfig
    trainer: TrainerConfig
    evaluation: EvaluationConfig
    generation: GenerationConfig
    sweep: SweepConfig
    tracking: TrackingConfig

    def imported(self) -> Self:
        """This config with the adapter as an instance of its class, which can draw and train."""
        return self.model_copy(update={"adapter": imported_adapter(self.adapter)})
