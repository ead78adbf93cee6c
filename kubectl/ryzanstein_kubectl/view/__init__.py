"""PURE: from what was read to lines of a terminal, by rich."""
