"""Scenarios, oracles and the runner of the fault cases: what `tests/operator/faults` is made of."""
