"""How a command runs: stages, folds, what it says; how it saves, stops and keeps others out."""
