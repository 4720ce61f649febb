"""Merges models: state dicts in, state dict out, one tensor at a time."""
