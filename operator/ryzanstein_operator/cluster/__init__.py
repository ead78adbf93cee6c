"""EFFECTS: every Kubernetes and HTTP call of the operator. The only package that knows the client."""
