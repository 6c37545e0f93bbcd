"""Costs, attention and learned rates of a model; runs on every Keras backend."""

from tfvt.analysis.attention import draw_token_attention, foreground_attention, token_attention
from tfvt.analysis.profiling import Profile, profile
from tfvt.analysis.rates import PathRates, draw_path_rates, path_rates

__all__ = [
    "PathRates",
    "Profile",
    "draw_path_rates",
    "draw_token_attention",
    "foreground_attention",
    "path_rates",
    "profile",
    "token_attention",
]
