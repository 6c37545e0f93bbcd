"""One small ViT's weights, drawn once and written out by each source's naming rules and layouts."""

import numpy as np

LAYERS, CHANNELS, MLP, HEAD_DIM, PATCH = 3, 16, 24, 8, 16


def our_state(grid=(4, 4), num_classes=5, pre_logits=False, seed=0):
    """{our weight's path: array}, every tensor drawn."""
    rng = np.random.default_rng(seed)
    shapes = {
        "patch_embedding/kernel": (PATCH, PATCH, 3, CHANNELS),
        "patch_embedding/bias": (CHANNELS,),
        "embedding/class_token": (1, 1, CHANNELS),
        "embedding/class_position": (1, 1, CHANNELS),
        "embedding/patch_positions": (*grid, CHANNELS),
        "encoder_norm/gamma": (CHANNELS,),
        "encoder_norm/beta": (CHANNELS,),
        "head/kernel": (CHANNELS, num_classes),
        "head/bias": (num_classes,),
    }
    if pre_logits:
        shapes |= {"pre_logits/kernel": (CHANNELS, CHANNELS), "pre_logits/bias": (CHANNELS,)}
    for i in range(1, LAYERS + 1):
        for name, shape in {
            "attention/qkv_kernel": (CHANNELS, 3 * CHANNELS),
            "attention/qkv_bias": (3 * CHANNELS,),
            "attention/out/kernel": (CHANNELS, CHANNELS),
            "attention/out/bias": (CHANNELS,),
            "mlp_in/kernel": (CHANNELS, MLP),
            "mlp_in/bias": (MLP,),
            "mlp_out/kernel": (MLP, CHANNELS),
            "mlp_out/bias": (CHANNELS,),
            "attention_norm/gamma": (CHANNELS,),
            "attention_norm/beta": (CHANNELS,),
            "mlp_norm/gamma": (CHANNELS,),
            "mlp_norm/beta": (CHANNELS,),
        }.items():
            shapes[f"encoder_layer{i}/{name}"] = shape
    return {path: rng.normal(0.1, 0.3, shape).astype("float32") for path, shape in shapes.items()}


def _positions(ours):
    """(1, 1 + N, C): the table of the class token and the patches."""
    patches = ours["embedding/patch_positions"]
    patches = patches.reshape(1, -1, patches.shape[-1])
    return np.concatenate([ours["embedding/class_position"], patches], axis=1)


def _layers(ours, rename, split):
    """Tensors of the encoder layers: {rename(i, our part): array}; queries, keys, values apart if `split`."""
    state = {}
    for i in range(sum(path.endswith("/mlp_in/kernel") for path in ours)):
        prefix = f"encoder_layer{i + 1}/"
        for path, array in ours.items():
            if not path.startswith(prefix):
                continue
            part = path.removeprefix(prefix)
            if part.startswith("attention/qkv_") and split:
                kind = part.removeprefix("attention/qkv_")
                for name, third in zip(("query", "key", "value"), np.split(array, 3, axis=-1), strict=True):
                    state[rename(i, f"attention/{name}/{kind}")] = third
            else:
                state[rename(i, part)] = array
    return state


def _torch(state):
    """PyTorch's layouts: dense (C_out, C_in), convolutions (C_out, C_in, H, W)."""
    layout = {4: lambda a: a.transpose(3, 2, 0, 1), 2: lambda a: a.T}
    return {name: np.ascontiguousarray(layout.get(a.ndim, lambda a: a)(a)) for name, a in state.items()}


def _with_heads(name, array, head_dim=HEAD_DIM):
    """Google's and official models' kernels and biases, with an axis for the heads."""
    if any(part in name for part in ("query", "key", "value")):
        return array.reshape(*array.shape[:-1], -1, head_dim)
    if name.endswith(("/out/kernel", "_attention_layer/_output_dense/kernel")):
        return array.reshape(-1, head_dim, array.shape[-1])
    return array


def google(big_vision=False, **kwargs):
    return google_names(our_state(**kwargs), HEAD_DIM, big_vision)


def google_names(ours, head_dim, big_vision=False):
    """Any ViT's weights by our paths, under Google's names."""
    norms, attention, mlp = ("LayerNorm_0", "LayerNorm_2"), "MultiHeadDotProductAttention_1", "MlpBlock_3"
    if big_vision:
        norms, attention, mlp = ("LayerNorm_0", "LayerNorm_1"), "MHDPA_0", "MlpBlock_0"
    groups = {
        "attention_norm": norms[0],
        "mlp_norm": norms[1],
        "mlp_in": f"{mlp}/Dense_0",
        "mlp_out": f"{mlp}/Dense_1",
    }

    def rename(i, part):
        group, kind = part.rsplit("/", 1)
        kind = {"gamma": "scale", "beta": "bias"}.get(kind, kind)
        group = groups.get(group, group.replace("attention/", f"{attention}/"))
        return f"Transformer/encoderblock_{i}/{group}/{kind}"

    state = {name: _with_heads(name, array, head_dim) for name, array in _layers(ours, rename, split=True).items()}
    for name in ("head", "pre_logits"):
        state |= {path: array for path, array in ours.items() if path.startswith(f"{name}/")}
    state["embedding/kernel"], state["embedding/bias"] = (ours[f"patch_embedding/{k}"] for k in ("kernel", "bias"))
    state["Transformer/encoder_norm/scale"] = ours["encoder_norm/gamma"]
    state["Transformer/encoder_norm/bias"] = ours["encoder_norm/beta"]
    state["cls"] = ours["embedding/class_token"]
    if not big_vision:
        return state | {"Transformer/posembed_input/pos_embedding": _positions(ours)}
    state["pos_embedding"] = ours["embedding/patch_positions"].reshape(1, -1, CHANNELS)
    return {f"params/{name}": array for name, array in state.items()}


