"""Scores models that other tools made in the tables of a study."""
