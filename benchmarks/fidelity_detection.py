"""The detection tables of docs/fidelity.md: ACmix's Tables 3 to 5, with the rule that gives each figure."""

import functools
import gc
import math
import re

import tfvt
from benchmarks.counting import acmix_name, paper_rows
from benchmarks.fidelity_segmentation import dense_name

SIZE, PADDED, TABLE_5 = (800, 1333), (800, 1344), (576, 576)
PYRAMID = 256  # channels
# Of PVT's four stages.
CHANNELS, MLP_RATIOS, REDUCTIONS, STRIDES = (64, 128, 320, 512), (8, 8, 4, 4), (8, 4, 2, 1), (4, 2, 2, 2)
DEPTHS = {"pvt_tiny": (2, 2, 2, 2)}


@functools.cache
def rows_of(name, size):
    """The profile's rows of a model for any size; the model is gone before the next (it is a cycle of objects)."""
    gc.collect()
    options = {"num_classes": 80} if name.startswith("retinanet") else {"features": ("P2", "P3", "P4", "P5")}
    return tfvt.profile(tfvt.create_model(name, input_shape=(None, None, 3), **options), (*size, 3)).rows


def macs_of(name, size=SIZE):
    """All MACs of a model."""
    return sum(row.macs for row in rows_of(name, size))


def macs_behind_the_stride(name):
    """The projections of a layer with stride count at the resolution of its output."""
    rows = rows_of(name, SIZE)
    total = sum(row.macs for row in rows)
    outputs = {row.path.removesuffix("_norm"): row.output_shape for row in rows if row.path.endswith("_2_norm")}
    for row in rows:
        block = re.match(r"(stage[2-4]_block1_2)_acmix/.*", row.path)
        if block and row.kind == "Dense":
            total -= row.macs * (1 - math.prod(outputs[block[1]][:2]) / math.prod(row.output_shape[:2]))
    return round(total)


def pvt_macs(depths, size, halve):
    """(MACs, maps (rows, columns, channels)) of a PVT without class token, by its equations.

    Args:
        depths: blocks of its stages.
        size: height and width of the image.
        halve: how a side is divided: rounded down, as the authors', or up, as ours.
    """
    macs, maps, before = 0, [], 3
    for depth, channels, ratio, reduction, stride in zip(
        depths, CHANNELS, MLP_RATIOS, REDUCTIONS, STRIDES, strict=True
    ):
        size = [halve(side, stride) for side in size]
        pixels, reduced = math.prod(size), math.prod(halve(side, reduction) for side in size)
        projections = 2 * pixels + 2 * reduced + (reduction**2 * reduced if reduction > 1 else 0)
        block = (projections + 2 * ratio * pixels) * channels**2 + 2 * pixels * reduced * channels
        macs += stride**2 * before * channels * pixels + depth * block
        maps.append((*size, channels))
        before = channels
    return macs, maps


def fpn_macs(maps):
    """Of laterals and outputs."""
    return sum(h * w * (c * PYRAMID + 9 * PYRAMID**2) for h, w, c in maps)


def retinanet_macs(maps):
    """Of neck, towers and outputs over the maps of strides 8 to 32, for 80 classes and 9 anchors."""
    macs, sizes = fpn_macs(maps), [(h, w) for h, w, _ in maps]
    h, w, channels = maps[-1]
    for inputs in (channels, PYRAMID):
        h, w = math.ceil(h / 2), math.ceil(w / 2)
        sizes.append((h, w))
        macs += h * w * 9 * inputs * PYRAMID
    return macs + sum(h * w for h, w in sizes) * 9 * PYRAMID * (8 * PYRAMID + 9 * 84)


