"""Publishes a study to MLflow from a process of its own; nothing is read back from MLflow."""
