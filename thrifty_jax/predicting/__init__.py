"""From a model folder and a scan to masks in files."""
