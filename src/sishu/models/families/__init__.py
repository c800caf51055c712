"""Families as data: how a family's published configuration and weight names map to ours."""
