"""sishu (私塾): a private school for language models, from raw web pages to an assistant."""

import os

# Threads that spin while they wait make training up to seven times slower as soon as another process wants
# a core (measured on two cores); this must be said before torch starts its threads.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
