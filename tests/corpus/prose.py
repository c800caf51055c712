"""Text that passes every rule, for tests: made up sentences of any number, and one long story."""

import random

NOUNS = ["river", "bridge", "tower", "market", "garden", "harbour", "window", "kitchen", "teacher"]
VERBS = ["crosses", "watches", "builds", "paints", "remembers", "follows", "repairs", "describes"]
PLACES = ["beyond the hills", "in early spring", "without a word", "after the long war", "at night"]


def sentences(seed: int, count: int = 12) -> str:
    rng = random.Random(seed)
    lines = (
        f"{rng.choice(['The', 'A', 'Every', 'Her'])} {rng.choice(NOUNS)} {rng.choice(VERBS)} "
        f"{rng.choice(['my', 'the', 'no', 'their'])} {rng.choice(NOUNS)} {rng.choice(PLACES)}, "
        f"{rng.randrange(1000, 2000)} {rng.choice(NOUNS)}s further."
        for _ in range(count)
    )
    return "\n".join(lines)


PROSE = """The ferry left at dawn with eleven passengers, two goats and a piano that nobody had paid for.
Fog lay so thick on the river that the captain steered by the bells of the churches along both banks.
Around noon it lifted, and the whole valley could be seen: vineyards, a ruined tower, the white road to Linz.
An old woman shared her bread with the soldiers, who have been on their way home since the spring floods.
They spoke of prices, of the weather, and of a bridge that three governments had promised but never built.
When the engine stopped for the second time, the boy who looked after it swore that it was not his fault.
So they drifted past the mills until a tug came out, took the rope and pulled them into the harbour by night.
Nobody was angry; the innkeeper lit the lamps again, soup was warmed, and the piano stood in the hall at last.
It was out of tune with all that water in it, but a girl of twelve played a dance that everyone knew.
Years later the captain would say that this was the shortest voyage of his life and one he often thought of.
He sold the boat to a company from the capital, which painted it green and forgot to pay the last part."""
