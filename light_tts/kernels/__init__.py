"""GPU kernels, each beside the plain torch version it must agree with."""