def huggingface(live=False, **kwargs):
    ours = our_state(**kwargs)
    files = {
        "attention/query": "attention.attention.query",
        "attention/key": "attention.attention.key",
        "attention/value": "attention.attention.value",
        "attention/out": "attention.output.dense",
        "attention_norm": "layernorm_before",
        "mlp_norm": "layernorm_after",
        "mlp_in": "intermediate.dense",
        "mlp_out": "output.dense",
    }
    lives = {
        "attention/query": "attention.q_proj",
        "attention/key": "attention.k_proj",
        "attention/value": "attention.v_proj",
        "attention/out": "attention.o_proj",
        "attention_norm": "layernorm_before",
        "mlp_norm": "layernorm_after",
        "mlp_in": "mlp.fc1",
        "mlp_out": "mlp.fc2",
    }

    def rename(i, part):
        group, kind = part.rsplit("/", 1)
        kind = "bias" if kind in ("beta", "bias") else "weight"
        return f"vit.layers.{i}.{lives[group]}.{kind}" if live else f"vit.encoder.layer.{i}.{files[group]}.{kind}"

    state = _layers(ours, rename, split=True)
    state["vit.embeddings.patch_embeddings.projection.weight"] = ours["patch_embedding/kernel"]
    state["vit.embeddings.patch_embeddings.projection.bias"] = ours["patch_embedding/bias"]
    state["vit.embeddings.cls_token"] = ours["embedding/class_token"]
    state["vit.embeddings.position_embeddings"] = _positions(ours)
    state["vit.layernorm.weight"], state["vit.layernorm.bias"] = ours["encoder_norm/gamma"], ours["encoder_norm/beta"]
    state["classifier.weight"], state["classifier.bias"] = ours["head/kernel"], ours["head/bias"]
    return _torch(state)


def timm(**kwargs):
    ours = our_state(**kwargs)
    groups = {
        "attention/out": "attn.proj",
        "attention_norm": "norm1",
        "mlp_norm": "norm2",
        "mlp_in": "mlp.fc1",
        "mlp_out": "mlp.fc2",
    }

    def rename(i, part):
        group, kind = part.replace("attention/qkv_", "attention/qkv/").rsplit("/", 1)
        kind = "bias" if kind in ("beta", "bias") else "weight"
        return f"blocks.{i}.{groups.get(group, 'attn.qkv')}.{kind}"

    state = _layers(ours, rename, split=False)
    state["patch_embed.proj.weight"], state["patch_embed.proj.bias"] = (
        ours[f"patch_embedding/{kind}"] for kind in ("kernel", "bias")
    )
    state["cls_token"], state["pos_embed"] = ours["embedding/class_token"], _positions(ours)
    state["norm.weight"], state["norm.bias"] = ours["encoder_norm/gamma"], ours["encoder_norm/beta"]
    state["head.weight"], state["head.bias"] = ours["head/kernel"], ours["head/bias"]
    return _torch(state)


def tfm(**kwargs):
    ours = our_state(**kwargs)
    groups = {
        "attention/query": "_attention_layer/_query_dense",
        "attention/key": "_attention_layer/_key_dense",
        "attention/value": "_attention_layer/_value_dense",
        "attention/out": "_attention_layer/_output_dense",
        "attention_norm": "_attention_layer_norm",
        "mlp_norm": "_output_layer_norm",
        "mlp_in": "_intermediate_dense",
        "mlp_out": "_output_dense",
    }

    def rename(i, part):
        group, kind = part.rsplit("/", 1)
        return f"backbone/layer_with_weights-2/_encoder_layers/{i}/{groups[group]}/{kind}"

    state = {name: _with_heads(name, array) for name, array in _layers(ours, rename, split=True).items()}
    state["backbone/layer_with_weights-0/kernel"] = ours["patch_embedding/kernel"]
    state["backbone/layer_with_weights-0/bias"] = ours["patch_embedding/bias"]
    state["backbone/layer_with_weights-1/cls"] = ours["embedding/class_token"]
    state["backbone/layer_with_weights-2/_pos_embed/pos_embedding"] = _positions(ours)
    state["backbone/layer_with_weights-2/_norm/gamma"] = ours["encoder_norm/gamma"]
    state["backbone/layer_with_weights-2/_norm/beta"] = ours["encoder_norm/beta"]
    state["model/layer_with_weights-1/kernel"] = ours["head/kernel"]
    state["model/layer_with_weights-1/bias"] = ours["head/bias"]
    state = {f"{name}/.ATTRIBUTES/VARIABLE_VALUE": array for name, array in state.items()}
    return state | {"save_counter/.ATTRIBUTES/VARIABLE_VALUE": np.array(3)}


# {what a source calls it: (its state, the GELU that it was trained with, its kernel for positions)}
SOURCES = {
    "google": (google, "tanh", "zoom"),
    "big_vision": (lambda **kwargs: google(big_vision=True, **kwargs), "tanh", "zoom"),
    "huggingface": (huggingface, "erf", "bicubic"),
    "huggingface_live": (lambda **kwargs: huggingface(live=True, **kwargs), "erf", "bicubic"),
    "timm": (timm, "erf", "bicubic_antialias"),
    "tfm": (tfm, "tanh", "bilinear"),
}
