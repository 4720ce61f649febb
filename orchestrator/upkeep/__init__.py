"""Verification and garbage collection of a store."""
