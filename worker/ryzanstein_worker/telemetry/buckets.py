"""Upper bounds of the histograms' buckets: vLLM's where vLLM has the metric, so that panels made for it fit."""

from typing import Final

FIRST_TOKEN: Final = (
    *(0.001, 0.005, 0.01, 0.02, 0.04, 0.06, 0.08, 0.1, 0.25, 0.5),
    *(0.75, 1.0, 2.5, 5.0, 7.5, 10.0, 20.0, 40.0, 80.0, 160.0),
)
INTER_TOKEN: Final = (
    *(0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.075, 0.1, 0.15, 0.2),
    *(0.3, 0.4, 0.5, 0.75, 1.0, 2.5, 5.0, 10.0, 20.0),
)
REQUEST: Final = (
    *(0.01, 0.05, 0.1, 0.3, 0.5, 0.8, 1.0, 1.5, 2.0, 2.5, 5.0, 10.0),
    *(15.0, 20.0, 30.0, 40.0, 50.0, 60.0, 120.0, 240.0, 480.0, 960.0, 1920.0),
)
"""All in seconds."""
TOKENS: Final = tuple(float(step * 10**power) for power in range(6) for step in (1, 2, 5))
"""Tokens of a request, 1 to 500,000. vLLM's end at the model's context; ours are one for all models, so that replicas
of different models add up."""
