"""clir: cross-lingual retrieval experiments, from one line to a table."""

__version__ = "0.1.0"
