"""Parameters without norms and MACs, exact integers for every row (224x224, 1000 classes)."""

import keras
import pytest

from benchmarks.counting import profile_of  # builds each model once for all tests

# The numbers are those of plain arithmetic over the wiring that fits the paper's tables (see docs/fidelity.md);
# `profile` reads ours off the built models.
COUNTS = [
    ("resnet18", {}, 11_679_912, 1_814_073_344),
    ("resnet34", {}, 21_780_648, 3_663_761_408),
    ("resnet50", {}, 25_503_912, 4_089_184_256),
    ("resnet101", {}, 44_443_816, 7_801_405_440),
    ("vt_resnet18", {}, 11_638_952, 1_578_950_656),
    ("vt_resnet34", {}, 21_837_992, 3_299_008_512),
    ("vt_resnet50", {}, 22_071_464, 3_440_926_720),
    ("vt_resnet101", {}, 41_011_368, 7_153_147_904),
    ("vt_resnet18", {"tokenizer": "pool"}, 11_028_648, 1_549_688_832),
    ("vt_resnet34", {"tokenizer": "pool"}, 20_637_864, 3_245_301_760),
    ("vt_resnet18", {"tokenizer": "cluster"}, 11_634_856, 1_578_950_656),
    ("vt_resnet34", {"tokenizer": "cluster"}, 21_833_896, 3_299_008_512),
    ("vt_resnet18", {"recurrent": False}, 11_090_088, 1_564_139_520),
    ("vt_resnet34", {"recurrent": False}, 20_740_264, 3_269_386_240),
    ("vt_resnet18", {"relation": "none"}, 8_493_224, 1_527_832_576),
    ("vt_resnet34", {"relation": "none"}, 17_119_400, 3_222_331_392),
    ("vt_resnet18", {"relation": "graph"}, 8_493_736, 1_528_356_864),
    ("vt_resnet34", {"relation": "graph"}, 17_120_168, 3_223_117_824),
    ("vt_resnet18", {"num_tokens": 32}, 11_643_048, 1_710_972_928),
    ("vt_resnet34", {"num_tokens": 32}, 21_842_088, 3_514_130_432),
    ("vt_resnet18", {"num_tokens": 64}, 11_651_240, 1_979_736_064),
    ("vt_resnet34", {"num_tokens": 64}, 21_850_280, 3_951_452_160),
    ("vt_resnet18", {"projector": False}, 9_328_808, 1_497_227_264),
    ("vt_resnet34", {"projector": False}, 17_332_392, 3_158_040_576),
    ("vt_resnet18", {"renewed_tokens": 8}, 11_638_952, 1_568_956_416),
    ("vt_resnet34", {"renewed_tokens": 8}, 21_837_992, 3_279_020_032),
    ("vt_resnet34", {"renewed_tokens": 8, "num_relations": 2}, 19_216_552, 3_236_683_776),
    ("vt_resnet50", {"renewed_tokens": 8}, 22_071_464, 3_417_726_976),
    ("vt_resnet101", {"renewed_tokens": 8}, 41_011_368, 7_129_948_160),
]

# With norms, as the ACmix paper counts; MACs to three decimals in G.
COUNTS_WITH_NORMS = [
    ("resnet26", 13_696_552, "2.342"),
    ("resnet38", 19_626_792, "3.216"),
    ("resnet50", 25_557_032, "4.089"),
    ("acmix_resnet26", 10_487_816, "2.216"),
    ("acmix_resnet38", 14_410_896, "2.859"),
    ("acmix_resnet50", 18_333_976, "3.501"),
    ("sasa_resnet26", 10_336_600, "2.134"),
    ("sasa_resnet38", 14_181_480, "2.736"),
    ("sasa_resnet50", 18_026_360, "3.338"),
    ("san10", 11_841_124, "1.791"),
    ("san15", 16_181_310, "2.478"),
    ("san19", 20_518_470, "3.130"),
    ("acmix_san10", 11_995_152, "1.888"),
    ("acmix_san15", 16_414_944, "2.630"),
    ("acmix_san19", 20_830_304, "3.317"),
    ("pvt_tiny", 13_229_288, "1.933"),
    ("pvt_small", 24_485_864, "3.816"),
    ("acmix_pvt_tiny", 13_396_056, "2.005"),
    ("acmix_pvt_small", 24_824_611, "3.950"),
    ("pvt_large", 61_369_320, "9.814"),
    ("swin_base", 87_768_224, "15.431"),
    ("swin_tiny", 28_288_354, "4.491"),
    ("swin_small", 49_606_258, "8.741"),
    ("acmix_swin_tiny", 28_649_908, "4.645"),
    ("acmix_swin_small", 50_345_080, "8.993"),
    ("conv_swin_tiny", 39_034_504, "6.085"),
]


