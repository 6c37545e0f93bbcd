"""How a step runs on devices: one file for each tensor library."""
