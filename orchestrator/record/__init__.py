"""What exists of a plan, what is missing and why; a study's own files."""
