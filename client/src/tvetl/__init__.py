"""torchvision transforms where the images are: the client of tvetl.

Importing this package does nothing else: no SDK, no torch, no environment is touched.
"""

__version__ = "0.1.0"
