/* YCbCr (JFIF 1.02) or gray to RGB, as libjpeg-turbo does it. */

#ifndef TVETL_COLOUR_H
#define TVETL_COLOUR_H

#include "processor.h"

/* `count` pixels of `step` bytes: R, G, B, and with a step of 4 also 255. Gray where `cb` is NULL. */
void colours(const uint8_t *y, const uint8_t *cb, const uint8_t *cr, uint8_t *to, int count, int step);

#endif
