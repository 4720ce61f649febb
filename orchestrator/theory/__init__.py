"""Answers about merging that a study's tables alone can give, each with its uncertainty."""
