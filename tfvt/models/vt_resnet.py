"""VT-ResNet (Visual Transformers, Wu et al., ICCV 2021): the last stage of a ResNet as token modules.

Each module groups the pixels of the stride-16 map into a few visual tokens (tokenizer), relates these
(transformer), and writes them back into the map (projector). The classifier reads the mean of the last tokens.
Layers and equations: `tfvt.layers.visual_tokens`. Counts against the paper: docs/fidelity.md.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import keras

from tfvt import layers
from tfvt.layers import drop_path_rates
from tfvt.layers.visual_tokens import Norm
from tfvt.models.base import check_features, classifier, image_input
from tfvt.models.options import BatchNorm, Head, Options, Pixels, spell_out
from tfvt.models.resnet import ResNetOptions, ResNetTrunk
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


# The tokenizers that the first module can have; `tokenize` says what the later ones have.
TOKENIZERS = {
    "filter": layers.FilterTokenizer,
    "cluster": layers.ClusterTokenizer,
    "pool": layers.PoolTokenizer,
}


@dataclass(frozen=True)
class TokenOptions(Options):
    """The token modules after the trunk.

    Args:
        num_modules: token modules.
        output_channels: C, of the map that the projectors write.
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
    """

    num_modules: int
    output_channels: int
    num_tokens: int = 16
    token_dim: int = 1024
    key_dim: int | None = None
    mlp_dim: int | None = None
    tokenizer: Literal[*TOKENIZERS] = "filter"
    recurrent: bool = True
    renewed_tokens: int | None = None
    relation: Literal["transformer", "graph", "none"] = "transformer"
    num_relations: int | None = None
    projector: bool = True
    num_heads: int = 1
    scale_logits: bool = True
    token_norm: Norm = "batch"
    kmeans_iterations: int = 5
    kmeans_gradient: bool = False

    def with_defaults(self) -> "TokenOptions":
        """The same with numbers in place of None."""
        defaults = {
            "key_dim": self.token_dim // 2,
            "mlp_dim": self.token_dim,
            "renewed_tokens": self.num_tokens,
            "num_relations": self.num_modules,
        }
        return replace(self, **{name: value for name, value in defaults.items() if getattr(self, name) is None})


@register(VARIANTS)
@spell_out
def vt_resnet(
    *,
    trunk: ResNetOptions,
    tokens: TokenOptions,
    head: Head,
    pixels: Pixels,
    batch_norm: BatchNorm,
    input_shape: tuple[int | None, int | None, int] = (224, 224, 3),
    drop_path_rate: float = 0.0,
    name: str | None = None,
) -> keras.Model:
    """Build a VT-ResNet.

    Args:
        include_top: False returns the pooled embedding (B, token_dim).
        features: levels to return as a dict level -> map (B, H, W, C), no head: "P2" to "P4"; "P4" is the last
            map that a projector wrote (the trunk's without projectors).
        input_shape: (height, width, channels) in pixels, at least the stride of the trunk (16).
        drop_path_rate: stochastic depth of the last module; blocks and modules rise linearly to it (Huang et
            al. 2016, eq. 4, as the paper cites it).
        name: of the model.

    Returns:
        A `keras.Model` from pixels (B, H, W, 3) in 0..255 to logits, the embedding or the dict of maps.
    """
    num_blocks = sum(trunk.depths)
    rates = drop_path_rates(drop_path_rate, num_blocks + tokens.num_modules, first_drops=True)
    stages = ResNetTrunk(trunk, batch_norm, rates[:num_blocks])
    modules = TokenModules(tokens.with_defaults(), batch_norm, rates[num_blocks:])
    if head.features is not None:
        check_features(head.features, stages.level_names())
    inputs, x = image_input(input_shape, minimum=stages.stride(), pixels=pixels)
    levels, last = stages(x), stages.level_names()[-1]
    levels[last], last_tokens = modules(levels[last])
    if head.features is not None:
        return keras.Model(inputs, {level: levels[level] for level in head.features}, name=name)
    x = keras.layers.GlobalAveragePooling1D(name="pool")(last_tokens)
    if head.include_top:
        x = classifier(x, head)
    return keras.Model(inputs, x, name=name)


@dataclass(frozen=True)
class TokenModules:
    """The token modules, one per drop path rate. Called on a map, gives the last map written and the last tokens."""

    options: TokenOptions  # with defaults
    batch_norm: BatchNorm
    drop_path_rates: Sequence[float]

    def __post_init__(self):
        options = self.options
        for argument in ("token_dim", "key_dim"):  # keys and queries of the transformer are linears in two groups
            if options.relation == "transformer" and getattr(options, argument) % 2:
                raise ValueError(f"{argument}={getattr(options, argument)}: expected an even number")
        for argument, most in (("renewed_tokens", "num_tokens"), ("num_relations", "num_modules")):
            if getattr(options, argument) > getattr(options, most):
                raise ValueError(
                    f"{argument}={getattr(options, argument)}: expected at most {most}={getattr(options, most)}"
                )
        for argument in ("token_dim", "key_dim", "output_channels"):
            if getattr(options, argument) % options.num_heads:
                raise ValueError(
                    f"num_heads={options.num_heads}: expected a divisor of {argument}={getattr(options, argument)}"
                )

    def __call__(self, x):
        tokens = None
        for module, rate in enumerate(self.drop_path_rates):
            name = f"vt{module + 1}"
            if tokens is None or self.options.projector:  # without projectors the map has nothing new to tokenise
                tokens, _ = self.tokenizer(tokens is None, f"{name}_tokenizer")(x, tokens)
            if module < self.options.num_relations:
                tokens = self.relation(rate, f"{name}_relation")(tokens)
            if self.options.projector and module < self.options.num_modules - 1:
                options = self.attention() | self.norms() | {"drop_path_rate": rate, "name": f"{name}_projector"}
                x = layers.Projector(self.options.output_channels, **options)(x, tokens)
        return x, tokens

    def tokenizer(self, first: bool, name: str) -> layers.Tokenizer:
        """A layer (map, tokens of the module before or None) -> (tokens, attention)."""
        options = self.norms() | {"name": name}
        if first or self.options.tokenizer == "pool":  # the paper's pooling row fits only if every module pools
            if self.options.tokenizer == "cluster":
                options |= {"iterations": self.options.kmeans_iterations, "gradient": self.options.kmeans_gradient}
            return TOKENIZERS[self.options.tokenizer](self.options.num_tokens, self.options.token_dim, **options)
        if not self.options.recurrent:
            return layers.FilterTokenizer(self.options.num_tokens, self.options.token_dim, **options)
        options["scale_logits"] = self.options.scale_logits
        return layers.RecurrentTokenizer(self.options.renewed_tokens, self.options.token_dim, **options)

    def relation(self, drop_path_rate: float, name: str) -> layers.TokenTransformer | layers.TokenGraph:
        """A layer tokens -> tokens."""
        options = self.norms() | {"drop_path_rate": drop_path_rate, "name": name}
        if self.options.relation == "transformer":
            options |= self.attention()
            return layers.TokenTransformer(self.options.key_dim, self.options.mlp_dim, **options)
        return layers.TokenGraph(adjacency=self.options.relation == "graph", **options)

    def attention(self) -> dict[str, Any]:
        return {"num_heads": self.options.num_heads, "scale_logits": self.options.scale_logits}

    def norms(self) -> dict[str, Any]:
        norm = self.options.token_norm
        return {"norm": norm, "norm_options": self.batch_norm.keras_arguments() if norm == "batch" else {}}
