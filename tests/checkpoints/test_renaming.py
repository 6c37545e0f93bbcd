"""The renaming engine, and every source's table: rows that do not overlap, and that some state dict has."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import tfvt
from tests.checkpoints import vit_states
from tests.checkpoints.test_mask_rcnn_checkpoints import STAGES, mmdetection_names, torchvision_names
from tests.checkpoints.test_resnet_checkpoints import huggingface_state, torchvision_state
from tests.checkpoints.test_san_pvt_checkpoints import authors_pvt, authors_san
from tests.checkpoints.test_swin_checkpoints import TINY as TINY_SWIN
from tests.checkpoints.test_swin_checkpoints import authors_state as authors_swin
from tests.models.test_acmix_resnet import authors_state as authors_acmix_resnet
from tfvt.checkpoints import swin
from tfvt.checkpoints.layouts import from_heads, pointwise, to_heads, token_and_patches, torch_layout
from tfvt.checkpoints.loading import FORMATS, OWN
from tfvt.checkpoints.renaming import Table, Tensor, below
from tfvt.models.vit import Block

SWIN_NAMES = {
    "patch_embed.proj": "swin.embeddings.patch_embeddings.projection",
    "patch_embed.norm": "swin.embeddings.norm",
    "layers.": "swin.encoder.layers.",
    "norm1": "layernorm_before",
    "norm2": "layernorm_after",
    "head.": "classifier.",
}
SWIN_FILES = {
    "attn.relative_position_bias_table": "attention.self.relative_position_bias_table",
    "attn.query": "attention.self.query",
    "attn.key": "attention.self.key",
    "attn.value": "attention.self.value",
    "attn.proj": "attention.output.dense",
    "mlp.fc1": "intermediate.dense",
    "mlp.fc2": "output.dense",
}
SWIN_LIVE = {
    "attn.relative_position_bias_table": "attention.relative_position_bias.relative_position_bias_table",
    "attn.query": "attention.q_proj",
    "attn.key": "attention.k_proj",
    "attn.value": "attention.v_proj",
    "attn.proj": "attention.o_proj",
}
PVT_NAMES = {
    "norm1": "layer_norm_1",
    "norm2": "layer_norm_2",
    "attn.q.": "attention.self.query.",
    "attn.key": "attention.self.key",
    "attn.value": "attention.self.value",
    "attn.sr": "attention.self.sequence_reduction",
    "attn.norm": "attention.self.layer_norm",
    "attn.proj": "attention.output.dense",
    "mlp.fc": "mlp.dense",
    "cls_token": "pvt.encoder.patch_embeddings.3.cls_token",
    "head.": "classifier.",
} | {
    old.format(i): f"pvt.encoder.{new}".format(i - 1)
    for i in (1, 2, 3, 4)
    for old, new in {
        "pos_embed{}": "patch_embeddings.{}.position_embeddings",
        "patch_embed{}.proj": "patch_embeddings.{}.projection",
        "patch_embed{}.norm": "patch_embeddings.{}.layer_norm",
        "block{}": "block.{}",
    }.items()
}


def respelt(state, names, joined, parts, last_norm):
    """An authors' state dict under transformers' names, of which `parts` are the authors' `joined`."""
    respelt = {}
    for name, array in state.items():
        split = f".{joined}." in name
        thirds = np.split(array, len(parts)) if split else [array]
        for part, third in zip(parts if split else [joined], thirds, strict=True):
            new = name.replace(f".{joined}.", f".{part}.")
            new = f"{last_norm}.{new.removeprefix('norm.')}" if new.startswith("norm.") else new
            for theirs, transformers in names.items():
                new = new.replace(theirs, transformers)
            respelt[new] = third
    return respelt


def swin_by_transformers(names):
    parts = ("attn.query", "attn.key", "attn.value")
    state = {n: a for n, a in authors_swin(acmix=False).items() if not n.endswith(("index", "mask"))}
    return respelt(state, SWIN_NAMES | names, "attn.qkv", parts, "swin.layernorm")


def pvt_by_transformers():
    return respelt(authors_pvt(), PVT_NAMES, "attn.kv", ("attn.key", "attn.value"), "pvt.encoder.layer_norm")


def inside(state, prefix):
    return {name.removeprefix(prefix): array for name, array in state.items() if name.startswith(prefix)}


VECTOR = np.zeros(3, "float32")


