"""Model directories that are shipped."""
