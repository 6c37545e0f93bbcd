"""What a model costs and what it looks at; runs on every Keras backend."""

from tfvt.analysis.profile import Profile, profile

__all__ = ["Profile", "profile"]
