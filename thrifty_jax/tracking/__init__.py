"""A run's progress for TensorBoard, MLflow and Weights & Biases, beside its own files."""
