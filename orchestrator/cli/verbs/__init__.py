"""The verbs of the command line: one module each, called by the declarations in `main`."""
