/* Of a JPEG's codes: the tables that read them, and the reader, which steps over several in one look-up.
 *
 * Source: ITU-T T.81, clauses C and F.2.2. */

#ifndef TVETL_HUFFMAN_H
#define TVETL_HUFFMAN_H

#include <string.h>

#include "processor.h"

#define BITS 11 /* of a look-up */
#define PADDING 512 /* zeros behind the codes, as a reader looks for the end once in a block only */
#define BEYOND 16 /* of these are where it stops: more bits than it ever has, so that it is seen to be beyond the codes */

/* What the next BITS bits begin with; of extra bits, which follow a code, some may lie beyond.
 *
 * `one` is a single code with its extra bits: their length together (6 bits, as a shift takes as many), how many extra bits
 * (4), the run of zeros before (4); 0 where the code is longer. `two` is a coefficient, and the code behind it if that is
 * there too: their length together (6), the length of the first (5), the extra bits of the first (4) and second (4), by how
 * much each moves on (5 and 8): a block's end by OVER. `many` is all codes that are there: their length (6), by how many
 * coefficients they move on (10): a block's end by END. What begins with a longer code moves on by twice as much. */
typedef struct {
    uint16_t one[1 << BITS];
    uint32_t two[1 << BITS];
    uint16_t many[1 << BITS];
    int32_t beyond[18]; /* first code that is too large for this length, where codes are longer than BITS */
    int32_t offset[17];
    uint8_t values[256];
    int defined;
} Huffman;

enum { OVER = 64, END = 256 }; /* more than one coefficient, and than all codes of BITS bits move on: 11 times 16 */

/* The table of `number` values, with `counts` of codes by length 1..16 (clause C.2); -1: there is no such code. */
int table_make(Huffman *table, const uint8_t *counts, const uint8_t *values, int number, int is_ac);

typedef struct {
    const uint8_t *at, *last;
    uint64_t bits; /* the next ones, from the top */
    unsigned count; /* how many of them are there: at least 29, more than the longest code with its extra bits has */
} Reader;

/* Take `length` bits, which are there. First comes what follows all that are there, and need not wait for the length:
 * the next look-up waits for a shift alone. */
INLINE void consume(Reader *reader, unsigned length) {
    uint64_t next;
    memcpy(&next, reader->at, 8);
#if __BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__
    next = __builtin_bswap64(next);
#endif
    reader->bits |= next >> reader->count;
    reader->bits <<= length;
    reader->at += (63 ^ reader->count) >> 3;
    reader->count = (reader->count | 56) - length;
}

INLINE Reader reader_of(const uint8_t *codes, size_t length) {
    Reader reader = {codes, codes + length + BEYOND, 0, 0};
    consume(&reader, 0);
    return reader;
}

/* Behind the end come zeros, for ever: for each block, which moves on by less than PADDING - BEYOND bytes. */
INLINE void stop_at_end(Reader *reader) { reader->at = reader->at < reader->last ? reader->at : reader->last; }

/* One code, as `one` has it; 0 where there is none such. */
INLINE int look_up(const Reader *reader, const Huffman *table) {
    int entry = table->one[reader->bits >> (64 - BITS)];
    if (entry) return entry;
    for (int length = BITS + 1; length <= 16; length++) {
        int code = (int)(reader->bits >> (64 - length));
        if (code < table->beyond[length]) {
            int value = table->values[(code + table->offset[length]) & 255];
            return (length + (value & 15)) | (value & 15) << 6 | value >> 4 << 10;
        }
    }
    return 0;
}

/* The number that the last `size` of the first `length` bits say (clause F.2.2.1, EXTEND): what begins with 0 is below zero.
 * No branch: half of all numbers are, and nothing foresees which. */
INLINE int extra(uint64_t bits, unsigned length, unsigned size) {
    uint32_t all = (1u << size) - 1, number = (uint32_t)(bits >> (-length & 63)) & all;
    return (int)(number - (2 * number <= all ? all : 0));
}

/* The number that the extra bits of a code say, as `one` has it. */
INLINE int number(const Reader *reader, int entry) { return extra(reader->bits, entry & 63, entry >> 6 & 15); }

/* The rest of a block, from coefficient k on, for nothing; 0 where the codes are no block. */
INLINE int skip(Reader *reader, const Huffman *table, int k) {
    while (k < 64) {
        int entry = table->many[reader->bits >> (64 - BITS)], next = k + (entry >> 6);
        if (next < 64) {
            k = next;
            consume(reader, entry & 63);
            continue;
        }
        if (next == 64 || (next >= END && next < END + 64)) {
            consume(reader, entry & 63);
            return 1;
        }
        /* A long code, or some of these codes are of the next block: one by one. */
        entry = look_up(reader, table);
        if (!entry) return 0;
        consume(reader, entry & 63);
        if (!(entry >> 6)) return 1;
        k += (entry >> 10) + 1;
    }
    return k == 64;
}
#endif
