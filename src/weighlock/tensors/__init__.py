"""What a tensor is, without any array library: descriptions, the closed table of rebuild functions, bounds."""
