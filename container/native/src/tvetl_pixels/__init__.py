"""Pillow's decoding and resizing in C, in ``_native``; that module is absent where there was no compiler."""
