"""The runtime: OpenAI server, engine, tensor-parallel ranks, model, kernels. Knows no Kubernetes."""
