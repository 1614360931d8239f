/* Reading the segments of a JPEG, see `jpeg.h`. */

#include "jpeg.h"

static int u16(const uint8_t *at) { return at[0] << 8 | at[1]; }

static int read_quantization(File *file, const uint8_t *at, const uint8_t *end) {
    while (at < end) {
        int wide = *at >> 4, id = *at & 15;
        at++;
        if (wide > 1 || id > 3 || end - at < 64 * (wide + 1)) return -1;
        for (int k = 0; k < 64; k++) file->quantization[id][k] = (uint16_t)(wide ? u16(at + 2 * k) : at[k]);
        file->quantized[id] = 1;
        at += 64 * (wide + 1);
    }
    return 0;
}

static int read_tables(File *file, const uint8_t *at, const uint8_t *end) {
    while (at < end) {
        int kind = *at >> 4, id = *at & 15, number = 0;
        if (kind > 1 || id > 3 || end - at < 17) return -1;
        for (int i = 1; i <= 16; i++) number += at[i];
        if (number > 256 || end - at < 17 + number) return -1;
        if (table_make(&file->tables[kind * 4 + id], at + 1, at + 17, number, kind)) return -1;
        at += 17 + number;
    }
    return 0;
}

static int read_frame(File *file, const uint8_t *at, const uint8_t *end) {
    if (file->count || end - at < 6 || at[0] != 8) return -1;
    file->height = u16(at + 1);
    file->width = u16(at + 3);
    file->count = at[5];
    if (!file->height || !file->width || (file->count != 1 && file->count != 3) || end - at != 6 + 3 * file->count) return -1;
    for (int i = 0; i < file->count; i++) {
        Component *part = &file->parts[i];
        const uint8_t *from = at + 6 + 3 * i;
        part->id = from[0];
        part->h = file->count == 1 ? 1 : from[1] >> 4; /* one component alone is not interleaved: clause A.2.2 */
        part->v = file->count == 1 ? 1 : from[1] & 15;
        part->quantization = from[2];
        if (part->h < 1 || part->h > 2 || part->v < 1 || part->v > 2 || part->quantization > 3) return -1;
        if (i && (part->h != 1 || part->v != 1)) return -1;
    }
    file->max_h = file->parts[0].h;
    file->max_v = file->parts[0].v;
    return 0;
}

static int read_scan(File *file, const uint8_t *at, const uint8_t *end) {
    if (!file->count || end - at != 4 + 2 * file->count || at[0] != file->count) return -1;
    for (int i = 0; i < file->count; i++) {
        Component *part = &file->parts[i];
        int dc = at[2 + 2 * i] >> 4, ac = at[2 + 2 * i] & 15;
        if (at[1 + 2 * i] != part->id || dc > 3 || ac > 3 || !file->quantized[part->quantization]) return -1;
        part->dc = &file->tables[dc];
        part->ac = &file->tables[4 + ac];
        if (!part->dc->defined || !part->ac->defined) return -1;
    }
    at += 1 + 2 * file->count;
    if (at[0] != 0 || at[1] != 63 || at[2] != 0) return -1;
    if (file->count == 1 || file->is_jfif || file->adobe == 1) return 0;
    /* Without a word on its colours: YCbCr where the components are called so. */
    return file->adobe < 0 && file->parts[0].id == 1 && file->parts[1].id == 2 && file->parts[2].id == 3 ? 0 : -1;
}

int file_read(File *file, const uint8_t *data, size_t size) {
    const uint8_t *at = data + 2, *stop = data + size;
    if (size < 4 || data[0] != 0xff || data[1] != 0xd8) return -1;
    file->adobe = -1;
    for (;;) {
        if (stop - at < 4 || at[0] != 0xff) return -1;
        int marker = at[1], length = u16(at + 2);
        if (length < 2 || length > stop - at - 2 || marker < 0xc0 || (marker >= 0xd0 && marker <= 0xd9)) return -1;
        if (marker == 0xff || (marker >= 0xf0 && marker <= 0xfd)) return -1; /* not of a length, for Pillow */
        const uint8_t *from = at + 4, *end = at + 2 + length;
        at = end;
        if (marker == 0xdb) {
            if (read_quantization(file, from, end)) return -1;
        } else if (marker == 0xc4) {
            if (read_tables(file, from, end)) return -1;
        } else if (marker == 0xc0 || marker == 0xc1) { /* extended means no more here: 8 bits, Huffman */
            if (read_frame(file, from, end)) return -1;
        } else if (marker == 0xda) {
            file->codes = end;
            file->end = stop;
            return read_scan(file, from, end);
        } else if (marker == 0xdd) {
            if (end - from != 2 || u16(from)) return -1;
        } else if (marker == 0xe0) {
            if (end - from >= 14 && !memcmp(from, "JFIF", 5)) file->is_jfif = 1;
        } else if (marker == 0xee) {
            if (end - from >= 12 && !memcmp(from, "Adobe", 5)) file->adobe = from[11];
        } else if (marker < 0xe0) {
            return -1; /* another kind of frame, arithmetic coding, a number of lines that follows the scan, ... */
        }
    }
}

uint8_t *unstuff(const uint8_t *at, const uint8_t *end, size_t *length) {
    uint8_t *codes = malloc((size_t)(end - at) + PADDING), *to = codes;
    if (!codes) return NULL;
    for (;;) {
        const uint8_t *found = memchr(at, 0xff, (size_t)(end - at));
        size_t bytes = (size_t)((found ? found : end) - at);
        memcpy(to, at, bytes);
        to += bytes;
        if (!found || found + 1 >= end || found[1]) break;
        *to++ = 0xff;
        at = found + 2;
    }
    *length = (size_t)(to - codes);
    memset(to, 0, PADDING);
    return codes;
}
