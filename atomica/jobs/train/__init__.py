"""The job train: from a spec to a trained and evaluated model."""
