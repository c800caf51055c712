"""Losses as pure functions: shapes and sources in the docstrings, no state, no task."""
