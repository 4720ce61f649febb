"""Computes the bounds of a study's merges from measured constants, as stated and as proved."""