def segmentation(backbone, convolutions, norm, others):
    """A backbone's state dict, and a name for each module of neck and heads."""
    modules = [name for module in convolutions for name in (f"{module}.conv", f"{module}.{norm}")] + others
    return {f"backbone.{name}": array for name, array in backbone.items()} | {f"{m}.weight": VECTOR for m in modules}


UPERNET = [
    *(f"decode_head.psp_modules.{pool}.1" for pool in range(4)),
    *(f"decode_head.{module}" for module in ("bottleneck", "lateral_convs.0", "fpn_convs.2", "fpn_bottleneck")),
    "auxiliary_head.convs.0",
]
TOWERS = [f"bbox_head.{kind}_convs.2.conv" for kind in ("cls", "reg")]
MMDETECTION = [
    "neck.lateral_convs.0.conv", "neck.fpn_convs.4.conv", *TOWERS, "bbox_head.retina_cls", "bbox_head.retina_reg",
]  # fmt: skip
HEADS = ("head.classification_head", "head.regression_head")
FIRST_TORCHVISION = [
    "backbone.fpn.inner_blocks.0", "backbone.fpn.layer_blocks.2", "backbone.fpn.extra_blocks.p6",
    "head.classification_head.cls_logits", "head.regression_head.bbox_reg",
    *(f"{head}.conv.{number}" for head in HEADS for number in (0, 2, 4, 6)),
]  # fmt: skip
LATER_TORCHVISION = [
    "backbone.fpn.inner_blocks.0.0", "backbone.fpn.layer_blocks.2.0", "backbone.fpn.extra_blocks.p6",
    "head.classification_head.cls_logits", "head.regression_head.bbox_reg",
    *(f"{head}.conv.{tower}.{part}" for head in HEADS for tower in range(4) for part in (0, 1)),
]  # fmt: skip


def detector(backbone, prefix, modules):
    """A backbone's state dict and a tensor of every module of neck and heads; four numbers, as of one anchor's box."""
    others = {f"{module}.weight": np.arange(4, dtype="float32") for module in modules}
    return {f"{prefix}{name}": array for name, array in backbone.items()} | others


STATES = {
    "torchvision": torchvision_state(),
    "resnet_by_transformers": huggingface_state(),
    "acmix_resnet": authors_acmix_resnet(None),
    "acmix": inside(authors_acmix_resnet(None), "layer2.0.conv2."),
    "san": authors_san(),
    "san_attention": inside(authors_san(), "layer1.1.sam."),
    "pvt": authors_pvt(),
    "pvt_by_transformers": pvt_by_transformers(),
    "swin": authors_swin(acmix=False),
    "swin_block": inside(authors_swin(acmix=False), "layers.0.blocks.1."),
    "acmix_swin": authors_swin(acmix=True),
    "acmix_swin_block": inside(authors_swin(acmix=True), "layers.0.blocks.1."),
    "swin_by_transformers": swin_by_transformers(SWIN_FILES),
    "swin_by_transformers_live": swin_by_transformers(SWIN_LIVE),
    "upernet": segmentation(
        authors_swin(acmix=False), UPERNET, "bn", ["backbone.norm0", "decode_head.conv_seg", "auxiliary_head.conv_seg"]
    ),
    "upernet_by_transformers": segmentation(
        swin_by_transformers(SWIN_FILES),
        UPERNET,
        "batch_norm",
        ["backbone.hidden_states_norms.stage1", "decode_head.classifier", "auxiliary_head.classifier"],
    ),
    "semantic_fpn": segmentation(
        authors_pvt(),
        [f"decode_head.scale_heads.3.{number}" for number in (0, 2, 4)],
        "bn",
        ["neck.lateral_convs.0.conv", "neck.fpn_convs.3.conv", "decode_head.conv_seg"],
    ),
    "retinanet_before_0.13": detector(torchvision_state(), "backbone.body.", FIRST_TORCHVISION),
    "retinanet_by_torchvision": detector(torchvision_state(), "backbone.body.", LATER_TORCHVISION),
    "retinanet_pvt": detector(authors_pvt(), "backbone.", MMDETECTION),
    "retinanet_resnet": detector(torchvision_state(), "backbone.", MMDETECTION),
    "mask_rcnn_before_0.13": detector(torchvision_state(), "backbone.body.", torchvision_names(False).values()),
    "mask_rcnn_by_torchvision": detector(torchvision_state(), "backbone.body.", torchvision_names(True).values()),
    "mask_rcnn_swin": detector(authors_swin(acmix=False), "backbone.", mmdetection_names().values()),
    "mask_rcnn_resnet": detector(torchvision_state(), "backbone.", mmdetection_names().values()),
    "cascade_swin": detector(authors_swin(acmix=False), "backbone.", mmdetection_names(STAGES).values()),
    "cascade_resnet": detector(torchvision_state(), "backbone.", mmdetection_names(STAGES).values()),
    "google": vit_states.google(pre_logits=True),
    "big_vision": vit_states.google(big_vision=True),
    "vit_by_transformers": vit_states.huggingface() | {"vit.pooler.dense.bias": VECTOR},
    "vit_by_transformers_live": vit_states.huggingface(live=True),
    "timm": vit_states.timm() | {"pre_logits.fc.bias": VECTOR},
    "tfm": vit_states.tfm() | {"backbone/layer_with_weights-3/bias/.ATTRIBUTES/VARIABLE_VALUE": VECTOR},
    "tfvt": vit_states.our_state(),
}


