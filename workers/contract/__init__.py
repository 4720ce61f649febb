"""Checks users' merging methods against the contract of methods, before a study uses them."""
