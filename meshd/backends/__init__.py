"""Engines of this node: found, watched, and spoken to, each in its own API."""
