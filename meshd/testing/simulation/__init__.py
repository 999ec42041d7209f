"""Whole nodes under everything that can go wrong, by seed; and whether anything was lost."""
