"""A transformers model's forward pass with our attention in place of its own.

A cache (kv_cache.py) and a tree of prefixes (engine.py) both compute what the model would, and
differ from it in one thing: which tokens a query reads. So they replace the attention and nothing
else, on any model of transformers that lets its attention be replaced.
"""

import math

import torch.nn.functional as F
import transformers

from tasks import InputError

NAME = "from_context"  # ours, among transformers' attention implementations


def forward(model, ids, positions, context, logits_to_keep=0):
    """Logits (b, t, V) of ids (b, t), or of the last columns; context.attend does the attention."""
    if model.config._attn_implementation != NAME:  # the first time
        model.set_attn_implementation(NAME)
    return model(
        input_ids=ids,
        position_ids=positions,
        use_cache=False,  # transformers' own
        logits_to_keep=logits_to_keep,
        context=context,  # travels through the layers to `attention`
    ).logits


def attention(module, query, key, value, attention_mask, scaling=None, context=None, **kwargs):
    """What every layer of a transformers model calls in place of its own attention.

    query (b, H, t, d), key and value (b, K, t, d), H a multiple of K -> (b, t, H, d).
    """
    for name in ("softcap", "s_aux"):
        if kwargs.get(name) is not None:
            raise InputError(f"its attention needs {name}, which ours does not do")
    scaling = scaling or query.shape[-1] ** -0.5
    if context is None:
        output = causal_attention(query, key, value, scaling)
    else:
        window = kwargs.get("sliding_window") or math.inf  # a query reads so many keys at most
        context.window = min(context.window, window)
        output = context.attend(module.layer_idx, query, key, value, scaling)
    return output.transpose(1, 2), None


transformers.AttentionInterface.register(NAME, attention)


def causal_attention(query, key, value, scaling):
    """query (b, H, t, d), key and value (b, K, t, d) -> (b, H, t, d).

    Rows are padded on the right, where causality hides the padding: no mask is needed.
    """
    grouped = query.shape[1] != key.shape[1]
    return F.scaled_dot_product_attention(
        query, key, value, is_causal=True, scale=scaling, enable_gqa=grouped
    )
