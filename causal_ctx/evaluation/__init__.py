"""Measures: pure functions from predictions and data to named numbers."""
