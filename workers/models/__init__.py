"""Backbones, heads and the tensors of their checkpoints."""
