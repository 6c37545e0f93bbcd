"""The segmentation tables of docs/fidelity.md."""

import functools
import gc

import tfvt
from benchmarks.counting import acmix_name, paper_rows, profile_of


def dense_name(system):
    """Registered name of a system of segmentation or detection: "VT-FPN ResNet-50" is vt_fpn_resnet50."""
    head, backbone = system.rsplit(" ", 1)
    return f"{head.lower().replace('-', '_').replace(' ', '_')}_{acmix_name(backbone)}"


@functools.cache
def pyramid_rows(name):
    """Profiles of a panoptic FPN of 54 classes at both sizes; the model is gone before the next, see `profile_of`."""
    gc.collect()
    model = tfvt.create_model(name, num_classes=54, input_shape=(None, None, 3))
    return {size: tfvt.profile(model, (*size, 3)).rows for size in ((800, 1216), (473, 473))}


def pyramid_macs(name, size, classes):
    """(MACs of the whole model, of its neck). The classifier's MACs are in proportion to the classes."""
    rows = pyramid_rows(name)[size]
    neck = sum(row.macs for row in rows if row.path.startswith("neck"))
    return sum(row.macs * classes // 54 if row.path == "head" else row.macs for row in rows), neck


def vt_fpn_rows():
    """Tables 9 and 10 of Visual Transformers."""
    table = [
        "| table | model | setting | paper mIoU | paper MACs (G) | ours | paper's neck (G) | ours, exactly |",
        "|---|---|---|---|---|---|---|---|",
    ]
    settings = {"9": ((800, 1216), 54), "10": ((473, 473), 20)}
    for row in paper_rows("VT-ICCV"):
        if row["table"] in settings:
            name = dense_name(row["system"])
            macs, neck = pyramid_macs(name, *settings[row["table"]])
            cells = (row["table"], f"`{name}`", row["setting"], row["miou"], row["macs_g"], f"{macs / 1e9:.2f}")
            table.append(f"| {' | '.join(cells)} | {row['other'].removeprefix('neck ')} | {neck:,} |")
    return table


def acmix_segmentation_rows():
    """ACmix's Table 2, at 512x2048 with 150 classes."""
    table = [
        "| model | setting | paper mIoU | paper params (M) | ours | paper MACs (G) | ours |",
        "|---|---|---|---|---|---|---|",
    ]
    for row in paper_rows("ACmix"):
        if row["table"] == "2":
            name = dense_name(row["system"])
            options = {"auxiliary": True} if name.startswith("upernet") else {}
            profile = profile_of(name, num_classes=150, input_shape=(512, 2048, 3), **options)
            macs = sum(part.macs for part in profile.rows if not part.path.startswith("head_auxiliary")) / 1e9
            positions = sum(part.params for part in profile.rows if part.kind == "MapPositions")
            params = profile.params - positions + positions * 224**2 // (512 * 2048)
            counts = f"{row['params_m']} | {params:,} | {row['macs_g']} | {macs:.2f}"
            table.append(f"| `{name}` | {row['setting']} | {row['miou']} | {counts} |")
    return table
