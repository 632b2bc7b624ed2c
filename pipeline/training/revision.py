"""The revision of this room: a part of what a version was made of.

The one module of the room that others import: it needs no torch.
"""

# Raise it when the same parameters and the same data set give another adapter.
RECIPE_REVISION = 1
