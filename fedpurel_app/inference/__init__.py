"""What a run trained, in use: loaded models, predictions, exports."""
