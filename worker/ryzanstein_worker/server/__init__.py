"""HTTP: the OpenAI wire format in and out, templates, tokenizer, probes. Knows no tensor."""
