"""From shards to the tensors of a model."""
