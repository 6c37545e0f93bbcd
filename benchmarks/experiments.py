"""docs/experiments.md: small models trained here on the digits of `make demo`, each beside its baseline, three seeds.

python -m benchmarks.experiments [--folder runs/experiments] [--write docs/experiments.md] [RECIPE FLAGS...]

Every run is a run of `tfvt train` in a folder of its own. Finished ones are not trained again, and one that was stopped
continues, so the command can be stopped and called again. Recipe flags, such as `--epochs 2`, go to every run.
"""

import argparse
import re
import statistics
from pathlib import Path

from benchmarks.distillation import make_records, train

SEEDS = (0, 1, 2)
RESNET = ["--model.name=resnet18", "--model.options={width: 16, depths: [1, 1, 1, 2], stem_pool: false}"]
BOTTLENECKS = "--model.options={width: 16, depths: [2, 2, 2]}"
# Pairs of a model and its baseline: title -> recipe and flags. In a pair only the model differs.
PAIRS = (
    {
        "ResNet": ("digits_vt_resnet", RESNET),
        "VT-ResNet": ("digits_vt_resnet", []),
    },
    {
        "bottleneck ResNet": ("digits_vt_resnet", ["--model.name=resnet26", BOTTLENECKS]),
        "ACmix-ResNet": ("digits_vt_resnet", ["--model.name=acmix_resnet26", BOTTLENECKS]),
    },
    {
        "ViT": ("digits_vit", []),
        "Funnel-ViT": ("digits_funnel_vit", []),
    },
)
BEGIN, END = "<!-- table: begin -->\n", "<!-- table: end -->\n"


def counts(run):
    """(parameters, MACs) of a finished run's model."""
    import keras

    import tfvt

    profile = tfvt.profile(keras.models.load_model(run / "final.keras", compile=False))
    return profile.params, profile.macs


def measure(folder, flags=(), pairs=PAIRS, seeds=SEEDS):
    """Train what is not trained yet: title -> (parameters, MACs, validation top-1 of each seed), pair by pair."""
    records = make_records(folder)
    results = []
    for pair in pairs:
        results.append({})
        for title, (recipe, own) in pair.items():
            runs = {seed: folder / "runs" / f"{title.lower().replace(' ', '_')}_{seed}" for seed in seeds}
            scores = [train(run, recipe, records, *own, f"--seed={seed}", *flags) for seed, run in runs.items()]
            results[-1][title] = (*counts(runs[seeds[0]]), scores)
            print(title, *(f"{score:.2%}" for score in scores), sep="  ", flush=True)
    return results


def table(results):
    """Lines of Markdown: each model, and how far the second of a pair is from the first, seed by seed."""
    seeds = len(next(iter(results[0].values()))[2])
    lines = [
        f"| model | parameters | MACs | {' | '.join(f'seed {n + 1}' for n in range(seeds))} | mean | deviation |",
        "|---|---|---|" + "---|" * (seeds + 2),
    ]
    for pair in results:
        for title, (params, macs, scores) in pair.items():
            lines.append(f"| {title} | {params:,} | {macs:,} | {cells(scores, '.2f')} |")
        first, second = (scores for *_, scores in pair.values())
        gains = [b - a for a, b in zip(first, second, strict=True)]
        lines.append(f"| difference | | | {cells(gains, '+.2f')} |")
    return "".join(f"{line}\n" for line in lines)


def cells(scores, form):
    """Scores in percent, their mean and their standard deviation over seeds."""
    deviation = statistics.stdev(scores) if len(scores) > 1 else 0.0
    shown = [f"{100 * score:{form}}" for score in (*scores, statistics.mean(scores))]
    return " | ".join([*shown, f"{100 * deviation:.2f}"])


def main(arguments=None):
    parser = argparse.ArgumentParser(prog="python -m benchmarks.experiments", description=__doc__.splitlines()[0])
    parser.add_argument("--folder", type=Path, default=Path("runs/experiments"), help="of records and runs")
    parser.add_argument("--write", type=Path, metavar="PAGE", help="put the table into this page")
    own, flags = parser.parse_known_args(arguments)
    text = table(measure(own.folder, flags))
    print(f"\n{text}", end="")
    if own.write:
        page = own.write.read_text(encoding="utf-8")
        page = re.sub(f"{BEGIN}.*?{END}", lambda _: f"{BEGIN}\n{text}\n{END}", page, flags=re.DOTALL)
        own.write.write_text(page, encoding="utf-8")


if __name__ == "__main__":
    main()
