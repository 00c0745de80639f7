"""A tiny config of any causal architecture of transformers: known sizes under whatever names its class has."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from transformers import MODEL_FOR_CAUSAL_LM_MAPPING, AutoConfig, PretrainedConfig

VOCABULARY = 96
PAD, START, END = 0, 1, 2
SIZES: dict[int, str] = {
    VOCABULARY: "vocab_size vocab_size_per_layer_input decoder_vocab_size",
    32: "out_hidden_size adapter_in_dim adapter_out_dim adapter_input_size "
    "hidden_size d_model n_embd dim embed_dim emb_dim embedding_size word_embed_proj_dim embedding_dim "
    "encoder_hidden_dim q_lora_rank index_head_dim audio_vocab_size hidden_dim "
    "dim_model cross_attention_hidden_size",
    48: "intermediate_size ffn_dim n_inner d_ff decoder_ffn_dim encoder_ffn_dim ffn_hidden_size dim_ff d_inner "
    "moe_intermediate_size shared_expert_intermediate_size shared_intermediate_size expert_ffn_hidden_size "
    "feed_forward_size moe_shared_expert_intermediate_size",
    2: "depth num_hidden_layers n_layer n_layers num_layers decoder_layers encoder_layers num_blocks "
    "num_encoder_layers num_decoder_layers num_key_value_heads num_experts_per_tok num_experts_per_token "
    "moe_k moe_topk moe_top_k top_k_experts linear_num_key_heads index_topk_heads index_n_heads",
    4: "num_attention_heads n_head n_heads decoder_attention_heads encoder_attention_heads num_heads num_experts "
    "n_routed_experts num_local_experts moe_num_experts linear_num_value_heads mamba_n_heads mamba_num_heads "
    "time_step_rank num_encoder_attention_heads num_decoder_attention_heads linear_conv_kernel_dim",
    8: "head_dim qk_rope_head_dim qk_nope_head_dim v_head_dim state_size mamba_d_state linear_key_head_dim "
    "linear_value_head_dim sliding_window attention_window attention_window_size ssm_state_size "
    "hidden_size_per_layer_input swa_head_dim qk_head_dim global_head_dim",
    16: "kv_lora_rank mamba_d_head mamba_head_dim lru_width_unused d_kv chunk_size mamba_chunk_size",
    128: "max_position_embeddings n_positions n_ctx max_sequence_length max_seq_len max_target_positions "
    "max_source_positions",
    1: "n_group topk_group mamba_n_groups n_groups first_k_dense_replace n_shared_experts num_shared_experts "
    "type_vocab_size moe_num_shared_experts",
}  # fmt: skip
TOKENS = {"pad_token_id": PAD, "bos_token_id": START, "eos_token_id": END, "decoder_start_token_id": START}

DECODER = {"is_decoder": True}
"""Encoders that compute as decoders where their config says so."""
HYBRID = {"num_hidden_layers": 4}
HYBRID_PART = {"text_config": HYBRID}
OVERRIDES: dict[str, dict[str, Any]] = {
    **dict.fromkeys(
        (
            *("bert", "bert-generation", "big_bird", "camembert", "data2vec-text", "electra", "ernie"),
            *("prophetnet", "megatron-bert", "rembert", "roberta", "roberta-prelayernorm", "roc_bert"),
            *("roformer", "xmod", "xlm-roberta", "xlm-roberta-xl"),
        ),
        DECODER,
    ),
    "bailing_hybrid": {"num_hidden_layers": 4, "layer_group_size": 2, "num_local_experts": 4},
    "bamba": {"num_hidden_layers": 4, "attn_layer_indices": [1, 3]},
    "codegen": {"rotary_dim": 4},
    "dory": {"num_hidden_layers": 4, "n_input_layers": 1, "n_output_layers": 1, "n_recurrent_layers": 2},
    "falcon_h1": {"mamba_d_ssm": 64},
    "cohere_compass_text": {
        "layer_types": ["full_attention"] * 2,
        "rope_parameters": {
            "full_attention": {"rope_type": "default", "rope_theta": 1e4, "mrope_section": [2, 1, 1]}
        },
    },
    "dbrx": {"attn_config": {"rope_theta": 1e4, "kv_n_heads": 2}},
    **dict.fromkeys(("qwen3_5_text", "qwen3_5_moe_text", "qwen3_next", "qwen4_exp_text"), HYBRID),
    **dict.fromkeys(("qwen3_5", "qwen3_5_moe", "qwen4_exp"), HYBRID_PART),
    **dict.fromkeys(("kimi_linear", "lfm3", "recurrent_gemma"), HYBRID),
    "granitemoehybrid": {"layer_types": ["linear_attention", "full_attention"]},
    "gpt_neo": {"attention_types": [[["global", "local"], 1]], "window_size": 8},
    "gptj": {"rotary_dim": 4},
    "jamba": {"attn_layer_period": 2, "attn_layer_offset": 1, "expert_layer_period": 2, "expert_layer_offset": 1},
    "lfm2_moe": {"layer_types": ["conv", "full_attention"], "num_dense_layers": 1},
    "longcat_flash": {"qk_head_dim": 16},
    "mamba2": {"head_dim": 16},
    "xlm": {"causal": True},
    "reformer": {"is_decoder": True, "axial_pos_shape": [8, 16], "axial_pos_embds_dim": [16, 16]},
    "gemma3n_text": {
        "num_hidden_layers": 4,
        "num_kv_shared_layers": 2,
        "laurel_rank": 4,
        "layer_types": ["full_attention", "sliding_attention"] * 2,
    },
    "gemma4_assistant": {
        "text_config": {"hidden_size_per_layer_input": 0, "vocab_size_per_layer_input": 0},
        "backbone_hidden_size": 32,
    },
}  # fmt: skip
"""What an architecture wants beside SIZES, by its model_type."""


def model_types() -> list[str]:
    """Of every causal architecture that `AutoModelForCausalLM` knows, by name."""
    return sorted({config.model_type for config in MODEL_FOR_CAUSAL_LM_MAPPING})


def tiny_config(model_type: str) -> PretrainedConfig:
    """Raises whatever the class raises on such sizes."""
    kinds = {config.model_type: config for config in MODEL_FOR_CAUSAL_LM_MAPPING}
    return _tiny(kinds[model_type], OVERRIDES.get(model_type, {}))


def _tiny(kind: type[PretrainedConfig], overrides: dict[str, Any]) -> PretrainedConfig:
    names = set(_declared(kind))
    given: dict[str, Any] = {
        name: size for size, listed in SIZES.items() for name in listed.split() if name in names
    }
    if "kv_lora_rank" in names:  # latent attention has keys and values for every head
        given["num_key_value_heads"] = given["num_attention_heads"]
    given |= {name: token for name, token in TOKENS.items() if name in names}
    for name, part in _parts(kind).items():
        own = overrides.get(name, {})
        given[name] = _tiny(part, own).to_dict()
    return kind(**(given | {name: value for name, value in overrides.items() if name not in _parts(kind)}))


def _parts(kind: type[PretrainedConfig]) -> dict[str, type[PretrainedConfig]]:
    """The configs inside a config, such as a text model's in that of one that sees images too."""
    found: dict[str, type[PretrainedConfig]] = {}
    for name, part in getattr(kind, "sub_configs_defaults", {}).items():
        default = part.config_class
        found[name] = type(AutoConfig.for_model(part.model_type)) if default is AutoConfig else default
    for name, default in getattr(kind, "sub_configs", {}).items():
        if name not in found and isinstance(default, type) and issubclass(default, PretrainedConfig):
            found[name] = default
    return found


def _declared(kind: type[PretrainedConfig]) -> Iterable[str]:
    for base in kind.__mro__:
        yield from getattr(base, "__annotations__", {})
    yield from getattr(kind, "attribute_map", {})
