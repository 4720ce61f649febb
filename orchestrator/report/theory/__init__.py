"""The report's chapter on the theory tables: figures, tables and sentences."""
