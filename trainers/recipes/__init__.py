"""Recipes: their shared parts, how they are read and checked."""
