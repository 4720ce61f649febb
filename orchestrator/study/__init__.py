"""Reads study files: their schema, checks between fields, and every problem at once."""
