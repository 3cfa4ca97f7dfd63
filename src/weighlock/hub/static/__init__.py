"""What a repository offers, needs and does, read from its syntax tree. Nothing of it is imported or run."""
