"""docs/fidelity.md: the papers' figures beside ours, counted on the built models.

python -m benchmarks.fidelity docs/fidelity.md
"""

import sys
from pathlib import Path

import yaml

from benchmarks.counting import ROOT, acmix_name, count, paper_rows, profile_of
from benchmarks.fidelity_detection import detection_rows, speed_rows
from benchmarks.fidelity_segmentation import acmix_segmentation_rows, vt_fpn_rows

SETTINGS = {  # setting in paper_results.csv -> options of create_model
    "default recipe": {},
    "pooling tokenizer": {"tokenizer": "pool"},
    "cluster tokenizer": {"tokenizer": "cluster"},
    "without recurrent tokenizer": {"recurrent": False},
    "relation none": {"relation": "none"},
    "relation graph": {"relation": "graph"},
    "32 tokens": {"num_tokens": 32},
    "64 tokens": {"num_tokens": 64},
    "without projector": {"projector": False},
    "as published": {},
}

COUNTED = ("renewed_tokens", "num_relations")  # options of the advanced recipes that parameters or MACs depend on

# Why a figure differs by more than rounding, by (table, system, setting) and column.
NOTES = {
    ("3", "VT-ResNet-34", "cluster tokenizer", "macs"): "probably a misprint: the arXiv version has 3299 M",
    ("4", "VT-ResNet-34", "without recurrent tokenizer", "macs"): (
        "probably a misprint for 3269: fewer layers cannot cost more than the 3299 M of the full model"
    ),
    ("8", "VT-ResNet-34", "advanced recipe", "params"): (
        "the paper has 21.8 M for this model everywhere else; by the counts, two of three modules relate tokens"
    ),
    ("8", "VT-ResNet-50", "advanced recipe", "params"): "the tables do not determine the rest",
    ("8", "VT-ResNet-101", "advanced recipe", "params"): "the tables do not determine the rest",
}

RENEWED = [  # (model, paper's MACs in M, where)
    ("vt_resnet18", "1569", "ICCV Table 8; arXiv Tables 4, 7"),
    ("vt_resnet34", "3280", "arXiv Tables 2, 3, 7"),
    ("vt_resnet50", "3412", "ICCV Table 8"),
    ("vt_resnet101", "7129", "ICCV Table 8"),
]

# ICCV Table 1: how many times smaller the token modules make the whole network and its last stage.
TABLE_1 = {
    "18": {"total MACs": 1.14, "stage MACs": 2.4, "total parameters": 0.91, "stage parameters": 0.9},
    "34": {"total MACs": 1.16, "stage MACs": 5.0, "total parameters": 1.21, "stage parameters": 1.5},
    "50": {"total MACs": 1.20, "stage MACs": 6.1, "total parameters": 1.19, "stage parameters": 1.26},
    "101": {"total MACs": 1.09, "stage MACs": 6.9, "total parameters": 1.19, "stage parameters": 1.26},
}

INTRODUCTION = """# The papers' figures and ours

`make fidelity` writes this page. It builds every model at 224x224 with 1000 classes and reads the counts off the built
model (`tfvt.profile`). Only ACmix's Table 1 is computed from the formulas that it prints. A MAC is one multiply-add of
a convolution, a dense layer or an attention product. Parameter counts leave out the scales and offsets of norms, as the
papers' figures do (ResNet-101: 44.44 M; with norms it has 44.55 M). The accuracies are the papers' own: **none of these
models has been trained on ImageNet with this code yet.**

## Visual Transformers

The authors released no code. We found the wiring by counting:

- The pixel convolutions are grouped, with one group per 64 channels.
- All tokenizers have a grouped value convolution, and the recurrent ones a grouped key convolution.
- The linears have no bias.
- The keys and queries of the token transformer have two groups.

This wiring gives every row of Tables 2 to 7 within 0.1 % of the MACs and 0.5 % of the parameters (the paper prints
three digits of them), except for two misprints.

The counts leave other choices open. We made the following ones. Each except the last is an argument of the model:

- A batch norm follows every linear except W_A and the graph adjacency. With these norms VT-ResNet-18 and -34 have
  11.667 M and 21.886 M parameters, which fits the roundings 11.6 / 11.7 and 21.8 / 21.9 of the two versions of the
  paper.
- The token transformer and the projectors have one head.
- The logits of two learned vectors are divided by the square root of their width.
- k-means makes five iterations, and no gradient passes through them.
- The graph convolution has a residual and a ReLU around it.
"""

