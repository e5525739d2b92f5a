"""The network: irreps, couplings, the convolution and its kernels, the encoder."""
