"""Pure functions in jax.numpy, each with the equation that it implements."""
