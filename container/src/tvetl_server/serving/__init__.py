"""HTTP: requests in, answers out, results delivered. Objects are decoded and transformed elsewhere (``processes``).

``worker`` is gunicorn's worker, ``app`` the routes, ``source`` where an object's bytes are. ``delivery`` sends a result
to another node, over ``http_client``. ``gunicorn_conf`` is what gunicorn is told.
"""
