"""Test collections: documents, topics and judgments, each readable alone."""
