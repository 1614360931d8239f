/* Making the tables of `huffman.h`. */

#include "huffman.h"

/* `two` and `many` from `one`, which begins with so many codes, each of a length; the shorter first. What follows the first
 * code is the same whatever its extra bits are, so it is made once for each number of bits that are left. */
static void table_join(Huffman *table, const uint8_t *lengths, int number) {
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

int table_make(Huffman *table, const uint8_t *counts, const uint8_t *values, int number, int is_ac) {
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
    table->defined = 1;
    return 0;
}