def rounded_down(name):
    """A RetinaNet over PVT whose maps are rounded down; what ACmix adds is that of our model."""
    backbone = name.removeprefix("retinanet_")
    plain = backbone.removeprefix("acmix_")
    macs, maps = pvt_macs(DEPTHS[plain], SIZE, lambda side, stride: side // stride)
    added = macs_of(name) - macs_of(f"retinanet_{plain}") if backbone != plain else 0
    return macs + retinanet_macs(maps[1:]) + added


def rpn_macs(maps):
    """Of the head of proposals, 3 anchors a pixel, over the neck's maps and one of half the last one's size."""
    pixels = sum(h * w for h, w, _ in maps) + math.prod(math.ceil(side / 2) for side in maps[-1][:2])
    return pixels * PYRAMID * (9 * PYRAMID + 3 * 5)


def box_head_macs(stages):
    """Of the head of boxes, of 1,000 RoIs: two dense layers, or one after four 3x3 in each stage of Cascade."""
    before = 1024**2 if stages == 1 else 4 * 49 * 9 * PYRAMID**2
    return 1000 * (before + 49 * PYRAMID * 1024 + 1024 * (81 + 320))


def mask_head_macs():
    """Of the head of masks, of 100 RoIs."""
    return 100 * (14**2 * (4 * 9 + 4) * PYRAMID**2 + 28**2 * PYRAMID * 80)


def two_stage_macs(name, stages):
    """Mask R-CNN (one stage) or Cascade over Swin, without attention products."""
    rows = rows_of(acmix_name(name), SIZE)
    backbone = sum(row.macs for row in rows if row.kind != "WindowAttention")
    sizes = [row.output_shape for row in rows if row.path.endswith("/mlp_out")]
    maps = list({shape[-1]: shape for shape in sizes}.values())
    return backbone + fpn_macs(maps) + rpn_macs(maps) + stages * (box_head_macs(stages) + mask_head_macs())


AT_SIZE, AT_PADDED = "800x1333", "1333 columns padded to 1344"
RULES = {  # system -> MACs by the name of a model, and the rule in words
    "RetinaNet ResNet-50": (macs_of, AT_SIZE),
    "RetinaNet ResNet-SASA-50": (macs_behind_the_stride, f"{AT_SIZE}; projections at the output of a stride"),
    "RetinaNet ResNet-ACmix-50": (macs_behind_the_stride, f"{AT_SIZE}; projections at the output of a stride"),
    "RetinaNet SAN-19": (lambda name: macs_of(name, PADDED), AT_PADDED),
    "RetinaNet SAN-ACmix-19": (lambda name: macs_of(name, PADDED), AT_PADDED),
    "RetinaNet PVT-T": (rounded_down, f"{AT_SIZE}; sides of PVT's maps rounded down"),
    "RetinaNet PVT-ACmix-T": (rounded_down, f"{AT_SIZE}; sides of PVT's maps rounded down"),
}
TWO_STAGES = {"Mask R-CNN": 1, "Cascade Mask R-CNN": 3}


def detection_rows():
    """Tables 3 and 4; a set-up's schedule does not change its counts."""
    table = [
        "| table | system | setting | paper AP | paper MACs (G) | ours by the rule | rule | ours at 800x1333 |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for row in paper_rows("ACmix"):
        if row["table"] in ("3", "4"):
            system = row["system"]
            if system in RULES:
                count, rule = RULES[system]
                name = dense_name(system)
                ruled, plain = count(name), f"{macs_of(name) / 1e9:.2f}"
            else:
                head, backbone = system.rsplit(" ", 1)
                ruled, plain = two_stage_macs(backbone, TWO_STAGES[head]), ""
                rule = f"{AT_SIZE}; no attention products; 1,000 RoIs of boxes, 100 of masks"
            counts = f"{row['macs_g']} | {ruled / 1e9:.2f} | {rule} | {plain}"
            table.append(f"| {row['table']} | {system} | {row['setting']} | {row['ap']} | {counts} |")
    return table


def speed_rows():
    """Table 5, at 576x576."""
    table = ["| model | paper AP | paper FPS | MACs (G) | parameters |", "|---|---|---|---|---|"]
    for row in paper_rows("ACmix"):
        if row["table"] == "5":
            rows = rows_of(dense_name(row["system"]), TABLE_5)
            macs, params = sum(part.macs for part in rows) / 1e9, sum(part.params for part in rows)
            fps = row["other"].removesuffix(" FPS")
            table.append(f"| `{dense_name(row['system'])}` | {row['ap']} | {fps} | {macs:.2f} | {params:,} |")
    return table
