"""Ways to do the sums and products of a convolution."""
