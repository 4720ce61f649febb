"""Checks a study's models in a process of its own, before anything is prepared."""
