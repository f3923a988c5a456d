"""What the report shows: curves, slices, warnings, and the templates of its pages."""
