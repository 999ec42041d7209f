"""Placement: which holder should have a request, and whether a holder lets it in.  Pure."""
