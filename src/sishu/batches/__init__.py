"""From tokens and conversations to tensors: every batch is a function of the seed and the step alone."""
