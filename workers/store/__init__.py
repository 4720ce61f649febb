"""Keeps objects under keys: in a directory or in an S3 bucket, behind one contract."""
