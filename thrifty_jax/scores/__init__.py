"""Scores of masks, summarised over patients, folds and models."""
