"""Training of one network, and what every loop that trains needs."""
