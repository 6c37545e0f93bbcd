"""Nothing in a model may switch XLA on unasked (Keras does so for grouped convolutions)."""

import keras
import pytest

import tests.contracts as contracts
import tfvt

pytestmark = pytest.mark.skipif(keras.backend.backend() != "tensorflow", reason="about TensorFlow's graphs")


def compiled_functions(model):
    """Names of functions inside the graph of a training step that are marked for XLA."""
    import tensorflow as tf

    @tf.function
    def step(images):
        with tf.GradientTape() as tape:
            loss = tf.reduce_sum(model(images, training=True))
        return tape.gradient(loss, [v.value for v in model.trainable_variables])

    graph = step.get_concrete_function(tf.TensorSpec((2, *model.input_shape[1:]))).graph.as_graph_def()
    marked = [f.signature.name for f in graph.library.function if f.attr["_XlaMustCompile"].b]
    nodes = [*graph.node, *(node for f in graph.library.function for node in f.node_def)]
    return marked + [node.name for node in nodes if node.op == "XlaLaunch" or node.attr["_XlaMustCompile"].b]


@pytest.mark.parametrize("name", contracts.SMALLEST.values())
def test_models_leave_xla_alone(name):
    assert compiled_functions(tfvt.create_model(name, input_shape=contracts.image_shape(name), num_classes=3)) == []


def test_the_check_sees_a_grouped_convolution():
    inputs = keras.Input((8, 8, 4))
    model = keras.Model(inputs, keras.layers.Conv2D(4, 1, groups=2)(inputs))
    assert compiled_functions(model) != []