CONTRADICTIONS = """## Where the paper contradicts itself

- The text has 256 channels and Table 11 has 512. These are the input and the output of the first module.
- W_TR of eq. (2) is CT x C, not C x C, and the product with it lacks a transpose: softmax(X W_R^T).
- The pooling row of Table 3 fits only if every module pools. The arXiv text has recurrent
  tokenizers after the first one.
- The reductions of the last stage in Table 1, shown above, cannot hold together with Tables 2 to 8.
"""


def percent(ours, paper):
    return f"{100 * (ours / paper - 1):+.2f} %"


def options_of(name, setting):
    """The options that count a row of the paper: those of a setting, or of the recipe that trains the model."""
    recipe = ROOT / "configs" / f"{name}_advanced.yaml"
    if setting != "advanced recipe":
        return SETTINGS[setting]
    options = yaml.safe_load(recipe.read_text(encoding="utf-8"))["model"]["options"]
    return {key: value for key, value in options.items() if key in COUNTED}


def visual_transformer_rows():
    """Rows of Tables 2 to 8: paper beside ours."""
    table = [
        "| table | model | setting | paper top-1 | paper params (M) | ours | | paper MACs (M) | ours | | note |",
        "|---|---|---|---|---|---|---|---|---|---|---|",
    ]
    for row in paper_rows("VT-ICCV"):
        if int(row["table"]) > 8:  # segmentation
            continue
        name = row["system"].lower().replace("-", "_").replace("resnet_", "resnet")
        options = options_of(name, row["setting"])
        ours = count(name, **options)
        key = (row["table"], row["system"], row["setting"])
        notes = [NOTES[(*key, column)] for column in ("params", "macs") if (*key, column) in NOTES]
        if row["setting"] == "advanced recipe" and options:
            notes.insert(0, ", ".join(f"`{key}={value}`" for key, value in options.items()))
        params, macs = float(row["params_m"]), float(row["macs_g"]) * 1000
        cells = (
            row["table"], row["system"], row["setting"], row["top1_val"],
            f"{params:.1f}", f"{ours.params / 1e6:.3f}", percent(ours.params / 1e6, params),
            f"{macs:.0f}", f"{ours.macs / 1e6:.2f}", percent(ours.macs / 1e6, macs),
            "; ".join(notes),
        )  # fmt: skip
        table.append(f"| {' | '.join(cells)} |")
    return table


def exact_rows():
    """The exact integers, which the tests hold."""
    table = ["| model | parameters without norms | MACs |", "|---|---|---|"]
    for name in ("resnet18", "resnet34", "resnet50", "resnet101", *(f"vt_resnet{d}" for d in (18, 34, 50, 101))):
        ours = count(name)
        table.append(f"| `{name}` | {ours.params:,} | {ours.macs:,} |")
    return table


def renewed_rows():
    """Half the tokens renewed: the other set of MACs that the papers print."""
    table = ["| model | paper MACs (M) | where | ours (M) | |", "|---|---|---|---|---|"]
    for name, paper, where in RENEWED:
        ours = count(name, renewed_tokens=8).macs / 1e6
        table.append(f"| `{name}` | {paper} | {where} | {ours:.2f} | {percent(ours, float(paper))} |")
    return table


def table_1_rows():
    """Reductions by replacing the last stage; ours with the plain ResNets' stride in the 3x3."""
    table = ["| | " + " | ".join(f"ResNet-{depth}: paper, ours" for depth in TABLE_1) + " |", "|---" * 5 + "|"]
    for quantity in TABLE_1["18"]:
        cells = []
        for depth, paper in TABLE_1.items():
            plain, tokens = f"resnet{depth}", f"vt_resnet{depth}"
            field = "macs" if "MACs" in quantity else "params"
            if "stage" in quantity:
                ratio = stage_count(plain, field) / stage_count(tokens, field)
            else:
                ratio = getattr(count(plain), field) / getattr(count(tokens, stride_in_1x1=False), field)
            cells.append(f"{paper[quantity]}, {ratio:.2f}")
        table.append(f"| {quantity} | {' | '.join(cells)} |")
    return table


def stage_count(name, field):
    """MACs or parameters without norms of the last stage (or of the token modules), without the classifier."""
    rows = profile_of(name).rows
    own = [row for row in rows if row.path.startswith(("stage4", "vt")) and row.kind != "BatchNormalization"]
    return sum(getattr(row, field) for row in own)


