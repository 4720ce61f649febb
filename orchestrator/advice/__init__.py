"""Advice: which settings of a study to try next, and which experiment says most."""
