"""The command ``tvetl``: its arguments, settings, output and exit status. What it does is in the other packages.

``cli`` has the commands, and ``folders`` those that copy files; ``options`` are shared. ``config`` is where options get
their values, ``terminal`` what is printed, ``doctor`` the checks of a cluster. No library code imports any of it.
"""
