"""MoTE: edits within the space that the Tucker factors of a layer's weights span.

Imported by `methods` alone. It imports the parts that methods share, and `solve` for the mathematics.
"""
