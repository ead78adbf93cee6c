"""PURE: (spec, observed, now) into a Plan. Chooses; never calls."""
