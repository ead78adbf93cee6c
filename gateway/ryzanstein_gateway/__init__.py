"""The data plane's door: keys, limits, routing, retries. Knows no torch and no custom resource."""
