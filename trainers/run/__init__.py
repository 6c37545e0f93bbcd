"""The folder of a run: only the chief of its processes writes there."""
