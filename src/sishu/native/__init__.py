"""Code for the processor, compiled where a compiler is; everything works without it, more slowly."""
