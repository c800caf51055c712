"""From a model to text: sampling and the engine that keeps the cache."""
