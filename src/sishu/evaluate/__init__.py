"""What a model has learnt, measured on what it never saw, beside baselines."""
