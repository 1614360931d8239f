/* Of a JPEG's codes: the tables that read them, and the reader, which steps over several in one look-up.
 *
 * Source: ITU-T T.81, clauses C and F.2.2. */

#ifndef TVETL_CODES_H
#define TVETL_CODES_H

#include <string.h>

#include "_processor.h"

#define BITS 11 /* of a look-up */
#define PAD 512 /* zeros behind the codes, as a reader looks for the end once in a block only */
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
    int there;
} Table;

enum { OVER = 64, END = 256 }; /* more than one coefficient, and than all codes of BITS bits move on: 11 times 16 */

/* `two` and `many` from `one`, which begins with so many codes, each of a length; the shorter first. What follows the first
 * code is the same whatever its extra bits are, so it is made once for each number of bits that are left. */
static void table_join(Table *table, const uint8_t *lengths, int number) {
    uint16_t all[2 << BITS]; /* `many` of n bits at 1 << n */
    uint32_t second[2 << BITS];
    for (int n = 0; n <= BITS; n++) {
        uint16_t *many = all + (1 << n);
        uint32_t *next = second + (1 << n), *two = table->two;
        int at = 0;
        for (int i = 0; i < number && lengths[i] <= n; i++) {
            int end = at + (1 << (n - lengths[i])), entry = table->one[at << (BITS - n)];
            int length = entry & 63, size = entry >> 6 & 15, on = entry >> 6 ? (entry >> 10) + 1 : END;
            uint32_t first = (uint32_t)(length | length << 6 | size << 11 | on << 19);
            uint32_t then = (uint32_t)(length | size << 15 | (on == END ? OVER : on) << 24);
            for (int j = at; j < end; j++) next[j] = then;
            if (on == END || length >= n) {
                for (int j = at; j < end; j++) many[j] = (uint16_t)(length | on << 6);
                if (n == BITS)
                    for (int j = at; j < end; j++) two[j] = on == END ? then : first;
                at = end;
                continue;
            }
            int left = 1 << (n - length); /* and its entries are at `left` */
            for (; at < end; at += left) {
                for (int j = 0; j < left; j++) many[at + j] = (uint16_t)((length | on << 6) + all[left + j]);
                if (n == BITS)
                    for (int j = 0; j < left; j++) two[at + j] = first + second[left + j];
            }
        }
        for (int j = at; j < 1 << n; j++) many[j] = 0, next[j] = 0;
        if (n == BITS)
            for (int j = at; j < 1 << n; j++) many[j] = 2 * END << 6, two[j] = (uint32_t)(2 * OVER) << 24;
    }
    memcpy(table->many, all + (1 << BITS), sizeof table->many);
}

/* `counts` of codes by length 1..16, and their values; clause C.2. */
static int table_make(Table *table, const uint8_t *counts, const uint8_t *values, int number, int is_ac) {
    uint8_t lengths[256];
    int code = 0, at = 0, end = 0;
    memcpy(table->values, values, (size_t)number);
    memset(table->values + number, 0, (size_t)(256 - number));
    for (int length = 1; length <= 16; length++, code <<= 1) {
        table->offset[length] = at - code;
        for (int i = 0; i < counts[length - 1]; i++, code++, at++) {
            int size = values[at] & 15, run = values[at] >> 4;
            if (code >= 1 << length) return -1;
            if (is_ac ? size > 10 || (size == 0 && run != 0 && run != 15) : size > 11 || run) return -1;
            lengths[at] = (uint8_t)length;
            if (length > BITS) continue;
            uint16_t entry = (uint16_t)((length + size) | size << 6 | run << 10);
            for (end = (code + 1) << (BITS - length), size = code << (BITS - length); size < end; size++)
                table->one[size] = entry;
        }
        table->beyond[length] = code;
    }
    for (; end < 1 << BITS; end++) table->one[end] = 0;
    if (is_ac) table_join(table, lengths, number);
    table->there = 1;
    return 0;
}

typedef struct {
    const uint8_t *at, *most;
    uint64_t bits; /* the next ones, from the top */
    unsigned count; /* how many of them are there: at least 29, more than the longest code with its extra bits has */
} Reader;

/* Take `length` bits, which are there. First comes what follows all that are there, and need not wait for the length:
 * the next look-up waits for a shift alone. */
INLINE void take(Reader *reader, unsigned length) {
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
    take(&reader, 0);
    return reader;
}

/* Behind the end come zeros, for ever: for each block, which moves on by less than PAD - BEYOND bytes. */
INLINE void stay(Reader *reader) { reader->at = reader->at < reader->most ? reader->at : reader->most; }

/* One code, as `one` has it; 0 where there is none such. */
INLINE int look_up(const Reader *reader, const Table *table) {
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
INLINE int skip(Reader *reader, const Table *table, int k) {
    while (k < 64) {
        int entry = table->many[reader->bits >> (64 - BITS)], next = k + (entry >> 6);
        if (next < 64) {
            k = next;
            take(reader, entry & 63);
            continue;
        }
        if (next == 64 || (next >= END && next < END + 64)) {
            take(reader, entry & 63);
            return 1;
        }
        /* A long code, or some of these codes are of the next block: one by one. */
        entry = look_up(reader, table);
        if (!entry) return 0;
        take(reader, entry & 63);
        if (!(entry >> 6)) return 1;
        k += (entry >> 10) + 1;
    }
    return k == 64;
}
#endif
