"""VT-ResNet (Visual Transformers, Wu et al., ICCV 2021): the last stage of a ResNet as token modules.

Each module groups the pixels of the stride-16 map into a few visual tokens (tokenizer), relates these
(transformer), and writes them back into the map (projector). The classifier reads the mean of the last tokens.
Layers and equations: `tfvt.layers.visual_tokens`. Counts against the paper: docs/fidelity.md.
"""

from dataclasses import dataclass
from typing import Literal

import keras

from tfvt import layers
from tfvt.checks import check_choice
from tfvt.layers import drop_path_rates
from tfvt.layers.visual_tokens import NORMS
from tfvt.models.base import IMAGENET_MEAN, IMAGENET_STD, check_features, classifier, image_input
from tfvt.models.resnet import ResNetTrunk, batch_norm_options
from tfvt.registry import register

VARIANTS = {
    "vt_resnet18": {"block": "basic", "depths": (2, 2, 2), "num_modules": 2, "output_channels": 512},
    "vt_resnet34": {"block": "basic", "depths": (3, 4, 6), "num_modules": 3, "output_channels": 512},
    "vt_resnet50": {
        "block": "bottleneck", "depths": (3, 4, 6), "num_modules": 3, "output_channels": 1024, "stride_in_1x1": True,
    },
    "vt_resnet101": {
        "block": "bottleneck", "depths": (3, 4, 23), "num_modules": 3, "output_channels": 1024, "stride_in_1x1": True,
    },
}  # fmt: skip


@register(VARIANTS)
def vt_resnet(
    *,
    block: Literal["basic", "bottleneck"],
    depths: tuple[int, ...],
    num_modules: int,
    output_channels: int,
    num_classes: int = 1000,
    input_shape: tuple[int | None, int | None, int] = (224, 224, 3),
    include_top: bool = True,
    features: tuple[str, ...] | None = None,
    pixel_mean: tuple[float, ...] | None = IMAGENET_MEAN,
    pixel_std: tuple[float, ...] | None = IMAGENET_STD,
    dropout_rate: float = 0.0,
    drop_path_rate: float = 0.0,
    batch_norm_epsilon: float = 1e-5,
    batch_norm_momentum: float = 0.9,
    synchronized_batch_norm: bool = False,
    width: int = 64,
    stem_pool: bool = True,
    stride_in_1x1: bool = False,
    zero_init_last_norm: bool = False,
    num_tokens: int = 16,
    token_dim: int = 1024,
    key_dim: int | None = None,
    mlp_dim: int | None = None,
    tokenizer: Literal["filter", "cluster", "pool"] = "filter",
    recurrent: bool = True,
    renewed_tokens: int | None = None,
    relation: Literal["transformer", "graph", "none"] = "transformer",
    num_relations: int | None = None,
    projector: bool = True,
    num_heads: int = 1,
    scale_logits: bool = True,
    token_norm: Literal["batch", "layer", "none"] = "batch",
    kmeans_iterations: int = 5,
    kmeans_gradient: bool = False,
    name: str | None = None,
) -> keras.Model:
    """Build a VT-ResNet.

    Args:
        block, depths, width, stem_pool, stride_in_1x1, zero_init_last_norm: of the trunk, see `resnet`.
        num_modules: token modules after the trunk.
        output_channels: C, of the map that the projectors write.
        num_classes: width of the classifier.
        input_shape: (height, width, channels) in pixels, at least the stride of the trunk (16).
        include_top: False returns the pooled embedding (B, token_dim).
        features: levels to return as a dict level -> map (B, H, W, C), no head: "P2" to "P4"; "P4" is the last
            map that a projector wrote (the trunk's without projectors).
        pixel_mean, pixel_std: per channel, in pixel units; pixel_mean=None takes normalised floats.
        dropout_rate: on the embedding, before the classifier.
        drop_path_rate: stochastic depth of the last module; blocks and modules rise linearly to it (Huang et
            al. 2016, eq. 4, as the paper cites it).
        batch_norm_epsilon, batch_norm_momentum, synchronized_batch_norm: of every batch norm, see `resnet`.
        num_tokens: L.
        token_dim: CT, channels of a token.
        key_dim: of the transformer's keys; default CT / 2.
        mlp_dim: between the transformer's two pointwise linears; default CT.
        tokenizer: of the first module: "filter" (eq. 1), "cluster" (eq. 6) or "pool"; "pool" pools in every module.
        recurrent: later modules have recurrent tokenizers (eq. 2); False: filter tokenizers with weights of
            their own (Table 4).
        renewed_tokens: tokens that a recurrent tokenizer renews, the others pass unchanged; default all.
        relation: between tokens: "transformer" (eq. 3, 4), "graph" or "none" (Table 5).
        num_relations: modules, from the first, that relate their tokens; the others pass them on as their tokenizers
            give them; default all. With 2 of its 3, a VT-ResNet-34 has the 19.2 M parameters of Table 8.
        projector: False: tokenise once, then stack the relations (Table 7).
        num_heads: of the transformer and the projectors.
        scale_logits: divide logits of two learned vectors by the square root of their width per head.
        token_norm: after every linear of the modules except W_A and the adjacency.
        kmeans_iterations, kmeans_gradient: of the cluster tokenizer, see `ClusterTokenizer`.
        name: of the model.

    Returns:
        A `keras.Model` from pixels (B, H, W, 3) in 0..255 to logits, the embedding or the dict of maps.
    """
    num_blocks = sum(depths)
    rates = drop_path_rates(drop_path_rate, num_blocks + num_modules, first_drops=True)
    batch_norm = batch_norm_options(batch_norm_epsilon, batch_norm_momentum, synchronized_batch_norm)
    trunk = ResNetTrunk(
        block=block,
        depths=depths,
        width=width,
        stem_pool=stem_pool,
        stride_in_1x1=stride_in_1x1,
        zero_init_last_norm=zero_init_last_norm,
        drop_path_rates=tuple(rates[:num_blocks]),
        norm_options=batch_norm,
    )
    modules = TokenModules(
        drop_path_rates=tuple(rates[num_blocks:]),
        output_channels=output_channels,
        num_tokens=num_tokens,
        token_dim=token_dim,
        key_dim=token_dim // 2 if key_dim is None else key_dim,
        mlp_dim=token_dim if mlp_dim is None else mlp_dim,
        tokenizer=tokenizer,
        recurrent=recurrent,
        renewed_tokens=num_tokens if renewed_tokens is None else renewed_tokens,
        relation=relation,
        num_relations=num_modules if num_relations is None else num_relations,
        projector=projector,
        num_heads=num_heads,
        scale_logits=scale_logits,
        kmeans={"iterations": kmeans_iterations, "gradient": kmeans_gradient},
        norm=token_norm,
        norm_options=batch_norm if token_norm == "batch" else {},
    )
    last = trunk.level_names()[-1]
    if features is not None:
        check_features(features, trunk.level_names())
    inputs, x = image_input(input_shape, minimum=trunk.stride(), pixel_mean=pixel_mean, pixel_std=pixel_std)
    levels = trunk(x)
    levels[last], tokens = modules(levels[last])
    if features is not None:
        return keras.Model(inputs, {level: levels[level] for level in features}, name=name)
    x = keras.layers.GlobalAveragePooling1D(name="pool")(tokens)
    if include_top:
        x = classifier(x, num_classes, dropout_rate)
    return keras.Model(inputs, x, name=name)


