"""Attention, written once."""

from keras import ops


def multi_head_attention(query, key, value, num_heads=1, scale=True):
    """Soft-max over the keys of query key^T, times value.

    Args:
        query: (B, Q, D) with D a multiple of num_heads; Q may be unknown.
        key: (B, K, D).
        value: (B, K, C) with C a multiple of num_heads.
        num_heads: heads that share the channels in equal consecutive parts.
        scale: divide the logits by the square root of the key width per head (Vaswani et al. 2017).

    Returns:
        (B, Q, C).
    """
    key_dim = query.shape[-1] // num_heads
    if scale:
        query = query * key_dim**-0.5
    if num_heads > 1:
        query, key, value = (_split_heads(x, num_heads) for x in (query, key, value))
    weights = ops.softmax(ops.matmul(query, ops.swapaxes(key, -1, -2)), axis=-1)
    outputs = ops.matmul(weights, value)
    if num_heads > 1:
        outputs = ops.transpose(outputs, (0, 2, 1, 3))
        outputs = ops.reshape(outputs, (*ops.shape(outputs)[:2], outputs.shape[2] * outputs.shape[3]))
    return outputs


def attention_macs(num_queries, num_keys, key_width, value_width):
    """Multiply-adds of query key^T and of weights times value, all heads, for one image."""
    return num_queries * num_keys * (key_width + value_width)


def _split_heads(x, num_heads):
    """(B, L, C) -> (B, num_heads, L, C / num_heads)."""
    x = ops.reshape(x, (*ops.shape(x)[:2], num_heads, x.shape[-1] // num_heads))
    return ops.transpose(x, (0, 2, 1, 3))
