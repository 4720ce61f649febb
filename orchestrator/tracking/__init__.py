"""Publishes a study's runs to MLflow from a background process: a view, never the truth."""
