"""HTTP: receives objects, responds, and delivers results. Decoding and transforming is done in ``processes``.

``worker`` is gunicorn's worker, over ``client_connection``. ``app`` has the routes, and ``environ`` is its interface to
the worker. ``source`` reads an object's bytes. ``delivery`` sends a result to another node, by ``http_client``.
``gunicorn_conf`` configures gunicorn.
"""
