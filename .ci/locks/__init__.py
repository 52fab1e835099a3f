"""Scripts that look after the project's own environments; `make` runs them, and no user gets them."""
