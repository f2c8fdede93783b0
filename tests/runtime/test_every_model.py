"""Every causal model type of transformers, tiny and random: our numbers are its own, or one line.

A type that cannot be made tiny by the names below is skipped, and says so.
"""

from runtime import check, engine

import pytest
import torch
from transformers import AutoModelForCausalLM
from transformers.models.auto.configuration_auto import CONFIG_MAPPING
from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

from tasks import InputError

VOCABULARY = 96
SMALL = {  # as far as a type's configuration has the names
    **dict.fromkeys(("hidden_size", "d_model", "n_embd", "dim", "embedding_size"), 32),
    **dict.fromkeys(("num_hidden_layers", "n_layer", "n_layers", "num_layers"), 2),
    **dict.fromkeys(("decoder_layers", "encoder_layers"), 2),
    **dict.fromkeys(("num_attention_heads", "n_head", "n_heads", "num_heads"), 4),
    **dict.fromkeys(("decoder_attention_heads", "encoder_attention_heads"), 4),
    **dict.fromkeys(("num_key_value_heads", "num_kv_heads"), 2),
    **dict.fromkeys(("head_dim", "d_head"), 8),
    **dict.fromkeys(("intermediate_size", "ffn_dim", "d_ff", "n_inner", "ffn_hidden_size"), 48),
    **dict.fromkeys(("decoder_ffn_dim", "encoder_ffn_dim"), 48),
    **dict.fromkeys(("moe_intermediate_size", "shared_expert_intermediate_size"), 16),
    **dict.fromkeys(("num_experts", "num_local_experts", "n_routed_experts"), 4),
    **dict.fromkeys(("num_experts_per_tok", "moe_topk", "moe_k"), 2),
    **dict.fromkeys(("n_group", "topk_group", "n_shared_experts", "num_shared_experts"), 1),
    **dict.fromkeys(("q_lora_rank", "kv_lora_rank", "o_lora_rank"), 16),
    **dict.fromkeys(("qk_nope_head_dim", "qk_rope_head_dim", "v_head_dim"), 8),
    **dict.fromkeys(("max_position_embeddings", "n_positions", "max_seq_len", "n_ctx"), 64),
    **dict.fromkeys(("vocab_size", "text_vocab_size"), VOCABULARY),
    **dict.fromkeys(("sliding_window", "attention_chunk_size", "window_size"), 64),
    **dict.fromkeys(("attention_dropout", "hidden_dropout", "resid_pdrop", "embd_pdrop"), 0.0),
    **dict.fromkeys(("pad_token_id", "bos_token_id", "eos_token_id"), 0),
    "hidden_size_per_layer_input": 8,
    "vocab_size_per_layer_input": VOCABULARY,
    "num_kv_shared_layers": 0,
    "initializer_range": 0.3,  # far from uniform, so that mistakes show
    "is_decoder": True,
    "use_cache": False,
}


MORE = {  # what single types need beside SMALL; None: not this name
    "bamba": {"mamba_n_heads": 4, "mamba_d_head": 16},
    "codegen": {"rotary_dim": 4},
    "dbrx": {"attn_config": {"kv_n_heads": 2}},
    "dots3_note": {"num_key_value_heads": 4},
    "dots3_note_text": {"num_key_value_heads": 4},
    "falcon": {"head_dim": None},
    "gemma4_assistant": {"hidden_size_per_layer_input": 0},
    "gemma4_unified_assistant": {"hidden_size_per_layer_input": 0},
    "gpt_neo": {"attention_types": [[["global", "local"], 1]]},
    "gptj": {"rotary_dim": 4},
    "granitemoehybrid": {"mamba_n_heads": 4, "mamba_d_head": 16},
    "lfm2_moe": {"layer_types": ["conv", "full_attention"]},
    "mamba2": {"num_heads": 4, "head_dim": 16, "n_groups": 1},
    "prophetnet": {"num_encoder_layers": 2, "num_decoder_layers": 2, "num_hidden_layers": None},
    "reformer": {"axial_pos_embds": False},
    "xlnet": {"max_position_embeddings": None},
    "xmod": {"default_language": "en_XX"},
    "xlstm": {"v_head_dim": None},
    "zaya": {"num_experts_per_tok": 1},
}


def has(config, name):
    try:
        return hasattr(config, name)
    except Exception:  # a name that differs from layer to layer is there, and does not tell
        return True


def tiny(model_type):
    """A random model of a type."""
    kind = CONFIG_MAPPING[model_type]
    defaults = kind()
    options = {name: value for name, value in SMALL.items() if has(defaults, name)}
    if "qk_rope_head_dim" in options:
        options |= {"head_dim": None, "num_key_value_heads": 4}  # DeepSeek's attention
    options |= MORE.get(model_type, {})
    config = kind(**{name: value for name, value in options.items() if value is not None})
    inner = config.get_text_config()
    if inner is not config:  # the text half of a model that sees or hears
        inner = type(inner)(**{k: v for k, v in SMALL.items() if has(inner, k)})
        config = kind(text_config=inner.to_dict())
    with torch.device("meta"):
        size = sum(map(torch.Tensor.numel, AutoModelForCausalLM.from_config(config).parameters()))
    if size > 1e8:
        raise ValueError(f"{size / 1e6:.0f}M parameters")
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(config, dtype=torch.float32).eval()
    model(torch.tensor([[1, 2, 3]]))  # its sizes fit together
    return model


AGREED = []


@pytest.mark.slow
@pytest.mark.parametrize("model_type", sorted(MODEL_FOR_CAUSAL_LM_MAPPING_NAMES))
def test_a_model_agrees_with_plain_code_or_is_refused(model_type):
    try:
        model, untouched = tiny(model_type), tiny(model_type)
    except Exception as error:
        pytest.skip(f"cannot be made tiny: {str(error).splitlines()[:1]}")
    try:
        check.check_model(model, 40)
    except InputError as refused:
        assert "\n" not in str(refused)
        return
    ids = torch.randint(1, VOCABULARY, (60,)).tolist()
    prompts = [ids[:9], ids[:9], ids[:20]]
    completions = [ids[20:36], ids[30:46], ids[40:56]]
    with torch.no_grad():
        expected = [
            engine.logprobs_plainly(untouched, prompt, completion, 1.0)
            for prompt, completion in zip(prompts, completions, strict=True)
        ]
        cache = engine.start_decoding(model, prompts)
        sampled = check.decoded_logprobs(model, cache, prompts, completions)
        learnt = check.learnt_logprobs(model, prompts, completions)
    for found in (sampled, learnt):
        torch.testing.assert_close(found, torch.stack(expected), atol=1e-4, rtol=0)
    AGREED.append(model_type)


@pytest.mark.slow
def test_most_types_can_be_trained():
    """A check that refuses all would pass the test above."""
    if not AGREED:
        pytest.skip("after the others only")
    assert len(AGREED) >= 80 and {"llama", "qwen2", "qwen3", "gemma3_text", "gpt2"} <= {*AGREED}
