"""Checks the arithmetic that is written in a text."""
