"""One file per lesson of the road. A stage wires rooms together and holds nothing clever."""
