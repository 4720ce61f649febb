"""A study's own tasks: class folders, Parquet and Arrow tables, and data sets of the hub."""
