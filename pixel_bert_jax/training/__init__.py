"""One update of the parameters: the step, its state, the optimizer, the mesh."""
