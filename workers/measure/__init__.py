"""Measures what the theory of a study needs: gradients, curvature, and what operators change."""
