"""Rerankers: one component per file."""
