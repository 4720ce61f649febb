"""A study worked out: settings, groups, bases, specifications."""
