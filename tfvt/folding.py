"""Batch norms folded into the layers before them: the same answers with fewer operations and weights."""

from collections.abc import Iterator
from dataclasses import dataclass, field

import keras
import numpy as np

from tfvt.layers import BatchNormalization, GroupedDense, JoinedConvolution, LinearNorm
from tfvt.layers.dense import TokenDense
from tfvt.layers.roi_heads import RoIConv2D, RoIConv2DTranspose
from tfvt.layers.visual_tokens import VisualTokenLayer

_DEPTHWISE = (keras.layers.DepthwiseConv1D, keras.layers.DepthwiseConv2D)
_TRANSPOSED = (keras.layers.Conv1DTranspose, keras.layers.Conv2DTranspose, keras.layers.Conv3DTranspose)
_CONVOLUTIONS = (keras.layers.Conv1D, keras.layers.Conv2D, keras.layers.Conv3D, *_DEPTHWISE, *_TRANSPOSED)
_OURS = (GroupedDense, JoinedConvolution, RoIConv2D, RoIConv2DTranspose, TokenDense)
# Their subclasses may compute something else, such as a convolution that normalises its kernel.
_LINEAR = (*_CONVOLUTIONS, keras.layers.Dense, *_OURS)
_NORMS = (keras.layers.BatchNormalization, BatchNormalization)


def fuse(model: keras.Model) -> keras.Model:
    """The same model for inference, each batch norm folded into the convolution or dense layer that feeds it alone.

    With s = gamma / sqrt(variance + epsilon), such a layer gets the kernel s kernel and the bias beta + s (bias - mean)
    (Jacob et al. 2018, https://arxiv.org/abs/1712.05877, eq. 14). The norm goes. The linears within tfvt's layers of
    visual tokens and the layers of nested models are folded too. A norm that reads something else, such as a sum, or a
    layer that others read as well, stays; and so does one of a class that is neither Keras' nor tfvt's, or that the
    model calls with training=True.

    Args:
        model: a functional or `Sequential` model of any library; it stays as it is.

    Returns:
        A functional model of the same class, with the same inputs, outputs and names of layers, and weights of its own.
        It can be saved as any other, and trains no more as the given one does.

    Raises:
        ValueError: a model that is neither functional nor `Sequential`, or has no weights yet.
    """
    graph = _as_graph(model)
    if not hasattr(graph, "_nodes_by_depth"):
        raise ValueError(f"fuse takes a functional or Sequential model that is built; {model.name} is neither")
    learning = _learning(graph)
    folding = _Folding(_norms_to_fold(graph, learning), learning)
    fused = folding.graph(graph)
    folding.fill()
    return fused


def _as_graph(model):
    """A Sequential model as a functional one; others as they are."""
    if isinstance(model, keras.Sequential) and model.built:
        return keras.Model(model.inputs[0], model.outputs[0], name=model.name)  # its `output` is that of a call
    return model


@dataclass
class _Folding:
    """Copies a model without the norms that are folded."""

    norms: dict[int, keras.layers.Layer]  # by the id of the layer that feeds it
    learning: set[int]  # ids of layers that stay as they are
    copies: dict[int, keras.layers.Layer] = field(default_factory=dict)  # by the id of the layer
    pairs: list[tuple] = field(default_factory=list)  # of a layer and its copy
    passed: set[int] = field(default_factory=set)  # ids of the norms

    def __post_init__(self):
        self.passed = {id(norm) for norm in self.norms.values()}

    def graph(self, model):
        # Keras' own copies of inputs are not optional where the given ones are.
        inputs = keras.tree.map_structure(_input_again, model.input)
        return keras.models.clone_model(model, inputs, clone_function=self.copy, call_function=self.call)

    def call(self, layer, *args, **kwargs):
        return args[0] if id(layer) in self.passed else layer(*args, **kwargs)

    def copy(self, layer):
        if id(layer) in self.passed or type(layer) is keras.layers.Lambda:  # Keras refuses to copy a function
            return layer
        if id(layer) not in self.copies:
            graph = _as_graph(layer)
            if hasattr(graph, "_nodes_by_depth"):
                self.copies[id(layer)] = self.graph(graph)
            else:
                changed = {"use_bias": True} if id(layer) in self.norms else {}
                if self.linears(layer, "batch"):
                    changed = {"norm": "bias", "norm_options": {}}
                self.copies[id(layer)] = type(layer).from_config(layer.get_config() | changed)
                self.pairs.append((layer, self.copies[id(layer)]))
        return self.copies[id(layer)]

    def fill(self):
        """Give the copies their weights."""
        for layer, copy in self.pairs:
            if id(layer) in self.norms:
                _fold(layer, self.norms[id(layer)], copy)
            elif isinstance(layer, keras.layers.Layer):
                before = self.linears(layer, "batch")
                after = _linear_norms(copy, "bias") if before else []
                for linear, other in zip(before, after, strict=True):
                    _fold(linear.linear, linear.normalize, other.linear)
                for variable, other in zip(_others(layer, before), _others(copy, after), strict=True):
                    # Keras gives JAX's arrays away in each call of a model: none is shared.
                    other.assign(np.array(keras.ops.convert_to_numpy(variable)))
                for part in copy._flatten_layers():
                    if isinstance(part, keras.layers.Normalization):
                        part.finalize_state()  # what it computes from its variables

    def linears(self, layer, norm):
        return [] if id(layer) in self.learning else _linear_norms(layer, norm)


