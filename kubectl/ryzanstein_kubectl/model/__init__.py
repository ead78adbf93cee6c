"""PURE: from manifests, pages and log lines to frozen values."""
