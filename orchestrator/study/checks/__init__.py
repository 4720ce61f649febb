"""Checks between the sections of a study file, and against files, catalogues and models."""
