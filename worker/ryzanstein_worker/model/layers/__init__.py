"""One layer a file, its sharding beside it."""
