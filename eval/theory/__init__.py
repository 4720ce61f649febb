"""Computes the theory of merging short fine-tunings: formulas and estimators, with numpy only."""
