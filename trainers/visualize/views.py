"""Each picture of `tfvt visualize`: what it shows, in numbers and words, and how it is drawn."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from rich.progress import track

from tfvt.analysis import (
    ForegroundSums,
    MapRow,
    attention_entropy,
    class_gradients,
    draw_class_images,
    draw_foreground_ratios,
    draw_localness,
    draw_maps,
    draw_path_rates,
    draw_training_curves,
    foreground_sums,
    layer_attention,
    localness,
    path_rates,
    rollout,
    token_attention,
    token_maps,
    uniform_entropy,
    visualize_classes,
)
from tfvt.data.records import VOID, RecordSet
from tfvt.data.segmentation import SegmentationEvaluation, SegmentationSamples
from tfvt.data.stream import StreamSettings, image_stream
from tfvt.errors import UsageError
from tfvt.trainers.engines.tensorflow_batches import readable

from .sources import Picture, Source, batch, named, resized

MOST_TOKENS = 16  # of a tokenizer, in one picture


@dataclass(frozen=True)
class View:
    """A picture, ready to be drawn.

    Attributes:
        title: of the picture.
        caption: what one sees, with units and the source.
        draw: into a file.
        numbers: a table: rows of cells, the first its head; () without one.
    """

    title: str
    caption: str
    draw: Callable[[Path], None]
    numbers: Sequence[Sequence[str]] = field(default=())


def tokens(source: Source, pictures: Sequence[Picture]) -> View:
    """Where visual tokens look, by themselves and through each other.

    Raises:
        UsageError: the model has no tokenizers.
    """
    rows, entropies = [], {}
    for picture, images in zip(pictures, batch(source, pictures), strict=True):
        with named(source):
            found = token_maps(source.model, images)
        for name, maps in found.items():
            short = _tokenizer(name)
            for kind, values in (("A", maps.attention), ("Â", maps.mixed)):
                if values is None:
                    continue
                ratio = attention_entropy(values).mean() / max(uniform_entropy(*values.shape[1:3]), 1e-12)
                entropies.setdefault((short, kind), []).append(
                    (attention_entropy(values).mean(), uniform_entropy(*values.shape[1:3]), ratio)
                )
                shown = {f"token {n + 1}": values[0, ..., n] for n in range(min(values.shape[-1], MOST_TOKENS))}
                rows.append(MapRow(images[0], f"{short} {kind}, {picture.title}", shown))
    table = [("tokens", "entropy in nats", "if uniform", "part of uniform")]
    for (short, kind), values in entropies.items():
        entropy, uniform, ratio = np.mean(values, axis=0)
        table.append((f"{short} {kind}", f"{entropy:.3f}", f"{uniform:.3f}", f"{ratio:.1%}"))
    return View(
        "Where visual tokens look",
        "A is the attention of each token of a tokenizer over the image. Â is what a token sees through the tokens "
        "that it attends to: the sum over l' of W[l, l'] A[l'], with the weights W of the token transformer. Each map "
        f"has its own range; of more than {MOST_TOKENS} tokens the first are shown. The table has the mean entropy of "
        "a token's attention, -sum A ln A, and ln(h w) of attention that is the same on all h x w cells of the map. "
        "Source: Visual Transformers (Wu et al., ICCV 2021), section 6 and Figure 6.",
        lambda path: draw_maps(rows, "attention", path, columns=MOST_TOKENS),
        table,
    )


def on_foreground(source: Source, records: RecordSet, background: Sequence[int], first: int | None) -> View:
    """Attention of tokens per foreground pixel against per background pixel, over records with masks.

    Args:
        source: a model with tokenizers.
        records: images with masks.
        background: classes that are background; pixels that are void are neither.
        first: how many records; None: all.

    Raises:
        UsageError: the model has no tokenizers, a record has no mask, or no image has both kinds of pixels.
    """
    stream = image_stream(records, SegmentationSamples.of(records, SegmentationEvaluation()), StreamSettings(1))
    count = min(first or records.num_examples, records.num_examples)
    size, sums = source.model.inputs[0].shape[1:3], {}
    samples = _readable(stream.take(count))
    for sample in track(samples, "attention on the foreground", count, transient=True):
        image, mask = sample["image"][0], sample["mask"][0]
        seen = [side or own for side, own in zip(size, mask.shape, strict=True)]
        is_background = np.isin(mask, background)
        with named(source):
            attended = token_attention(source.model, resized(image, seen)[None])
        for name, maps in attended.items():
            areas = (~is_background & (mask != VOID), is_background & (mask != VOID))
            found = foreground_sums(maps, *(area[None] for area in areas), size=tuple(seen))
            sums[name] = sums[name] + found if name in sums else found
    total = next(iter(sums.values()))
    if not total.foreground_area or not total.background_area:
        raise UsageError(
            f"the masks of {records.split} in {records.directory} show no "
            f"{'background' if total.foreground_area else 'foreground'} (--background says which classes are)"
        )
    head = ("tokens", "attention on foreground", "its area", "per pixel, foreground / background", "of single tokens")
    sums = {_tokenizer(name): found for name, found in sums.items()}
    return View(
        "Attention on the foreground",
        f"How much attention a pixel of the foreground gets for each that one of the background gets, over {count} "
        "images with masks; 1 is attention that is the same everywhere. Background: class "
        f"{', '.join(map(str, background))}; void pixels are neither. Source: Visual Transformers (Wu et al., "
        "ICCV 2021), section 6, which finds + 28.3 % for VT-FPN on LIP.",
        lambda path: draw_foreground_ratios(sums, path),
        (head, *(_foreground_row(name, found) for name, found in sums.items())),
    )


def _readable(stream):
    """The elements of a stream; a record without a mask, or a damaged one, is a UsageError."""
    with readable():
        yield from stream.as_numpy_iterator()


def _tokenizer(layer: str) -> str:
    """The module or the level: "vt1" of "vt1_tokenizer", "p2" of "neck_p2_tokenizer"."""
    return layer.removesuffix("_tokenizer").removeprefix("neck_")


def _foreground_row(name: str, found: ForegroundSums) -> tuple[str, ...]:
    counted = found.foreground_area + found.background_area
    attention = found.foreground.mean() / (found.foreground + found.background).mean()
    low, high = found.ratio.min(), found.ratio.max()
    return (
        name,
        f"{attention:.1%}",
        f"{found.foreground_area / counted:.1%}",
        f"{found.mean_ratio:.3f} ({found.mean_ratio - 1:+.1%})",
        f"{low:.3f} to {high:.3f}",
    )


def attention(source: Source, pictures: Sequence[Picture], place: tuple[float, float] | None = None) -> View:
    """Attention of every layer, and its rollout.

    Args:
        source: a ViT, Funnel-ViT or Swin.
        pictures: the images.
        place: (down, right) of the query, 0 to 1; None: the class token, or the middle of a Swin's map.

    Raises:
        UsageError: the model has no such layers.
    """
    rows, has_token = [], False
    for picture, images in zip(pictures, batch(source, pictures), strict=True):
        with named(source):
            maps, layers = {"rollout": rollout(source.model, images)[0]}, layer_attention(source.model, images)
        for layer in layers:
            has_token = has_token or layer.weights.ndim == 4
            at = place and tuple(min(int(p * n), n - 1) for p, n in zip(place, layer.grid, strict=True))
            maps[layer.name.replace("encoder_", "").replace("_", " ")] = layer.maps(at)[0].mean(axis=0)
        rows.append(MapRow(images[0], picture.title, maps))
    query = "the class token" if has_token else "the middle of the map"
    query = f"the place {place[0]:g} down and {place[1]:g} right" if place else query
    return View(
        "Attention of the layers",
        f"What {query} looks at in each layer from image to head, a mean over heads; pooled tokens share their "
        "attention among their patches, and windows lie where the image has them. The rollout multiplies the layers, "
        "half of each its residual: what the classifier has looked at through all of them. Each map has its own range. "
        "Sources: Abnar and Zuidema 2020 for the rollout; ViT, Funnel-ViT and Swin for the layers.",
        lambda path: draw_maps(rows, "attention", path),
    )


def local_attention(sources: Sequence[Source], pictures: Sequence[Picture]) -> View:
    """How much of a layer's attention stays near its query.

    Raises:
        UsageError: a model has no such layers.
    """
    models = {}
    for source in sources:
        with named(source):
            found = [localness(source.model, images) for images in batch(source, pictures)]
        layers = {name: np.mean([values[name] for values, _ in found], axis=0) for name in found[0][0]}
        models[source.name] = (layers, found[0][1])
    table = [("model", "layer", "mean over heads", "deviation", "if uniform")]
    for name, (layers, uniform) in models.items():
        for (layer, heads), even in zip(layers.items(), uniform, strict=True):
            table.append((name, layer, f"{heads.mean():.3f}", f"{heads.std():.3f}", f"{even:.3f}"))
    return View(
        "How local attention is",
        f"Share of a layer's attention that stays in the 3x3 patches around the query, a mean over queries and "
        f"{len(pictures)} image(s): the line is the mean over heads, the band their standard deviation, the dotted "
        "line attention that is the same everywhere. Source: Visual Transformers (Wu et al., ICCV 2021), Figure 5.",
        lambda path: draw_localness(models, path),
        table,
    )


def saliency(sources: Sequence[Source], pictures: Sequence[Picture], label: int | None = None) -> View:
    """The pixels on which a class logit depends most, of models side by side.

    Args:
        sources: classifiers.
        pictures: the images.
        label: whose logit; default the class that the first model gives.

    Raises:
        UsageError: a model is no classifier, or does not have the class.
    """
    maps, shown, classes = [{} for _ in pictures], None, None if label is None else [label] * len(pictures)
    for source in sources:
        arrays = batch(source, pictures)
        shown = arrays if shown is None else shown
        if len({images.shape for images in arrays}) == 1:
            arrays = [np.concatenate(arrays)]  # one graph for all
        found, done = [], 0
        for images in arrays:
            with named(source):
                found.append(class_gradients(source.model, images, classes and classes[done : done + len(images)]))
            done += len(images)
        classes = [int(number) for part in found for number in part.classes]
        logits = np.concatenate([part.logits for part in found])
        shares = np.exp(logits - logits.max(axis=-1, keepdims=True))
        shares /= shares.sum(axis=-1, keepdims=True)
        saliencies = [values for part in found for values in part.saliency]
        for own, chosen, share, values in zip(maps, classes, shares, saliencies, strict=True):
            own[f"{_short(source)}\n{source.class_name(chosen)}: {share[chosen]:.0%}"] = values
    rows = [MapRow(images[0], p.title, own) for images, p, own in zip(shown, pictures, maps, strict=True)]
    return View(
        "Saliency",
        "How much a class logit changes with each pixel: the largest |gradient| of its three channels, in logits per "
        "unit of a pixel in 0..255. Above each map stand the model, the class, and the probability that it gives. "
        "Sources: Simonyan et al. 2014; Funnel-ViT (Zhang), Figure 3.",
        lambda path: draw_maps(rows, "|gradient| of the logit", path, overlay=False),
    )


def class_images(sources: Sequence[Source], classes: Sequence[int], steps: int, seed: int) -> View:
    """What models take for a class.

    Raises:
        UsageError: a model is no classifier, or does not have a class.
    """
    models = {}
    for source in sources:
        size = (224, 224)
        if isinstance(getattr(source.serving, "image_size", None), tuple):
            size = source.serving.image_size
        with named(source):
            images, shares = visualize_classes(source.model, classes, steps, size, seed)
        titles = [f"{source.class_name(c)} ({s:.0%})" for c, s in zip(classes, shares, strict=True)]
        models[_short(source)] = dict(zip(titles, images, strict=True))
    return View(
        "What the model takes for a class",
        f"Images from {steps} steps of gradient ascent on a class logit, from grey, with random shifts, fine structure "
        "damped and a pull towards grey; above each, the class and the probability that the model gives the image for "
        "it. They show what raises the logit, not what the class looks like. "
        "Sources: Simonyan et al. 2014; Funnel-ViT (Zhang), Figure 5.",
        lambda path: draw_class_images(models, path),
    )


def curves(runs: Mapping[str, Mapping[str, Sequence[float]]]) -> View:
    """Figures of runs over their steps."""
    return View(
        "Training curves",
        "Figures of each run after each epoch, over the updates of the weights: solid lines on the validation split, "
        "dashed ones a mean over the epoch's training steps, on augmented images. "
        "Source: Funnel-ViT (Zhang), Figure 4.",
        lambda path: draw_training_curves(runs, path),
    )


def rates(source: Source) -> View:
    """What ACmix layers prefer.

    Raises:
        UsageError: the model has no ACmix layers with learned rates.
    """
    with named(source):
        found = path_rates(source.model)
    values = zip(found.layers, found.alpha, found.beta, found.log_ratio, strict=True)
    table = [("layer", "alpha", "beta", "log|alpha/beta|")]
    table += [(name, *(f"{value:.4f}" for value in row)) for name, *row in values]
    return View(
        "Rates of attention and convolution",
        "|alpha|, the rate of attention, |beta|, that of convolution, and log|alpha/beta| of each ACmix layer from "
        "image to head; above 0, attention weighs more. Source: ACmix (Pan et al., CVPR 2022), Figure 5.",
        lambda path: draw_path_rates({source.name: found}, path),
        table,
    )


def _short(source):
    """The last two parts of the model's path, which fit above a picture."""
    return "/".join(source.name.rstrip("/").split("/")[-2:])
