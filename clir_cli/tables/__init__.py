"""Tables and differences from what experiments leave: metrics.csv, per_query.csv, config.yaml (CONTRACT.md sections 3, 4)."""

from clir_cli.tables.differences import Difference, diff
from clir_cli.tables.reading import COLUMNS, COUNTS, PER_QUERY, Results, Row, read
from clir_cli.tables.tabulating import settings, table

__all__ = ["COLUMNS", "COUNTS", "PER_QUERY", "Difference", "Results", "Row", "diff", "read", "settings", "table"]
