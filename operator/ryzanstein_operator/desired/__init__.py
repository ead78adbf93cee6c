"""PURE: a spec into manifests. No clock, no random, no client: the same input gives the same dict."""