@pytest.mark.parametrize(("name", "options", "params", "macs"), COUNTS, ids=lambda value: str(value))
def test_counts(name, options, params, macs):
    profile = profile_of(name, **options)
    assert (profile.params_without_norms, profile.macs) == (params, macs)


@pytest.mark.parametrize(("name", "params", "giga_macs"), COUNTS_WITH_NORMS)
def test_counts_with_norms(name, params, giga_macs):
    profile = profile_of(name)
    assert profile.params == params
    assert f"{profile.macs / 1e9:.3f}" == giga_macs


def parts(name, size, classes):
    """(parameters without norms, MACs) of neck and head, and the MACs of the whole model in G to two decimals."""
    profile = profile_of(name, num_classes=classes, input_shape=(*size, 3))
    found = []
    for words in ("neck", ("decoder", "head")):
        rows = [row for row in profile.rows if row.path.startswith(words)]
        norms = sum(row.params for row in rows if row.kind.endswith("Normalization"))
        found.append((sum(row.params for row in rows) - norms, norms, sum(row.macs for row in rows)))
    return *found, f"{profile.macs / 1e9:.2f}"


# Every convolution of the heads has a norm of two parameters a channel, which the figures of heads here include.
HEAD_NORMS = 7 * 2 * 128
COCO, LIP, ADE = ((800, 1216), 54), ((473, 473), 20), ((512, 2048), 150)
COCO_HEAD, LIP_HEAD = (1_630_774, 29_277_388_800), (1_626_388, 6_800_353_792)
slow = pytest.mark.slow


# Where an operation needs values to be traced, PyTorch computes the model: at these sizes in 5 GB.
@pytest.mark.skipif(keras.backend.backend() == "torch", reason="PyTorch computes what it counts here")
@pytest.mark.parametrize(("name", "setting", "neck", "head", "giga_macs"), [
    ("fpn_resnet50", COCO, (3_344_384, 55_099_392_000), COCO_HEAD, "159.13"),
    # The paper's figure leaves the biases of the laterals out.
    ("vt_fpn_resnet50", COCO, (6_774_784 + 1_024, 8_573_984_768), COCO_HEAD, "112.61"),
    ("semantic_fpn_pvt_tiny", ADE, (2_623_488, 53_418_655_744), (1_643_158, 32_363_249_664), "157.72"),
    pytest.param("fpn_resnet101", COCO, (3_344_384, 55_099_392_000), COCO_HEAD, "231.11", marks=slow),
    pytest.param("vt_fpn_resnet101", COCO, (6_775_808, 8_573_984_768), COCO_HEAD, "184.58", marks=slow),
    pytest.param("fpn_resnet50", LIP, (3_344_384, 12_893_224_960), LIP_HEAD, "37.33", marks=slow),
    pytest.param("vt_fpn_resnet50", LIP, (6_775_808, 2_096_504_832), LIP_HEAD, "26.54", marks=slow),
    pytest.param("fpn_resnet101", LIP, (3_344_384, 12_893_224_960), LIP_HEAD, "54.38", marks=slow),
    pytest.param("vt_fpn_resnet101", LIP, (6_775_808, 2_096_504_832), LIP_HEAD, "43.58", marks=slow),
])  # fmt: skip
def test_counts_of_pyramids(name, setting, neck, head, giga_macs):
    (neck_params, _, neck_macs), (head_params, norms, head_macs), total = parts(name, *setting)
    assert (neck_params, neck_macs) == neck
    assert (head_params + norms, head_macs) == head
    assert (norms, total) == (HEAD_NORMS, giga_macs)


