"""Reading, reorienting and slicing of scans, for training and prediction."""
