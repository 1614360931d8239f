/* Bytes to entries of a table. */

#ifndef TVETL_LOOK_UP_H
#define TVETL_LOOK_UP_H

#include <stddef.h>
#include <stdint.h>

/* `item`, the bytes of an entry, is 2 or 4; `to` has room for `count` entries. */
void look_up_bytes(const uint8_t *source, size_t count, const uint8_t *table, size_t item, uint8_t *to);

#endif
