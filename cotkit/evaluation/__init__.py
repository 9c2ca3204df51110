"""Metrics, statistics, comparison of methods, the LLM judge."""
