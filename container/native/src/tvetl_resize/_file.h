/* Of a JPEG's file: its segments up to the codes (ITU-T T.81, annex B), and what each component is (clause A.1).
 *
 * Read is what both decoders here know: baseline, one scan without restart markers, one or three components. */

#ifndef TVETL_FILE_H
#define TVETL_FILE_H

#include <stdlib.h>

#include "_codes.h"
#include "_processor.h"

typedef struct {
    int id, h, v, quantization; /* of the frame: sampling factors, table */
    const Table *dc, *ac;
    int before; /* the DC of the block before */
} Component;

/* In zigzag order, from the first coefficient of a block to the last, what `each` makes of its place in rows of eight. */
#define IN_ZIGZAG(each)                                                                                            \
    each(0), each(1), each(8), each(16), each(9), each(2), each(3), each(10), each(17), each(24), each(32),        \
    each(25), each(18), each(11), each(4), each(5), each(12), each(19), each(26), each(33), each(40), each(48),    \
    each(41), each(34), each(27), each(20), each(13), each(6), each(7), each(14), each(21), each(28), each(35),    \
    each(42), each(49), each(56), each(57), each(50), each(43), each(36), each(29), each(22), each(15), each(23),  \
    each(30), each(37), each(44), each(51), each(58), each(59), each(52), each(45), each(38), each(31), each(39),  \
    each(46), each(53), each(60), each(61), each(54), each(47), each(55), each(62), each(63)
#define AS_IT_IS(place) place
static const uint8_t ZIGZAG[64] = {IN_ZIGZAG(AS_IT_IS)};

/* The DC, from that of the block before; 0 where there is no code. */
INLINE int dc(Reader *reader, Component *part) {
    stay(reader);
    int entry = look_up(reader, part->dc);
    if (!entry) return 0;
    part->before = (int16_t)(part->before + number(reader, entry));
    take(reader, entry & 63);
    return 1;
}

typedef struct {
    int width, height, count;
    int most_h, most_v;
    Component parts[3];
    uint16_t quantization[4][64];
    int quantized[4];
    Table *tables; /* DC 0..3, AC 0..3 */
    int is_jfif, adobe; /* -1: no such segment */
    const uint8_t *codes, *end;
} File;

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
    file->most_h = file->parts[0].h;
    file->most_v = file->parts[0].v;
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
        if (!part->dc->there || !part->ac->there) return -1;
    }
    at += 1 + 2 * file->count;
    if (at[0] != 0 || at[1] != 63 || at[2] != 0) return -1;
    if (file->count == 1 || file->is_jfif || file->adobe == 1) return 0;
    /* Without a word on its colours: YCbCr where the components are called so. */
    return file->adobe < 0 && file->parts[0].id == 1 && file->parts[1].id == 2 && file->parts[2].id == 3 ? 0 : -1;
}

/* All segments up to the codes; -1 where this is not for us. */
static int file_read(File *file, const uint8_t *data, size_t size) {
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
        } else if ((marker >= 0xc2 && marker <= 0xcf) || marker == 0xdc || marker < 0xe0) {
            return -1; /* another kind of frame, arithmetic coding, lines told later, ... */
        }
    }
}

/* The codes without the zeros behind each 0xff (clause B.1.1.5), up to the marker that ends them. */
static uint8_t *plain(const uint8_t *at, const uint8_t *end, size_t *length) {
    uint8_t *codes = malloc((size_t)(end - at) + PAD), *to = codes;
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
    memset(to, 0, PAD);
    return codes;
}

typedef struct {
    int left, top, right, bottom; /* in pixels of the result's scale */
} Box;

/* Where the rows of a result go. */
typedef struct Rows Rows;
struct Rows {
    uint8_t *place;           /* of the next */
    int step;                 /* bytes a pixel: R, G, B, or a fourth that is 255 */
    void (*next)(Rows *rows); /* that one is done */
};

/* v * m, of which 16 bits lie behind the point, rounded; m has no more than 15. All in 16 bits, for compilers' vectors. */
INLINE int16_t times(int16_t v, int16_t m) { return (int16_t)((int16_t)(((int16_t)(2 * v) * m >> 16) + 1) >> 1); }

INLINE uint8_t cut(int16_t value) { return (uint8_t)(value < 0 ? 0 : value > 255 ? 255 : value); }

enum { RED = 91881, GREEN_OF_BLUE = 22554, GREEN_OF_RED = 46802, BLUE = 116130, ONE = 65536 };

/* Y, Cb, Cr to R, G, B (JFIF 1.02), in whole numbers with 16 bits behind the point; `step` bytes a pixel, the fourth 255.
 * What of a factor is too large for 15 bits is added whole. */
INLINE void convert(const uint8_t *y, const uint8_t *cb, const uint8_t *cr, uint8_t *to, int count, int step) {
    enum { MANY = 64 };
    uint8_t rgb[3][MANY];
    for (int done = 0; done < count; done += MANY) {
        int some = count - done < MANY ? count - done : MANY;
        for (int x = 0; x < some; x++) {
            int16_t light = y[done + x], blue = (int16_t)(cb[done + x] - 128), red = (int16_t)(cr[done + x] - 128);
            rgb[0][x] = cut((int16_t)(light + red + times(red, RED - ONE)));
            int green = (ONE - GREEN_OF_RED) * red - GREEN_OF_BLUE * blue;
            rgb[1][x] = cut((int16_t)(light - red + (int16_t)((green + ONE / 2) >> 16)));
            rgb[2][x] = cut((int16_t)(light + 2 * blue + times(blue, BLUE - 2 * ONE)));
        }
        for (int x = 0; x < some; x++, to += step) {
            to[0] = rgb[0][x], to[1] = rgb[1][x], to[2] = rgb[2][x];
            if (step == 4) to[3] = 255;
        }
    }
}

INLINE void convert_gray(const uint8_t *y, uint8_t *to, int count, int step) {
    for (int x = 0; x < count; x++, to += step) {
        to[0] = to[1] = to[2] = y[x];
        if (step == 4) to[3] = 255;
    }
}

#endif
