"""From masks to figures of patients, folds and models."""
