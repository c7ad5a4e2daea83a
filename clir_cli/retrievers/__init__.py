"""Retrievers: each ranks a collection for queries (types.Retriever), one method per file."""
