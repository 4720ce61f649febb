"""Bases, images and zero-shot heads, made once before the trials."""