def found_by(state):
    """The number of the format that `source="auto"` takes."""
    return next(i for i, candidate in enumerate(FORMATS) if candidate.table.has(candidate.anchor, state))


every_format = pytest.mark.parametrize(
    "number", range(len(FORMATS)), ids=[f"{i}-{f.sources[0]}-{f.family}" for i, f in enumerate(FORMATS)]
)


@every_format
@settings(max_examples=10, deadline=None)
@given(data=st.data())
def test_a_name_of_a_row_is_no_other_rows(number, data):
    table = FORMATS[number].table
    for row in table.compiled_rows:
        for part, pattern in enumerate(row.patterns):
            name = data.draw(st.from_regex(pattern, fullmatch=True))
            (match,) = table.matches(name)
            assert match[:2] == (row, part)


@every_format
def test_every_row_is_some_states(number):
    """And no state dict has a name that its table does not know."""
    table, used = FORMATS[number].table, set()
    for state in STATES.values():
        if found_by(state) == number:
            for name in state:
                found = [(row.paths, part) for row, part, _ in table.matches(name)]
                ignored = name.endswith(("num_batches_tracked", "index", "mask")) or name.startswith("save_counter")
                assert len(found) == (not ignored), name
                used.update(found)
    assert used == {(row.paths, part) for row in table.compiled_rows for part in range(len(row.patterns))}


def check_alike(first, second):
    """Two conversions hold the same weights, whatever their sources' names."""
    assert set(first) == set(second)
    for path, tensor in first.items():
        np.testing.assert_array_equal(tensor.array, second[path].array, err_msg=path)


@pytest.mark.parametrize(
    ("authors", "transformers"),
    [
        ("pvt", "pvt_by_transformers"),
        ("swin", "swin_by_transformers"),
        ("swin", "swin_by_transformers_live"),
        ("torchvision", "resnet_by_transformers"),
        ("vit_by_transformers", "vit_by_transformers_live"),
    ],
)
def test_other_spellings_are_the_same_weights(authors, transformers):
    first, second = (FORMATS[found_by(STATES[name])].table.convert(STATES[name]) for name in (authors, transformers))
    first.pop("pre_logits/bias", None)
    assert len(first) > 20
    check_alike(first, second)


@given(first=st.integers(-2, 3), number=st.integers(3, 10**6), block=st.integers(0, 99))
def test_numbers_count_from_1(first, number, block):
    table = Table((("a{stage}.{block}.bn.*", "stage{stage}_{block}_norm/*"),), first={"stage": first})
    (path,) = table.convert({f"a{number}.{block}.bn.running_var": VECTOR})
    assert path == f"stage{number - first + 1}_{block + 1}_norm/moving_variance"


@given(order=st.permutations(["q", "k", "v"]), widths=st.lists(st.integers(1, 3), min_size=3, max_size=3))
def test_parts_are_joined_in_the_rows_order_or_not_at_all(order, widths):
    table = Table(((("q.*", "k.*", "v.*"), "qkv/*"), ("out.*", "out/*")))
    parts = {f"{n}.weight": np.full((w, 2), i) for i, (n, w) in enumerate(zip("qkv", widths, strict=True))}
    converted = table.convert({f"{name}.weight": parts[f"{name}.weight"] for name in order})
    names, array = converted.pop("qkv/kernel")
    assert (names, converted) == (("q.weight", "k.weight", "v.weight"), {})
    np.testing.assert_array_equal(array, np.repeat([[0, 1, 2]] * 2, widths, axis=1))
    del parts[f"{order[0]}.weight"]
    assert list(table.convert(parts | {"out.bias": VECTOR})) == ["out/bias"]


