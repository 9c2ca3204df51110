"""A run's report: figures, tables, pages."""
