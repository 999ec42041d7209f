"""meshd: one LLM endpoint on every machine."""

__version__ = "0.1.0"
