"""What runs inside or beside an inference engine that serves patched models."""
