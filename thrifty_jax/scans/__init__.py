"""Scans read, turned and sliced, for training as for predicting."""
