"""`make demo`: from real images to a trained, evaluated and served model."""
