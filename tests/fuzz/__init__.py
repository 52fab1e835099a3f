"""Files of every kind, mutated, and every command that takes one.

    python -m tests.fuzz --files 100000 --seed 1
    python -m tests.fuzz --seed 1 --only 4711

A command may refuse a file, in one line of text. Any other exception, a hang, much memory, and output that a
terminal would obey are failures. Most mutated patches get their right content hash again, since whoever
forges a patch can compute it. Each file follows from the seed and its number alone.
"""
