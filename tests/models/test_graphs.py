"""TensorFlow's graphs of models."""

import gc
import weakref

import keras
import pytest

import tfvt
from tfvt.layers import convolution

SMALL = {
    "acmix_resnet26": {"width": 16, "depths": (1, 1), "num_heads": 2},
    "san10": {"width": 32, "depths": (1, 1)},
    "swin_tiny": {"depths": (2, 1), "width": 32, "head_dim": 16},
    "vt_resnet18": {"width": 16, "depths": (1, 1)},
}


@pytest.mark.skipif(keras.backend.backend() != "tensorflow", reason="these graphs are TensorFlow's")
@pytest.mark.parametrize("name", SMALL)
def test_a_graph_and_its_weights_go_with_the_model(name, monkeypatch):
    """TensorFlow never lets go of what custom gradients refer to: that may not be the model's graph."""
    import tensorflow as tf

    monkeypatch.setattr(convolution, "_has_gradient", lambda dtype: False)  # then ours is needed
    model = tfvt.create_model(name, input_shape=(64, 64, 3), num_classes=2, **SMALL[name])
    graph = weakref.ref(tf.function(model).get_concrete_function(tf.TensorSpec((2, 64, 64, 3))).graph)
    weights = [weakref.ref(variable.value) for variable in model.variables]
    assert graph() is not None
    del model
    keras.backend.clear_session()
    gc.collect()
    assert graph() is None
    assert not any(weight() is not None for weight in weights)
