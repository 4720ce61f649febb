"""A study's own tasks: folders, tables, hub snapshots."""
