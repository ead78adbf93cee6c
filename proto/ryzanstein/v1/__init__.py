"""Version 1: inference.proto, the code generated from it (`make crds`), and its way to and from OpenAI's JSON."""
