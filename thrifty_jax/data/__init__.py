"""Prepared slices to batches on the devices."""
