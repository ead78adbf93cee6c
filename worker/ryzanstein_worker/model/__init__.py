"""Hugging Face checkpoints into a decoder that reads and writes paged KV."""
