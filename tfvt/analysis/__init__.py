"""What a model costs and what it looks at; runs on every Keras backend."""

from tfvt.analysis.attention import draw_token_attention, foreground_attention, token_attention
from tfvt.analysis.profile import Profile, profile

__all__ = ["Profile", "draw_token_attention", "foreground_attention", "profile", "token_attention"]
