"""Whole models, and their folders on disk. They know no training."""
