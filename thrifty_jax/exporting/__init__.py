"""Networks in other formats, checked against JAX."""
