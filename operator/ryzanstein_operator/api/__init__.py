"""Wire types: one pydantic model for each thing users write or read. Knows nothing of the cluster."""
