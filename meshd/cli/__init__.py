"""The command line: what a person types, and what is shown for it (see DESIGN.md)."""
