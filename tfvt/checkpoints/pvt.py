"""PVT weights under the authors' names, and under those of transformers' `PvtForImageClassification`.

PyTorch's layouts. Two norms of the authors' code, that of the patches and that of the reduced map, have an epsilon of
1e-5 where the others, and all of ours, have 1e-6. Only the last of the four stages has a class token.
"""

from tfvt.checkpoints.files import Checkpoint, read_neighbour
from tfvt.checkpoints.formats import Format, Training
from tfvt.checkpoints.layouts import positions, token_and_patches
from tfvt.checkpoints.renaming import Table, below
from tfvt.models.options import IMAGENET_MEAN, IMAGENET_STD

_LAST_POSITIONS = ("stage4_positions/token_position", "stage4_positions/patch_positions")

_AUTHORS_BLOCK = (
    ("norm1.*", "mixer_norm/*"),
    ("attn.q.*", "mixer/query/*"),
    ("attn.kv.*", "mixer/key_value/*"),
    ("attn.sr.*", "mixer/reduce/*"),
    ("attn.norm.*", "mixer/reduce_norm/*"),
    ("attn.proj.*", "mixer/out/*"),
    ("norm2.*", "mlp_norm/*"),
    ("mlp.fc1.*", "mlp_in/*"),
    ("mlp.fc2.*", "mlp_out/*"),
)
AUTHORS = (
    ("patch_embed{stage}.proj.*", "stage{stage}_embedding/projection/*"),
    ("patch_embed{stage}.norm.*", "stage{stage}_embedding/norm/*"),
    ("pos_embed(?P<stage>[1-3])", "stage{stage}_positions/patch_positions", positions),
    ("pos_embed4", _LAST_POSITIONS, token_and_patches),
    ("cls_token", "stage4_positions/token"),
    *below("block{stage}.{block}.", "stage{stage}_block{block}/", _AUTHORS_BLOCK),
    ("norm.*", "norm/*"),
    ("head.*", "head/*"),
)

_HUGGINGFACE_BLOCK = (
    ("layer_norm_1.*", "mixer_norm/*"),
    ("attention.self.query.*", "mixer/query/*"),
    (("attention.self.key.*", "attention.self.value.*"), "mixer/key_value/*"),
    ("attention.self.sequence_reduction.*", "mixer/reduce/*"),
    ("attention.self.layer_norm.*", "mixer/reduce_norm/*"),
    ("attention.output.dense.*", "mixer/out/*"),
    ("layer_norm_2.*", "mlp_norm/*"),
    ("mlp.dense1.*", "mlp_in/*"),
    ("mlp.dense2.*", "mlp_out/*"),
)
HUGGINGFACE = (
    ("encoder.patch_embeddings.{stage}.projection.*", "stage{stage}_embedding/projection/*"),
    ("encoder.patch_embeddings.{stage}.layer_norm.*", "stage{stage}_embedding/norm/*"),
    (
        "encoder.patch_embeddings.(?P<stage>[0-2]).position_embeddings",
        "stage{stage}_positions/patch_positions",
        positions,
    ),
    ("encoder.patch_embeddings.3.position_embeddings", _LAST_POSITIONS, token_and_patches),
    ("encoder.patch_embeddings.3.cls_token", "stage4_positions/token"),
    *below("encoder.block.{stage}.{block}.", "stage{stage}_block{block}/", _HUGGINGFACE_BLOCK),
    ("encoder.layer_norm.*", "norm/*"),
    ("classifier.*", "head/*"),
)


def training(source: Checkpoint) -> Training:
    """ImageNet's statistics; the epsilon of transformers' `config.json` if that file exists."""
    epsilon = read_neighbour(source, "config.json").get("layer_norm_eps")
    return Training("erf", epsilon, (IMAGENET_MEAN, IMAGENET_STD))


FORMATS = (
    Format(
        sources=("pvt",),
        family="PVT",
        anchor="patch_embed1.proj.weight",
        first_weight="stage1_positions/patch_positions",
        table=Table(AUTHORS, first={"stage": 1}),
        training=training,
    ),
    Format(
        sources=("huggingface",),
        family="PVT",
        anchor="encoder.patch_embeddings.{stage}.cls_token",
        first_weight="stage1_positions/patch_positions",
        table=Table(HUGGINGFACE, prefix="(pvt.)?"),
        training=training,
    ),
)
