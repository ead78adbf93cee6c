"""kubectl ryzanstein: what runs where, how well, what the operator would do, and replicas taken out unhurt."""
