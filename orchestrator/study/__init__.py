"""The study file: schema, reading, every problem at once."""
