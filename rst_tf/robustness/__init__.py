"""What attacks leave of a network: the report, its checks for masked gradients, its pages."""
