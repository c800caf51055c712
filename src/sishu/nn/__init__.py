"""Blocks: the pieces models are made of. They know no model and no training."""
