"""Exports a model of a study: chooses it, has it made again, writes its card."""
