"""Training input, side by side: what one image costs the training machine, one way or another. Needs torch.

:mod:`compare` reads an epoch on each side in turns; :mod:`sides` are the ways to read it; :mod:`apart` runs each in a
process of its own; :mod:`canned` answers what a cluster answered, without one; :mod:`accelerators` counts how many
emulated consumers one core feeds. Not here: what the server takes for an image (``make bench``).
"""