@dataclass(frozen=True)
class TokenModules:
    """The token modules, one per drop path rate. Called on a map, gives the last map written and the last tokens."""

    drop_path_rates: tuple[float, ...]
    output_channels: int
    num_tokens: int
    token_dim: int
    key_dim: int
    mlp_dim: int
    tokenizer: str
    recurrent: bool
    renewed_tokens: int
    relation: str
    num_relations: int
    projector: bool
    num_heads: int
    scale_logits: bool
    kmeans: dict
    norm: str
    norm_options: dict

    def __post_init__(self):
        check_choice("tokenizer", self.tokenizer, ("filter", "cluster", "pool"))
        check_choice("relation", self.relation, ("transformer", "graph", "none"))
        check_choice("token_norm", self.norm, NORMS)
        for argument in ("token_dim", "key_dim"):  # keys and queries of the transformer are linears in two groups
            if self.relation == "transformer" and getattr(self, argument) % 2:
                raise ValueError(f"{argument}={getattr(self, argument)}: expected an even number")
        if self.renewed_tokens > self.num_tokens:
            raise ValueError(f"renewed_tokens={self.renewed_tokens}: expected at most num_tokens={self.num_tokens}")
        if self.num_relations > len(self.drop_path_rates):
            raise ValueError(
                f"num_relations={self.num_relations}: expected at most num_modules={len(self.drop_path_rates)}"
            )
        for argument in ("token_dim", "key_dim", "output_channels"):
            if getattr(self, argument) % self.num_heads:
                raise ValueError(
                    f"num_heads={self.num_heads}: expected a divisor of {argument}={getattr(self, argument)}"
                )

    def __call__(self, x):
        tokens = None
        for module, rate in enumerate(self.drop_path_rates):
            name = f"vt{module + 1}"
            if tokens is None or self.projector:  # without projectors the map has nothing new to tokenise
                tokens = self.tokenize(x, tokens, f"{name}_tokenizer")
            if module < self.num_relations:
                tokens = self.relate(tokens, rate, f"{name}_relation")
            if self.projector and module < len(self.drop_path_rates) - 1:
                x = layers.Projector(
                    self.output_channels,
                    drop_path_rate=rate,
                    name=f"{name}_projector",
                    **self.attention(),
                    **self.norms(),
                )(x, tokens)
        return x, tokens

    def tokenize(self, x, tokens, name):
        kind = self.tokenizer
        if tokens is not None and kind != "pool":  # the paper's pooling row fits only if every module pools
            kind = "recurrent" if self.recurrent else "filter"
        if kind == "pool":
            return layers.PoolTokenizer(self.num_tokens, self.token_dim, name=name, **self.norms())(x)
        if kind == "recurrent":
            tokens, _ = layers.RecurrentTokenizer(
                self.renewed_tokens, self.token_dim, self.scale_logits, name=name, **self.norms()
            )(x, tokens)
        elif kind == "cluster":
            tokens, _ = layers.ClusterTokenizer(
                self.num_tokens, self.token_dim, name=name, **self.kmeans, **self.norms()
            )(x)
        else:
            tokens, _ = layers.FilterTokenizer(self.num_tokens, self.token_dim, name=name, **self.norms())(x)
        return tokens

    def relate(self, tokens, drop_path_rate, name):
        options = {"drop_path_rate": drop_path_rate, "name": name} | self.norms()
        if self.relation == "transformer":
            return layers.TokenTransformer(self.key_dim, self.mlp_dim, **self.attention(), **options)(tokens)
        return layers.TokenGraph(adjacency=self.relation == "graph", **options)(tokens)

    def attention(self):
        return {"num_heads": self.num_heads, "scale_logits": self.scale_logits}

    def norms(self):
        return {"norm": self.norm, "norm_options": self.norm_options}