def test_one_tensor_can_hold_two_weights():
    table = Table((("pos", ("token", "patches"), token_and_patches),))
    positions = np.arange(10.0).reshape(1, 5, 2)
    converted = table.convert({"pos": positions})
    assert [tensor.names for tensor in converted.values()] == [("pos",), ("pos",)]
    np.testing.assert_array_equal(converted["token"].array, positions[:, :1])
    np.testing.assert_array_equal(converted["patches"].array, positions[0, 1:])


@pytest.mark.parametrize(
    "name", ["x.bn.kernel", "x.bn.num_batches_tracked", "xxbn.weight", "x.bn", "x.bn.weight.y", "y/x.bn.weight/zz", ""]
)
def test_other_names_are_left_out(name):
    table = Table((("x.bn.*", "norm/*"),), prefix="(y/)?", suffix="(/z)?")
    assert table.convert({name: VECTOR}) == {}
    for known in ("x.bn.weight", "y/x.bn.weight", "x.bn.weight/z", "y/x.bn.weight/z"):
        assert table.convert({known: VECTOR}) == {"norm/gamma": Tensor((known,), VECTOR)}


def test_an_unknown_tensor_of_a_known_layer_is_named():
    options = {"input_shape": (64, 64, 3), "num_classes": 5, "head_dim": 8, "gelu": "tanh"}
    model = tfvt.create_model("vit_tiny16", blocks=(Block(3, 16, 24),), **options)
    with pytest.raises(ValueError, match=r"1 tensor\(s\) that vit_tiny16 has no weight for: head/scale_of_int8"):
        tfvt.load_checkpoint(model, vit_states.google() | {"head/scale_of_int8": VECTOR})


def test_a_segmentors_names_are_one_table():
    """The rows of a backbone below a prefix, and those of what stands on it."""
    table = Table(
        (*below("backbone.", "", swin.model(swin.ATTENTION)), ("decode_head.conv_seg.*", "head/*", pointwise)),
        first=swin.FIRST,
    )
    state = {name: array for name, array in STATES["swin"].items() if not name.startswith("head.")}
    head = {"head/kernel": STATES["swin"]["head.weight"].T, "head/bias": STATES["swin"]["head.bias"]}
    dense = {f"backbone.{name}": array for name, array in state.items()}
    dense["decode_head.conv_seg.weight"] = STATES["swin"]["head.weight"][:, :, None, None]
    dense["decode_head.conv_seg.bias"] = STATES["swin"]["head.bias"]
    converted = table.convert(dense)
    assert converted["stage1_block1/mixer/qkv/bias"].names == ("backbone.layers.0.blocks.0.attn.qkv.bias",)
    alone = FORMATS[found_by(state)].table.convert(state)
    check_alike(converted, alone | {path: Tensor((), array) for path, array in head.items()})
    model = tfvt.create_model("swin_tiny", **TINY_SWIN)
    assert set(converted) == {weight.path for weight in model.weights}


def test_our_own_paths_stay():
    state = {"a b/c_1.x": VECTOR, "seed/1": VECTOR}
    assert OWN.table.convert(state) == {path: Tensor((path,), array) for path, array in state.items()}


shapes = st.tuples(*[st.integers(1, 4)] * 3)


@given(shapes)
def test_layouts_compute_what_the_source_computes(shape):
    rng = np.random.default_rng(0)
    channels, heads, dim = shape
    x = rng.normal(size=(2, channels))
    kernel, bias = rng.normal(size=shape), rng.normal(size=shape[1:])
    theirs = np.einsum("bc,chd->bhd", x, kernel) + bias
    np.testing.assert_allclose(x @ from_heads(kernel) + from_heads(bias), theirs.reshape(2, -1))
    back = rng.normal(size=(heads, dim, channels))
    np.testing.assert_allclose(theirs.reshape(2, -1) @ to_heads(back), np.einsum("bhd,hdc->bc", theirs, back))
    weight = rng.normal(size=(heads, channels))
    for ours in (torch_layout(weight), pointwise(weight[:, :, None, None])):
        np.testing.assert_allclose(x @ ours, np.einsum("oc,bc->bo", weight, x))
    patch = rng.normal(size=(3, 3, channels))
    filters = rng.normal(size=(heads, channels, 3, 3))
    np.testing.assert_allclose(
        np.tensordot(patch, torch_layout(filters), axes=3), np.einsum("ijc,ocij->o", patch, filters)
    )
