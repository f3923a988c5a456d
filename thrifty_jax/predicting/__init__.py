"""Prediction of masks of scans by a model from its folder."""

BATCH_SIZE = 16  # slices; also the default of evaluation
