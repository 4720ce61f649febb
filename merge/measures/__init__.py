"""Measures what operators do to task vectors: their spread, and how far one expert decides."""
