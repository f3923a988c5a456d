"""Content of the report: curves, slices and warnings."""
