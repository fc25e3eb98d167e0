"""Use of trained models: as a library (`Predictor`) and from the command line."""
