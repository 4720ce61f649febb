"""Writes the models of a study as folders that timm loads by itself."""