def acmix_rows():
    """Figure 4; parameters with norms, and with one more kernel of the convolution path per ACmix layer."""
    table = [
        "| model | paper top-1 | paper params (M) | ours | with the other kernel (M) | paper MACs (G) | ours |",
        "|---|---|---|---|---|---|---|",
    ]
    for row in paper_rows("ACmix"):
        if row["table"] == "Fig4":
            name = acmix_name(row["system"])
            ours = count(name)
            other = f"{(ours.params_with_norms + shift_params(name)) / 1e6:.3f}" if "acmix" in name else ""
            counts = (
                f"{row['params_m']} | {ours.params_with_norms:,} | {other} | {row['macs_g']} | {ours.macs / 1e9:.3f}"
            )
            table.append(f"| `{name}` | {row['top1_val']} | {counts} |")
    return table


def shift_params(name):
    """Parameters of the grouped convolutions of a model's ACmix layers."""
    paths = [row for row in profile_of(name).rows if row.kind == "ConvolutionPath"]
    return sum(81 * row.output_shape[-1] for row in paths)


def acmix_table_1_rows():
    """The 3x3 positions of ResNet-50 by stage: convolutions at the output of a layer, all else at its input."""
    layers = [(64 * 2**stage, depth, 56 // 2**stage) for stage, depth in enumerate((3, 4, 6, 3))]
    positions = []  # (channels, pixels in, pixels out)
    for stage, (channels, depth, side) in enumerate(layers):
        for block in range(depth):
            before = side * (2 if stage > 0 and block == 0 else 1)
            positions.append((channels, before**2, side**2))
    giga = {
        "convolution": (sum(9 * c * c * n for c, _, n in positions), sum(9 * c * n for c, _, n in positions)),
        "attention": (sum(3 * c * c * n for c, n, _ in positions), sum(98 * c * n for c, n, _ in positions)),
        "ACmix": (
            sum(3 * c * c * n for c, n, _ in positions),
            sum((98 + 27) * c * before + (9 + 81) * c * n for c, before, n in positions),
        ),
    }
    squares, channels = sum(c * c for c, _, _ in positions), sum(c for c, _, _ in positions)
    params = {
        "convolution": (9 * squares, 0),
        "attention": (3 * squares, 0),
        "ACmix": (3 * squares, 81 * channels + 108 * len(positions)),
    }
    paper = {
        "convolution": "1.9, 0.1 | 11.3, 0",
        "attention": "1.0, 0.2 | 3.8, 0",
        "ACmix": "1.0, 0.4 | 3.8, 0.3",
    }
    table = ["| module | paper G (I, II) | paper M (I, II) | ours G | ours M |", "|---|---|---|---|---|"]
    for module in paper:
        ours = ", ".join(f"{n / 1e9:.3f}" for n in giga[module]), ", ".join(f"{n / 1e6:.3f}" for n in params[module])
        table.append(f"| {module} | {paper[module]} | {' | '.join(ours)} |")
    return table


ABLATIONS = {  # setting of Tables 6 and 7 -> model and options
    "attention only": ("swin_tiny", {}),
    "convolution only": ("conv_swin_tiny", {}),
    "1, 1": ("acmix_swin_tiny", {"combine": "sum"}),
    "alpha, 1": ("acmix_swin_tiny", {"combine": "alpha"}),
    "alpha, 1-alpha": ("acmix_swin_tiny", {"combine": "complement"}),
    "alpha, beta": ("acmix_swin_tiny", {}),
    "tensor shifts": ("acmix_swin_tiny", {"shift": "tensor"}),
    "fixed kernels": ("acmix_swin_tiny", {"shift": "fixed"}),
    "random initialisation": ("acmix_swin_tiny", {"shift": "random"}),
    "group convolution (full)": ("acmix_swin_tiny", {}),
}


def acmix_ablation_rows():
    """Tables 6 and 7."""
    table = [
        "| table | setting | model | paper top-1 | paper params (M) | ours | paper MACs (G) | ours |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for row in paper_rows("ACmix"):
        if row["table"] in ("6", "7"):
            name, options = ABLATIONS[row["setting"]]
            ours = count(name, **options)
            model = ", ".join([f"`{name}`", *(f"`{key}={value}`" for key, value in options.items())])
            counts = f"{row['params_m']} | {ours.params_with_norms:,} | {row['macs_g']} | {ours.macs / 1e9:.3f}"
            table.append(f"| {row['table']} | {row['setting']} | {model} | {row['top1_val']} | {counts} |")
    return table


def page():
    """The whole page as text."""
    return f"{INTRODUCTION}\n{visual_transformers()}{CONTRADICTIONS}\n{acmix()}"


def visual_transformers():
    """Its tables as text."""
    return f"""{lines(visual_transformer_rows())}
### Exactly

{lines(exact_rows())}
### Half of the tokens renewed

With `renewed_tokens=8` a recurrent tokenizer renews half of the tokens and carries the others over. The parameters stay
the same, and the MACs become the other figures that the papers print for the same models. We inferred this from the
counts. The default is the wiring of Tables 2 to 7.

{lines(renewed_rows())}
### Table 1: how many times smaller the token modules make a ResNet

We show the figures of Table 1 but do not aim at them: they cannot all hold together with Tables 2 to 8.

{lines(table_1_rows())}
### Tables 9 and 10: segmentation

The images have 800x1216 pixels with 54 classes (COCO-stuff; the text says 91 classes, and the MACs fit both), and
473x473 pixels with 20 classes (LIP). The MACs of VT-FPN are those of its equations: the layer computes less, because it
folds W_Q into the keys. The counts do not show whether VT-FPN keeps the additions from coarse to fine (`top_down`), nor
its norms. Here a batch norm follows every linear of its tokens, and none follows W_Q.

{lines(vt_fpn_rows())}
"""


def acmix():
    """Its tables as text."""
    return f"""## ACmix

The table has the models of Figure 4 of ACmix (Pan et al., CVPR 2022). Parameters include norms here, as that paper
counts them. The authors released ResNet and Swin, whose modules have the counts below. Most of the paper's parameter
counts fit ours plus one more kernel of the convolution path's size per ACmix layer. The released modules do not have
that kernel. The column next to ours shows the sum. The authors never released SAN and PVT with ACmix. Our wiring of
them is the one whose counts fit.

{lines(acmix_rows())}
### Table 1: the two stages of the 3x3 positions of ResNet-50

These figures come from the table's formulas, not from a model. Where a layer has a stride, its convolutions (k_c^2 C
and k_c^4 C of stage II) count at the output's resolution. Its projections, its attention and the light dense layer
count at the input's resolution. This gives all figures of ACmix and its shares of 73 % and 27 %, and the figures of
attention except its 83 % (ours is 84 %). The term k_c^2 C sums shifted maps, which the group convolution already does.
Without it, stage II of ACmix is 0.350. The 0.1 G of convolution's stage II do not follow from the table's own formula.
Our ACmix attends at the output's resolution, which costs less.

{lines(acmix_table_1_rows())}
### Tables 6 and 7: what ACmix-Swin-T is made of

Conv-Swin-T has a dense 3x3 convolution in place of the whole attention module. The 4.5 G that the paper prints for it
do not fit its 39 M parameters.

{lines(acmix_ablation_rows())}
### Table 2: segmentation

The images have 512x2048 pixels and 150 classes (ADE20K). Parameters include norms, the auxiliary head of UPerNet, and
PVT's position embeddings at 224x224, where its backbone was trained (at 512x2048 they are 7.7 M more). MACs leave the
auxiliary head out. PVT has no class token here, as in its authors' segmentation; with one, its MACs are up to 0.02 G
more. The paper's +5 G of Swin-ACmix-T are not reproduced.

{lines(acmix_segmentation_rows())}
### Tables 3 and 4: detection

The paper does not say how it counts, and no one rule gives all of its figures; each row has the one that fits. In a
block with stride, ACmix projects the whole map, as in the authors' code. The paper's 226 and 230 G fit projections of
the block's output alone, which has a quarter of the pixels. PVT is as in its authors' detectors, without class token;
there, pixels that do not fill a patch are left out, where ours pads. The figures of Swin are the backbone's profile and
the equations of necks and heads, all without attention products. By these rules ours are within 1 G of all figures.

{lines(detection_rows())}
### Table 5: speed

The paper measured on an Ascend 910, with images of 576x576. It does not name its ACmix models. The first must be
PVT-ACmix-T, whose 42.0 AP Table 4 has; we take the second to be PVT-ACmix-S. [Ours,
measured](performance_detection.md).

{lines(speed_rows())}"""


def lines(rows):
    return "".join(f"{row}\n" for row in rows)


if __name__ == "__main__":
    Path(sys.argv[1]).write_text(page(), encoding="utf-8")
    print(f"wrote {sys.argv[1]}")
