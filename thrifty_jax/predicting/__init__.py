"""From a model folder and a scan to masks in files."""

BATCH_SIZE = 16  # slices, as evaluation has it by default
