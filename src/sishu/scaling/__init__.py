"""How the loss falls with size and tokens, and an ability with size: ladders of small models."""
