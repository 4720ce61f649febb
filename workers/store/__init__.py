"""Object storage in a directory or an S3 bucket, behind one contract."""
