"""Measures the speeds of one device on samples of a study's work."""
