"""How a step runs on devices: one file a tensor library."""