def _input_again(tensor):
    layer = tensor._keras_history.operation
    return type(layer).from_config(layer.get_config()).output


def _linear_norms(layer, norm):
    """The linears with this norm in one of tfvt's layers."""
    if not isinstance(layer, LinearNorm | VisualTokenLayer):
        return []
    return [part for part in layer._flatten_layers() if isinstance(part, LinearNorm) and part.norm == norm]


def _others(layer, linears):
    """The variables of a layer that are not of these linears."""
    known = {id(variable) for linear in linears for variable in linear.variables}
    return [variable for variable in layer.variables if id(variable) not in known]


def _fold(layer, norm, copy):
    """Fill `copy`, which has a bias, with what `layer` and then `norm` do."""
    mean, variance = (_array(value) for value in (norm.moving_mean, norm.moving_variance))
    scale = 1 / np.sqrt(variance + norm.epsilon)
    scale = scale * _array(norm.gamma) if norm.scale else scale
    bias = (_array(layer.bias) if layer.use_bias else 0) - mean
    offset = _array(norm.beta) if norm.center else 0
    copy.bias.assign(offset + scale * bias)
    copy.kernel.assign(_array(layer.kernel) * _along_outputs(layer, scale))


def _along_outputs(layer, scale):
    """The scale of each output channel in a shape that multiplies the layer's kernel."""
    if isinstance(layer, _DEPTHWISE):
        return scale.reshape(layer.kernel.shape[-2:])
    if isinstance(layer, _TRANSPOSED):
        return scale[:, None]
    if isinstance(layer, GroupedDense):
        return scale.reshape(layer.groups, 1, -1)
    return scale


def _array(variable):
    return keras.ops.convert_to_numpy(variable).astype("float64")


def _learning(model):
    """Ids of the layers that take the statistics of the batch: of calls with training=True, and within such layers."""
    nodes = (node for graph in _graphs(model) for nodes in graph._nodes_by_depth.values() for node in nodes)
    called = [node.operation for node in nodes if node.arguments.kwargs.get("training")]
    return {id(part) for operation in called for part in operation._flatten_layers()}


def _norms_to_fold(model, learning):
    """The batch norms that can be folded, by the id of the layer that feeds them."""
    feeds, reads = {}, {}  # by the id of an operation: those before and after it, by their ids
    for graph in _graphs(model):
        nodes = [node for nodes in graph._nodes_by_depth.values() for node in nodes]
        makers = {id(tensor): node.operation for node in nodes for tensor in node.outputs}
        for tensor in graph.outputs:
            reads.setdefault(id(makers[id(tensor)]), {})[id(graph)] = graph
        for node in nodes:
            for maker in (makers[id(tensor)] for tensor in node.input_tensors):
                reads.setdefault(id(maker), {})[id(node.operation)] = node.operation
                feeds.setdefault(id(node.operation), {})[id(maker)] = maker
    norms = {}
    for norm, layers in feeds.items():
        layer, *more = layers.values()
        if not more and len(reads[id(layer)]) == 1:
            (reader,) = reads[id(layer)].values()
            if id(reader) == norm and norm not in learning and _can_fold(layer, reader):
                norms[id(layer)] = reader
    return norms


def _graphs(model) -> Iterator[keras.Model]:
    """A functional model and those within it."""
    yield model
    for operation in model.operations:
        graph = _as_graph(operation)
        if hasattr(graph, "_nodes_by_depth"):
            yield from _graphs(graph)


def _can_fold(layer, norm):
    """Whether the layer is linear and the norm one of its output channels."""
    if type(layer) not in _LINEAR or type(norm) not in _NORMS:
        return False
    if getattr(layer, "activation", None) not in (None, keras.activations.linear):
        return False
    if len(layer.weights) != 1 + layer.use_bias or layer.compute_dtype != norm.compute_dtype:
        return False  # it is quantised or has an adapter, or the norm changes the type
    rank = norm.input_spec.ndim
    last = getattr(layer, "data_format", "channels_last") == "channels_last"
    return norm.axis % rank == (rank - 1 if last else 1)
