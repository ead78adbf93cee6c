"""Grafana's dashboards of Ryzanstein as code; `python -m ryzanstein_dashboards FOLDER` writes them as JSON.

Knows metric names, labels and PromQL; measures nothing and asks no server. For developers: no image holds it.
"""
