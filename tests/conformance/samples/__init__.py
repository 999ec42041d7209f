"""What the vectors of proto/ are made of, by group."""
