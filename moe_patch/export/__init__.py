"""Patches in other formats: LoRA adapters for PEFT and for inference engines.

Imported by the serving package and `cli`. It imports `apply`, `checkpoint` and what is below them.
"""
