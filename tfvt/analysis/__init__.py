"""Costs, attention, gradients and learned rates of a model; runs on every Keras backend."""

from tfvt.analysis.attention import (
    ForegroundSums,
    TokenMaps,
    attention_entropy,
    foreground_attention,
    foreground_sums,
    token_attention,
    token_maps,
    uniform_entropy,
)
from tfvt.analysis.gradients import ClassGradients, class_gradients, visualize_classes
from tfvt.analysis.layer_maps import LayerAttention, layer_attention, localness, rollout
from tfvt.analysis.pictures import (
    MapRow,
    draw_class_images,
    draw_foreground_ratios,
    draw_localness,
    draw_maps,
    draw_token_attention,
    draw_training_curves,
)
from tfvt.analysis.profiling import Profile, profile
from tfvt.analysis.rates import PathRates, draw_path_rates, path_rates

__all__ = [
    "ClassGradients",
    "ForegroundSums",
    "LayerAttention",
    "MapRow",
    "PathRates",
    "Profile",
    "TokenMaps",
    "attention_entropy",
    "class_gradients",
    "draw_class_images",
    "draw_foreground_ratios",
    "draw_localness",
    "draw_maps",
    "draw_path_rates",
    "draw_token_attention",
    "draw_training_curves",
    "foreground_attention",
    "foreground_sums",
    "layer_attention",
    "localness",
    "path_rates",
    "profile",
    "rollout",
    "token_attention",
    "token_maps",
    "uniform_entropy",
    "visualize_classes",
]
