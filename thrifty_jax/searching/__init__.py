"""The search of the paper: supernet, bilevel step, derivation, and results."""
