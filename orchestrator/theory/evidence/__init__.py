"""Compares the theory's formulas and measurements with the merges that a study has measured."""