RESNET_HEAD, PVT_HEAD = (14_460_660, 162_187_915_264), (10_249_972, 158_410_289_152)


@pytest.mark.skipif(keras.backend.backend() == "torch", reason="PyTorch computes what it counts here")
@pytest.mark.parametrize(("name", "neck_and_head", "giga_macs"), [
    ("retinanet_resnet50", RESNET_HEAD, "249.52"),
    ("retinanet_pvt_tiny", PVT_HEAD, "232.76"),
    pytest.param("retinanet_acmix_pvt_tiny", PVT_HEAD, "234.29", marks=slow),
    pytest.param("retinanet_pvt_large", PVT_HEAD, "503.93", marks=slow),
    pytest.param("retinanet_sasa_resnet50", RESNET_HEAD, "233.45", marks=slow),
    pytest.param("retinanet_acmix_resnet50", RESNET_HEAD, "236.93", marks=slow),
])  # fmt: skip
def test_counts_of_retinanets(name, neck_and_head, giga_macs):
    """80 classes at 800x1333; a PVT's tables of positions are those of its classifier."""
    profile = profile_of(name, num_classes=80, input_shape=(800, 1333, 3))
    parts = [row for row in profile.rows if row.path.startswith(("neck", "decoder", "head"))]
    assert (sum(row.params for row in parts), sum(row.macs for row in parts)) == neck_and_head
    assert f"{profile.macs / 1e9:.2f}" == giga_macs


@pytest.mark.skipif(keras.backend.backend() == "torch", reason="PyTorch computes what it counts here")
@pytest.mark.parametrize(("name", "stages", "box_head", "giga_macs"), [
    ("mask_rcnn_swin_tiny", 1, (14_306_705, 14_304_256_000), "271.35"),
    pytest.param("mask_rcnn_acmix_swin_tiny", 1, (14_306_705, 14_304_256_000), "274.86", marks=slow),
    pytest.param("cascade_mask_rcnn_swin_tiny", 3, (15_618_449, 128_861_184_000), "749.60", marks=slow),
])  # fmt: skip
def test_counts_of_mask_rcnns(name, stages, box_head, giga_macs):
    """80 classes at 800x1333, 1000 regions for boxes and 100 for masks; in total without attention products."""
    profile = profile_of(name, num_classes=80, input_shape=(800, 1333, 3))

    def part(*words):
        rows = [row for row in profile.rows if row.path.startswith(words)]
        return sum(row.params for row in rows), sum(row.macs for row in rows)

    level_norms = 2 * (96 + 192 + 384 + 768)  # of the backbone's maps
    assert part("neck") == (2_729_984 + level_norms, 55_428_710_400)
    assert part("decoder_rpn") == (593_935, 52_849_750_272)
    assert part("decoder_box", "head_class", "head_box") == tuple(stages * count for count in box_head)
    assert part("decoder_mask", "head_mask") == (stages * 2_643_280, stages * 52_985_856_000)
    products = sum(row.macs for row in profile.rows if row.kind == "WindowAttention")
    assert f"{(profile.macs - products) / 1e9:.2f}" == giga_macs


@pytest.mark.parametrize(("name", "params"), [("vt_resnet18", 11_667_496), ("vt_resnet34", 21_886_248)])
def test_a_norm_behind_every_linear_fits_both_papers_roundings(name, params):
    assert profile_of(name).params == params  # 11.667 M and 21.886 M: the papers print 11.6 / 11.7 and 21.8 / 21.9
