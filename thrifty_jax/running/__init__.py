"""Running of a command: options, stages, folds, console output, locks and several processes."""
