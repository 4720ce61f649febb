"""The state of a study: committed and missing artifacts, failures, and the study's own files."""
