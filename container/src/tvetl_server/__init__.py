"""The transformer that AIStore's targets call: image bytes in, transformed bytes out.

Importing this package does nothing; only :mod:`tvetl_server.wsgi` looks at the world.
"""

__version__ = "0.1.0"
