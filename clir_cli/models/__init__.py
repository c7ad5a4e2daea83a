"""Models: where their files are, loading, encoding."""
