"""The files that users write: recipes and image manifests. Loading one runs no code from it."""
