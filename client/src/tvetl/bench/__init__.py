"""Training input, side by side: what one image costs the training machine, one way or another. Needs torch.

:mod:`compare` reads an epoch on each side in turns; :mod:`sides` are the ways to read it; :mod:`apart` runs each in a
process of its own. Not here: what the server takes for an image (``make bench``), and what reading takes without a
cluster's work beside it (``make training``).
"""
