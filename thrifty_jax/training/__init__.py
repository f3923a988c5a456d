"""Training of one network, and the parts that all training loops share."""
