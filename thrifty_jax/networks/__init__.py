"""Networks and their search space."""
