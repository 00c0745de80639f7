"""What other tools call things: the key here by the name that a person of the field types first.

The names are those of transformers' TrainingArguments, PEFT, TRL, datasets and the scripts that are built on them.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from itertools import pairwise

from summarizer.errors import ConfigError, Issue

LONGEST_VALUE = 100
"""Characters of a value that an advice repeats."""

_KEYS: Mapping[str, str] = {
    "optimizer.lr": "learning_rate lr lora_lr max_lr peak_lr",
    "optimizer.weight_decay": "weight_decay wd",
    "optimizer.betas": "betas adam_betas",
    "optimizer.eps": "eps adam_epsilon",
    "adapter.dim": "dim r rank lora_r lora_rank lora_dim lora_dimension peft_r",
    "adapter.alpha": "alpha lora_alpha lora_scaling",
    "adapter.dropout": "dropout lora_dropout",
    "adapter.targets": "targets target_modules lora_target_modules lora_target lora_modules",
    "adapter.exclude": "exclude_modules",
    "adapter.start_from": "adapter_name_or_path adapter_path peft_model lora_path",
    "trainer.epochs": "epochs n_epochs num_epochs num_train_epochs max_epochs",
    "trainer.max_steps": "max_steps num_steps train_steps num_train_steps max_train_steps total_steps",
    "trainer.batch_size": "batch_size bs train_batch_size per_device_train_batch_size global_batch_size",
    "trainer.microbatch_size": "micro_batch_size gradient_accumulation_steps grad_accum accumulate_grad_batches",
    "trainer.max_grad_norm": "max_grad_norm grad_clip gradient_clip gradient_clip_val clip_grad_norm",
    "trainer.schedule.name": "scheduler schedule lr_scheduler lr_scheduler_type lr_schedule",
    "trainer.schedule.warmup_steps": "warmup warmup_steps num_warmup_steps lr_warmup_steps warmup_ratio",
    "trainer.log_every_steps": "logging_steps log_steps log_every log_interval",
    "trainer.evaluate_every_steps": "eval_steps eval_every eval_interval evaluation_steps val_check_interval",
    "trainer.checkpoint_every_steps": "save_steps save_every checkpointing_steps save_interval",
    "trainer.keep_checkpoints": "save_total_limit keep_last",
    "trainer.best_metric": "metric_for_best_model monitor",
    "trainer.early_stopping.patience": "patience early_stopping_patience",
    "trainer.precision": "precision mixed_precision dtype torch_dtype amp",
    "trainer.group_by_length": "group_by_length",
    "trainer.compile": "compile torch_compile",
    "trainer.device": "device",
    "trainer.processes": "num_processes nproc_per_node num_gpus gpus devices world_size",
    "prompt": "chat_template prompt_template prompt_style",
    "prompt.template": "template instruction_template",
    "prompt.max_tokens": "max_length max_len max_seq_length max_seq_len max_source_length max_input_length "
    "model_max_length cutoff_len context_length seq_len block_size",
    "prompt.end_token": "eos_token end_token",
    "generation.max_new_tokens": "max_new_tokens max_target_length max_output_length max_summary_length",
    "generation.min_new_tokens": "min_new_tokens min_length",
    "generation.num_beams": "num_beams beams beam_size",
    "generation.temperature": "temperature",
    "generation.top_p": "top_p",
    "generation.top_k": "top_k",
    "generation.do_sample": "do_sample sample",
    "evaluation.batch_size": "eval_batch_size per_device_eval_batch_size",
    "evaluation.split": "eval_split",
    "data": "dataset dataset_type dataset_name datasets",
    "data.train": "train train_file train_files train_data train_path training_file data_path dataset_path "
    "data_file data_files data_dir",
    "data.validation": "validation_file val_file eval_file valid_file dev_file validation_data val_data eval_data "
    "val_size val_set_size validation_split validation_size eval_split_size validation_split_percentage",
    "data.test": "test_file test_data",
    "data.columns.article": "text_column source_column input_column dataset_text_field article_column",
    "data.columns.summary": "summary_column target_column output_column label_column",
    "data.columns.id": "id_column",
    "data.rows.train": "max_train_samples max_samples num_train_samples limit_train_batches",
    "data.rows.validation": "max_eval_samples max_val_samples limit_val_batches",
    "data.rows.test": "max_test_samples max_predict_samples",
    "data.config": "dataset_config dataset_config_name",
    "data.processes": "num_workers preprocessing_num_workers dataloader_num_workers num_proc",
    "data.streaming": "streaming",
    "optimizer": "optim optimizer_name",
    "quantization": "quantize quant quantization_config bnb_config bits load_in",
    "tracking": "report_to logger wandb",
    "tracking.project": "project wandb_project project_name",
    "tracking.name": "run_name wandb_name experiment_name",
    "tracking.entity": "entity wandb_entity",
    "tracking.mode": "wandb_mode",
    "seed": "random_seed random_state",
    "resume": "resume_from resume_from_checkpoint checkpoint",
}
"""Names by the key that they stand for."""

_TYPED: Mapping[str, str] = {
    "model=hf model.name_or_path={}": "name_or_path model_name model_name_or_path model_path model_id base_model "
    "base_model_name base_model_name_or_path pretrained_model pretrained_model_name_or_path checkpoint_path",
    "model.revision={}": "revision model_revision",
    "adapter=rslora": "use_rslora",
    "quantization=int8": "load_in_8bit int8",
    "quantization=nf4": "load_in_4bit nf4 qlora",
    "trainer.precision=bf16": "bf16",
    "trainer.precision=fp16": "fp16",
    "trainer.memory=low": "gradient_checkpointing activation_checkpointing",
    "trainer.device=cpu": "use_cpu no_cuda",
    "hydra.run.dir={}": "output_dir out_dir output output_path save_dir work_dir log_dir",
}
"""Names by what to type in their place; {} is the value that they were given."""

_SPREAD = (
    "device_map max_memory fsdp fsdp_config deepspeed ds_config zero_stage zero3 tensor_parallel "
    "tensor_parallel_size tp tp_size tp_plan pipeline_parallel pipeline_parallel_size pp_size model_parallel "
    "offload_folder"
)
"""By which other tools spread one base model over several GPUs, or put parts of it elsewhere."""
NOT_SPREAD = (
    "; a base model is not spread over GPUs here, each process holds all of it: "
    "quantization=nf4 and trainer.memory=low take the least"
)

SYNONYMS: Mapping[str, str] = {
    name: key for table in (_KEYS, _TYPED) for key, names in table.items() for name in names.split()
}


def did_you_mean(name: str, value: object = None, inside: str = "") -> str:
    """How a message goes on after a name of another tool; empty after an unknown one.

    value: what the name was given.  inside: the group that it was written in, whose own keys are called without it.
    """
    if name.lower().replace("-", "_") in _SPREAD.split():
        return NOT_SPREAD
    found = SYNONYMS.get(name.lower().replace("-", "_"))
    if found is None or found == f"{inside}.{name}":  # as optimizer.eps, which not every optimizer has
        return ""
    if "=" in found:
        return f"; did you mean {found.replace('{}', _as_typed(value))}?"
    return f"; did you mean {found.removeprefix(f'{inside}.')!r}?"


def require_no_flags(arguments: Iterable[str]) -> None:
    """Raises ConfigError for settings that are typed as other tools' flags: `--learning_rate 3e-4`."""
    issues = []
    for word, after in pairwise([*arguments, ""]):
        flag, equals, value = word.partition("=")
        name = flag.removeprefix("--")
        hint = did_you_mean(name, value if equals else None if after.startswith("-") else after)
        if flag.startswith("--") and (hint or "." in name):
            issues.append(Issue(flag, f"is no flag; settings are typed as KEY=VALUE{hint}"))
    if issues:
        raise ConfigError(issues)


def _as_typed(value: object) -> str:
    text = str(value)
    return "..." if value is None or isinstance(value, dict | list) or len(text) > LONGEST_VALUE else text
