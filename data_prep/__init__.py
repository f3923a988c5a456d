"""From raw scans to slices: readers, checks, splits and one TFDS builder a data set."""
