"""Knows what a task is, its images and heads, and how well a model does on it."""
