"""EFFECTS: every Kubernetes call of the operator. The only package that knows the client.

What it may touch is the table in `resources.py`: the chart's Role is rendered from the same list and a contract test
compares the two.
"""
