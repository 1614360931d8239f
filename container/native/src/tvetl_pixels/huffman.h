/* The Huffman codes of a JPEG (ITU-T T.81, clauses C and F.2.2): their tables, and a reader of them.
 *
 * Where a block is not needed, the reader steps over several codes with one look-up. */

#ifndef TVETL_HUFFMAN_H
#define TVETL_HUFFMAN_H

#include <string.h>

#include "processor.h"

#define BITS 11     /* that a look-up takes */
#define PADDING 512 /* zeros behind the codes: the reader looks for their end only once in a block */
#define BEYOND 16   /* bytes of these where the reader stops: more than it holds, so that it is seen to be beyond the codes */

/* Three tables, by the next BITS bits. A code is followed by its extra bits; these may lie partly beyond the BITS.
 *
 * A "step" is by how many coefficients a code moves on: the zeros before its coefficient, and that. The end of a block steps
 * by OVER in `two` and by END in `many`. Where the first code is longer than BITS, `one` has 0 and the others twice as much.
 *
 * table | what the entry is for                         | its fields, from the lowest bit, and their bits
 * ------|-----------------------------------------------|-----------------------------------------------------------
 * one   | the first code                                | length with extra bits (6); extra bits (4); zeros before (4)
 * two   | the first coefficient, and the second if its  | length of both (6); length of the first (5); extra bits of the
 *       | code is complete                              | first (4) and second (4); step of the first (5) and second (8)
 * many  | all complete codes                            | length of all (6); step of all (10) */
typedef struct {
    uint16_t one[1 << BITS];
    uint32_t two[1 << BITS];
    uint16_t many[1 << BITS];
    int32_t beyond[18]; /* first code that is too large for this length, where codes are longer than BITS */
    int32_t offset[17];
    uint8_t values[256];
    int defined;
} Huffman;

enum { OVER = 64, END = 256 }; /* more than one code steps by (16), and than all codes of BITS bits (11 times 16) */

/* The table of `number` values, with `counts` of codes by length 1..16 (clause C.2); -1: there is no such code. */
int table_make(Huffman *table, const uint8_t *counts, const uint8_t *values, int number, int is_ac);

typedef struct {
    const uint8_t *at, *last;
    uint64_t bits; /* the next ones, from the top */
    unsigned count; /* how many of them are there: at least 29, more than the longest code with its extra bits has */
} Reader;

/* Remove the next `length` bits, which the reader must hold. It is filled up first, as that need not wait for the length.
 * So the next look-up waits for one shift alone. */
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

/* Call it once in each block, which takes less than PADDING - BEYOND bytes: the reader never leaves the padding. */
INLINE void stop_at_end(Reader *reader) { reader->at = reader->at < reader->last ? reader->at : reader->last; }

/* The next code, as an entry of `one`; 0 where the bits are no code. */
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

/* The number in the last `size` of the first `length` bits (clause F.2.2.1, EXTEND); one that begins with 0 is negative.
 * No branch: half of all numbers are, and nothing foresees which. */
INLINE int extra(uint64_t bits, unsigned length, unsigned size) {
    uint32_t all = (1u << size) - 1, number = (uint32_t)(bits >> (-length & 63)) & all;
    return (int)(number - (2 * number <= all ? all : 0));
}

/* The number in the extra bits of the next code, of which `entry` is that of `one`. */
INLINE int number(const Reader *reader, int entry) { return extra(reader->bits, entry & 63, entry >> 6 & 15); }

/* Step over the rest of a block, from coefficient k on; 0 where the codes are no block. */
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
        /* The code is long, or some of these codes belong to the next block: one by one. */
        entry = look_up(reader, table);
        if (!entry) return 0;
        consume(reader, entry & 63);
        if (!(entry >> 6)) return 1;
        k += (entry >> 10) + 1;
    }
    return k == 64;
}
#endif
