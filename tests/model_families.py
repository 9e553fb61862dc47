"""Tiny random models of every causal family that the installed transformers has, built by rule.

A config's default is kept but for its sizes, which are given by the names of its fields; what no
rule can know stands in MORE.
"""

from __future__ import annotations

import dataclasses
from typing import Any

from transformers import CONFIG_MAPPING, AutoConfig
from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

# Families of which no tiny model is made here, and why.
NOT_TRIED = {
    "blt": "its sizes hang together in more ways than a rule knows",
    "dots3_note": "its default layers are named one by one",
    "gemma3n": "its images need the package timm",
    "gemma4_assistant": "a drafting head for another model",
    "gemma4_unified_assistant": "a drafting head for another model",
    "musicgen": "gives audio",
    "musicgen_melody": "gives audio",
    "phimoe": "routes its tokens at random in training",
    "qwen4_exp": "its sizes hang together in more ways than a rule knows",
    "qwen4_exp_text": "its sizes hang together in more ways than a rule knows",
}
FAMILIES = sorted(set(MODEL_FOR_CAUSAL_LM_MAPPING_NAMES) - set(NOT_TRIED))
VOCABULARY = 71
POSITIONS = 256

WIDTH, HEADS, GROUPS, HEAD, LAYERS, EXPERTS = 32, 4, 2, 8, 2, 4
# The value of a field by its name.
SIZES: list[tuple[int, str]] = [
    (VOCABULARY, """vocab_size decoder_vocab_size vocab_size_per_layer_input unpadded_vocab_size
        entity_vocab_size"""),
    (POSITIONS, """max_position_embeddings n_positions n_ctx max_seq_len max_target_positions
        context_length max_source_positions model_max_length"""),
    (WIDTH, """hidden_size d_model n_embd embedding_size emb_dim embedding_dim lru_width
        attention_hidden_size word_embed_proj_dim input_embedding_size output_embedding_size
        projection_dim out_hidden_size pronunciation_embed_dim shape_embed_dim output_dim
        backbone_hidden_size"""),
    (48, """intermediate_size ffn_dim ffn_hidden_size d_inner decoder_ffn_dim encoder_ffn_dim dff
        dim_ff intermediate_size_mlp dense_intermediate_size feed_forward_size n_inner"""),
    (24, """moe_intermediate_size shared_expert_intermediate_size expert_ffn_hidden_size
        shared_intermediate_size shared_experts_intermediate_size
        moe_shared_expert_intermediate_size"""),
    (HEADS, """num_attention_heads n_head n_heads num_heads decoder_attention_heads attention_heads
        encoder_attention_heads swa_num_attention_heads num_encoder_attention_heads
        num_decoder_attention_heads linear_num_value_heads linear_num_heads index_n_heads
        linear_num_key_heads"""),
    (GROUPS, """num_key_value_heads num_kv_heads swa_num_key_value_heads num_experts_per_tok
        num_experts_per_token moe_topk moe_k num_query_groups decoder_layers encoder_layers
        num_hidden_layers n_layer n_layers num_layers num_decoder_layers num_encoder_layers
        depth num_blocks moe_topk"""),
    (HEAD, """head_dim d_head kv_channels v_head_dim qk_nope_head_dim swa_head_dim dim_head
        attention_head_size linear_key_head_dim linear_value_head_dim linear_head_dim
        index_head_dim query_pre_attn_scalar hidden_size_per_layer_input mamba_d_state
        mamba_d_head mamba_head_dim mamba_headdim ssm_state_size state_size mamba_n_heads
        n_mamba_heads mamba_num_heads time_step_rank laurel_rank adapter_rank
        mamba_dt_rank"""),
    (EXPERTS, """num_experts n_routed_experts num_local_experts moe_num_experts rotary_dim
        qk_rope_head_dim"""),
    (16, """q_lora_rank kv_lora_rank chunk_size mamba_chunk_size block_size sliding_window
        sliding_window_size attention_window_size window_size attention_chunk_size
        local_attention o_lora_rank gated_norm_rank router_hidden_size keep_window_size
        local_attn_chunk_length lsh_attn_chunk_length"""),
    (12, "qk_head_dim"),
    (1, """n_group topk_group num_expert_group n_groups mamba_n_groups mamba_ngroups
        first_k_dense_replace num_shared_experts moe_num_shared_experts n_shared_experts
        num_dense_layers num_nextn_predict_layers o_groups"""),
]  # fmt: skip
BY_NAME: dict[str, Any] = {name: size for size, names in SIZES for name in names.split()}
# Which of equal scores are chosen would depend on the padding: every key is.
BY_NAME |= {"index_topk": 64}
BY_NAME |= {"pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2, "initializer_range": 0.1}
# Scales of logits, which are 1 by default.
BY_NAME |= {"logits_scaling": 4.0, "lm_head_multiplier": 0.5}

MORE: dict[str, dict[str, Any]] = {
    "bamba": {"attn_layer_indices": [1]},
    "cohere_compass_text": {
        "logit_scale": 0.25,
        "rope_parameters": {"full_attention": {"rope_type": "default", "rope_theta": 1e4}},
    },
    "dbrx": {
        "attn_config": {"rope_theta": 1e4, "kv_n_heads": GROUPS, "clip_qkv": 8.0},
        "ffn_config": {"ffn_hidden_size": 48},
    },
    "lfm2_moe": {"layer_types": ["conv", "full_attention"]},
    "dots3_note_text": {"num_key_value_heads": HEADS},
    "falcon_h1": {"mamba_d_ssm": 64},
    "gemma3_text": {"final_logit_softcapping": 5.0},
    "gemma4_text": {"final_logit_softcapping": 5.0},
    "gemma3n_text": {"num_kv_shared_layers": 0},
    "gpt_neo": {"attention_types": [[["global", "local"], 1]]},
    "jamba": {"attn_layer_period": 2, "attn_layer_offset": 1},
    "hrm_text": {"num_layers_per_stack": 1},
    "longcat_flash": {"head_dim": 4, "zero_expert_num": 2},
    "mamba2": {"num_heads": 8},
    "reformer": {"is_decoder": True, "axial_pos_shape": [16, 16], "axial_pos_embds_dim": [16, 16]},
    "xmod": {"default_language": "en_XX"},
    "youtu": {"pad_token_id": None},  # transformers sets that token's embedding to 0 at each load
    "zamba": {
        "num_hidden_layers": 3,
        "n_mamba_heads": 2,
        "layer_types": ["linear_attention", "hybrid", "hybrid"],
        "attention_hidden_size": 2 * WIDTH,
        "attention_head_dim": 16,
    },
    "zamba2": {"layers_block_type": ["mamba", "hybrid"], "attention_head_dim": 16},
    "zaya": {"num_experts_per_tok": 1},
}


def fields_of(kind: Any) -> dict[str, Any]:
    """The fields of a config class that a rule gives another value."""
    fields = dataclasses.fields(kind)
    names = [field.name for field in fields]
    given = {name: BY_NAME[name] for name in names if name in BY_NAME}
    given |= {
        f.name: type(f.default)(0)
        for f in fields
        if "drop" in f.name and isinstance(f.default, int | float)
    }
    if "kv_lora_rank" in given and "num_key_value_heads" in given:
        given["num_key_value_heads"] = HEADS
    for name, sub in kind.sub_configs.items():
        default = getattr(kind(), name, None)
        if default is not None:
            given[name] = fields_of(type(default) if sub is AutoConfig else sub)
            if sub is AutoConfig:
                given[name]["model_type"] = default.model_type
    return given


# Families whose first two layers would be alike: the kinds of theirs.
MIXED = {
    "conv": "lfm2 lfm2_moe lfm3",
    "linear_attention": """bailing_hybrid granitemoehybrid kimi_linear qwen3_5_text qwen3_5_moe_text
        qwen3_next qwen4_exp_text qwen3_5 qwen3_5_moe qwen4_exp""",
}


def tiny_config(family: str) -> Any:
    """The config of a tiny model of a family."""
    kind = CONFIG_MAPPING[family]
    config = kind(**{**fields_of(kind), **MORE.get(family, {})})
    for first, families in MIXED.items():
        if family in families.split():
            second = "indexed_attention" if family.startswith("qwen4") else "full_attention"
            config.get_text_config(decoder=True).layer_types = [first, second]
    return config
