"""The milliseconds that a network takes for a slice, measured in the runtimes that would run it."""
