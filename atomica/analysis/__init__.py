"""What can be asked of a trained model's output: masking scores, similar interfaces, groups, thresholds."""
