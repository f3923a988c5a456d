"""From raw scans to slices: a module for each data set, checks, and the builder."""
