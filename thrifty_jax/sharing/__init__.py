"""What others get of a model: nothing that names a patient or a place of the machine."""
