"""Requests into tokens: scheduler, blocks, ranks, sampler. Knows no HTTP and no text."""
