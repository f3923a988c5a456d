"""The race of lean networks for milliseconds: who takes part, who goes on, and who wins."""
