"""The replicated log: what a majority of the voters holds is never lost, doubled or reordered."""
