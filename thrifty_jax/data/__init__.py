"""Loading of prepared slices as batches on the devices."""
