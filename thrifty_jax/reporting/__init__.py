"""What the report shows: curves, slices and warnings."""
