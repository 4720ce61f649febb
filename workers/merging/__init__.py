"""Merges the experts of a group and evaluates the result; merges files outside any study."""
