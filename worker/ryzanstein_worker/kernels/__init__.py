"""One kernel a file, the plain torch reference beside it."""
