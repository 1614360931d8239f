/* A region of a JPEG, decoded at a half, a quarter or an eighth of its size.
 *
 * Most of a JPEG's time goes into its Huffman codes, and most of what they say is lost when a photograph is made small.
 * So the codes of what is not needed (blocks outside the region, high frequencies) are stepped over, several in one
 * look-up, and the rest goes through a DCT of fewer points: an 8 x 8 block of which 4 x 4 pixels are wanted is its 4 x 4
 * lowest frequencies. Chroma that was stored at half the size is not made smaller as long as it need not be.
 *
 * Baseline JPEG of one scan without restart markers, of one or three components. Anything else, and anything strange, is
 * answered with None: then another decoder has the word. Source: ITU-T T.81, by its clauses; JFIF 1.02 for the colours. */

#define PY_SSIZE_T_CLEAN
#include <Python.h>

#include <math.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#if defined(__x86_64__)
#define HAVE_AVX2 1
#else
#define HAVE_AVX2 0
#endif

#define INLINE static inline __attribute__((always_inline))
#define PI 3.14159265358979323846
#define BITS 12 /* of a look-up */
#define PAD 32  /* zeros behind the codes, so that eight bytes can always be read */
#define LARGEST 65535

static int fast; /* whether AVX2 and BMI2 are there and not switched off */

typedef float Eight __attribute__((vector_size(32)));
typedef int32_t Whole __attribute__((vector_size(32)));
typedef uint8_t Bytes __attribute__((vector_size(8)));

/* --- Huffman codes (clauses C and F.2.2) ------------------------------------------------------------------------- */

/* What the next BITS bits begin with. `one` is a single code with its extra bits: their length together (5 bits), how many
 * extra bits (4), the run of zeros before (4); 0 where the code is longer. `many` is all codes that are complete there:
 * their length (5), by how many coefficients they move on (11): END more where the block ends, LATER where none is. */
typedef struct {
    uint16_t one[1 << BITS];
    uint16_t many[1 << BITS];
    int32_t beyond[18]; /* first code that is too large for this length, where codes are longer than BITS */
    int32_t offset[17];
    uint8_t values[256];
    int there;
} Table;

enum { END = 256, LATER = 512 }; /* beyond all that codes without an end can move on: 63 + 79 */

/* `counts` of codes by length 1..16, and their values; clause C.2. */
static int table_make(Table *table, const uint8_t *counts, const uint8_t *values, int number, int is_ac) {
    int code = 0, at = 0;
    memset(table->one, 0, sizeof table->one);
    memset(table->values, 0, sizeof table->values);
    memcpy(table->values, values, (size_t)number);
    for (int length = 1; length <= 16; length++, code <<= 1) {
        table->offset[length] = at - code;
        for (int i = 0; i < counts[length - 1]; i++, code++, at++) {
            int size = values[at] & 15, run = values[at] >> 4;
            if (code >= 1 << length) return -1;
            if (is_ac ? size > 10 || (size == 0 && run != 0 && run != 15) : size > 11 || run) return -1;
            if (length > BITS) continue;
            uint16_t entry = (uint16_t)((length + size) | size << 5 | run << 9);
            int first = code << (BITS - length), last = (code + 1) << (BITS - length);
            for (int j = first; j < last; j++) table->one[j] = entry;
        }
        table->beyond[length] = code;
    }
    table->there = 1;
    if (!is_ac) return 0;
    for (int i = 0; i < 1 << BITS; i++) {
        int length = 0, on = 0, j = i;
        for (;;) {
            int entry = table->one[j], more = entry & 31;
            if (!entry || (length && length + more > BITS)) break;
            length += more;
            if (!(entry >> 5)) { /* end of block */
                on += END;
                break;
            }
            on += (entry >> 9) + 1;
            if (length >= BITS || on > 63) break;
            j = (i << length) & ((1 << BITS) - 1);
        }
        table->many[i] = (uint16_t)(length | (length ? on : LATER) << 5);
    }
    return 0;
}

typedef struct {
    const uint8_t *at, *most;
    uint64_t bits; /* the next ones, from the top */
    int count;     /* how many of them are there, at least */
} Reader;

/* What follows the bits that are there. Asked for before these are looked at, so that nothing waits for it afterwards. */
INLINE uint64_t ahead(const Reader *reader) {
    uint64_t next;
    memcpy(&next, reader->at, 8);
#if __BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__
    next = __builtin_bswap64(next);
#endif
    return next;
}

/* Take `length` bits, and have at least 56 again. Behind the end come zeros, for ever. */
INLINE void take(Reader *reader, int length, uint64_t next) {
    reader->bits <<= length;
    reader->count -= length;
    reader->bits |= next >> reader->count;
    reader->at += (63 - reader->count) >> 3;
    reader->at = reader->at < reader->most ? reader->at : reader->most;
    reader->count |= 56;
}

/* One code, as `one` has it; 0 where there is none such. */
INLINE int look_up(const Reader *reader, const Table *table) {
    int entry = table->one[reader->bits >> (64 - BITS)];
    if (entry) return entry;
    for (int length = BITS + 1; length <= 16; length++) {
        int code = (int)(reader->bits >> (64 - length));
        if (code < table->beyond[length]) {
            int value = table->values[(code + table->offset[length]) & 255];
            return (length + (value & 15)) | (value & 15) << 5 | value >> 4 << 9;
        }
    }
    return 0;
}

/* The number that the extra bits of a code say (clause F.2.2.1, EXTEND). */
INLINE int number(const Reader *reader, int entry) {
    int size = entry >> 5 & 15, length = entry & 31;
    if (!size) return 0;
    int value = (int)(reader->bits << (length - size) >> (64 - size));
    return value >> (size - 1) ? value : value - (1 << size) + 1;
}

/* The rest of a block, from coefficient k on, for nothing; 0 where the codes are no block. Two look-ups at a time, and one
 * branch for both: where a block ends is what no processor foresees. */
INLINE int skip(Reader *reader, const Table *table, int k) {
    while (k < 64) {
        uint64_t more = ahead(reader), bits = reader->bits;
        int entry = table->many[bits >> (64 - BITS)], next = k + (entry >> 5);
        bits <<= entry & 31;
        int entry2 = table->many[bits >> (64 - BITS)], next2 = next + (entry2 >> 5);
        if (next2 < 64) {
            k = next2;
            take(reader, (entry & 31) + (entry2 & 31), more);
            continue;
        }
        int both = next < 64, end = both ? next2 : next;
        if (end == 64 || (end >= END && end < END + 64)) {
            take(reader, (entry & 31) + (both ? entry2 & 31 : 0), more);
            return 1;
        }
        /* A long code, or some of these codes are of the next block: one by one. */
        entry = look_up(reader, table);
        if (!entry) return 0;
        take(reader, entry & 31, more);
        if (!(entry >> 5)) return 1;
        k += (entry >> 9) + 1;
    }
    return k == 64;
}

/* --- a component --------------------------------------------------------------------------------------------------- */

typedef struct {
    int id, h, v, quantization; /* of the frame: sampling factors, table */
    const Table *dc, *ac;
    int across, down;       /* pixels made of a block: 1, 2, 4 or 8 */
    int last;               /* the last coefficient that is needed, in zigzag order */
    uint8_t row[64];        /* of the k-th coefficient */
    Eight basis[64];        /* what the k-th adds to a row of pixels, with its quantization; zeros where it is not needed */
    float column[8][8];     /* [y][u]: what a row of frequency u adds to line y */
    int before;             /* the DC of the block before */
    uint8_t *pixels;        /* one row of MCUs, of the region */
    size_t pitch;
} Component;

static const uint8_t ZIGZAG[64] = {0,  1,  8,  16, 9,  2,  3,  10, 17, 24, 32, 25, 18, 11, 4,  5,  12, 19, 26, 33, 40, 48,
                                   41, 34, 27, 20, 13, 6,  7,  14, 21, 28, 35, 42, 49, 56, 57, 50, 43, 36, 29, 22, 15, 23,
                                   30, 37, 44, 51, 58, 59, 52, 45, 38, 31, 39, 46, 53, 60, 61, 54, 47, 55, 62, 63};

/* What frequency u of a block of eight adds to pixel x of `size` (clause A.3.3 with fewer points). */
static double wave(int size, int x, int u) { return (u ? 0.5 : sqrt(0.125)) * cos((2 * x + 1) * u * PI / (2 * size)); }

static void component_prepare(Component *part, const uint16_t *quantization) {
    part->last = 0;
    memset(part->basis, 0, sizeof part->basis);
    for (int k = 0; k < 64; k++) {
        int u = ZIGZAG[k] / 8, v = ZIGZAG[k] % 8;
        part->row[k] = 0;
        if (u >= part->down || v >= part->across) continue;
        part->row[k] = (uint8_t)u;
        part->last = k;
        for (int x = 0; x < part->across; x++) part->basis[k][x] = (float)(wave(part->across, x, v) * quantization[k]);
    }
    for (int y = 0; y < part->down; y++)
        for (int u = 0; u < part->down; u++) part->column[y][u] = (float)wave(part->down, y, u);
}

/* The DC, from that of the block before; 0 where there is no code. */
INLINE int dc(Reader *reader, Component *part) {
    uint64_t more = ahead(reader);
    int entry = look_up(reader, part->dc);
    if (!entry) return 0;
    part->before = (int16_t)(part->before + number(reader, entry));
    take(reader, entry & 31, more);
    return 1;
}

INLINE void put(uint8_t *to, Eight row) {
    Whole cut = __builtin_convertvector(row, Whole), above = cut > 255;
    cut = ((cut | above) & ~(cut < 0)) & 255;
    Bytes bytes = __builtin_convertvector(cut, Bytes);
    memcpy(to, &bytes, 8);
}

/* A block into its place, eight bytes a row whatever its size: what is too much is written over. */
INLINE int block(Reader *reader, Component *part, uint8_t *to) {
    Eight rows[8];
    int most = 0, k = 1;
    if (!dc(reader, part)) return 0;
    rows[0] = part->basis[0] * (float)part->before;
    for (int u = 1; u < part->down; u++) rows[u] = (Eight){0};
    while (k <= part->last) {
        uint64_t more = ahead(reader);
        int entry = look_up(reader, part->ac);
        if (!entry) return 0;
        if (!(entry >> 5)) {
            take(reader, entry & 31, more);
            goto done;
        }
        k += entry >> 9;
        if (k > 63) return 0;
        int row = part->row[k]; /* also where nothing is needed: a branch would cost more than adding zeros */
        rows[row] += part->basis[k] * (float)number(reader, entry);
        most = row > most ? row : most;
        take(reader, entry & 31, more);
        k++;
    }
    if (!skip(reader, part->ac, k)) return 0;
done:
    for (int y = 0; y < part->down; y++) {
        Eight sum = rows[0] * part->column[y][0] + 128.5f; /* cut later, so rounded */
        for (int u = 1; u <= most; u++) sum += rows[u] * part->column[y][u];
        put(to + y * part->pitch, sum);
    }
    return 1;
}

/* --- the file ------------------------------------------------------------------------------------------------------ */

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
        } else if (marker == 0xc0) {
            if (read_frame(file, from, end)) return -1;
        } else if (marker == 0xda) {
            file->codes = end;
            file->end = stop;
            return read_scan(file, from, end);
        } else if (marker == 0xdd) {
            if (end - from != 2 || u16(from)) return -1;
        } else if (marker == 0xe0) {
            if (end - from >= 12 && !memcmp(from, "JFIF", 5)) file->is_jfif = 1;
        } else if (marker == 0xee) {
            if (end - from >= 12 && !memcmp(from, "Adobe", 5)) file->adobe = from[11];
        } else if ((marker >= 0xc1 && marker <= 0xcf) || marker == 0xdc || marker < 0xe0) {
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

/* Y, Cb, Cr to R, G, B (JFIF 1.02), in whole numbers with 16 bits behind the point. */
INLINE void convert(const uint8_t *y, const uint8_t *cb, const uint8_t *cr, uint8_t *to, int count) {
    for (int x = 0; x < count; x++) {
        int light = (y[x] << 16) + 32768, blue = cb[x] - 128, red = cr[x] - 128;
        int r = (light + 91881 * red) >> 16, g = (light - 22554 * blue - 46802 * red) >> 16;
        int b = (light + 116130 * blue) >> 16;
        to[3 * x] = (uint8_t)(r < 0 ? 0 : r > 255 ? 255 : r);
        to[3 * x + 1] = (uint8_t)(g < 0 ? 0 : g > 255 ? 255 : g);
        to[3 * x + 2] = (uint8_t)(b < 0 ? 0 : b > 255 ? 255 : b);
    }
}

/* 0: done; -1: the codes are not what they should be. */
INLINE int decode_all(File *file, const uint8_t *codes, size_t length, int scale, const Box *box, uint8_t *out) {
    Reader reader = {codes, codes + length + PAD / 2, 0, 0};
    take(&reader, 0, ahead(&reader));
    int wide = 8 * file->most_h / scale, high = 8 * file->most_v / scale; /* pixels made of an MCU */
    int across = (file->width + 8 * file->most_h - 1) / (8 * file->most_h);
    int first = box->left / wide, last = (box->right - 1) / wide, end = (box->bottom - 1) / high;
    for (int row = 0; row <= end; row++) {
        int wanted = (row + 1) * high > box->top;
        for (int column = 0; column < across; column++) {
            int here = wanted && column >= first && column <= last;
            for (int i = 0; i < file->count; i++) {
                Component *part = &file->parts[i];
                for (int v = 0; v < part->v; v++)
                    for (int h = 0; h < part->h; h++)
                        if (here) {
                            size_t x = (size_t)((column - first) * part->h + h) * part->across;
                            if (!block(&reader, part, part->pixels + (size_t)v * part->down * part->pitch + x)) return -1;
                        } else {
                            if (!dc(&reader, part) || !skip(&reader, part->ac, 1)) return -1;
                        }
            }
        }
        if ((size_t)(reader.at - codes) * 8 > length * 8 + (size_t)reader.count) return -1; /* more than there is */
        if (!wanted) continue;
        int from = box->top - row * high, to = box->bottom - row * high, width = box->right - box->left;
        for (int y = from > 0 ? from : 0; y < (to < high ? to : high); y++) {
            const uint8_t *planes[3];
            for (int i = 0; i < 3; i++) {
                const Component *part = &file->parts[i < file->count ? i : 0];
                planes[i] = part->pixels + (size_t)y * part->pitch + (box->left - first * wide);
            }
            if (file->count == 3)
                convert(planes[0], planes[1], planes[2], out, width);
            else
                for (int x = 0; x < width; x++) out[3 * x] = out[3 * x + 1] = out[3 * x + 2] = planes[0][x];
            out += 3 * (size_t)width;
        }
    }
    return 0;
}

static int decode_plain(File *file, const uint8_t *codes, size_t length, int scale, const Box *box, uint8_t *out) {
    return decode_all(file, codes, length, scale, box, out);
}

#if HAVE_AVX2
__attribute__((target("avx2,bmi,bmi2"))) static int decode_avx2(File *file, const uint8_t *codes, size_t length, int scale,
                                                                const Box *box, uint8_t *out) {
    return decode_all(file, codes, length, scale, box, out);
}
#endif

/* 1: done; 0: not for us; -1: no memory. */
static int decode_file(File *file, int scale, const Box *box, uint8_t *out) {
    size_t length = 0, bytes = 0;
    int wide = 8 * file->most_h / scale, high = 8 * file->most_v / scale, done = -1;
    int columns = (box->right - 1) / wide - box->left / wide + 1;
    size_t pitch = (size_t)columns * wide + 8;
    for (int i = 0; i < file->count; i++) {
        Component *part = &file->parts[i];
        part->across = wide / part->h;
        part->down = high / part->v;
        if (part->across > 8 || part->down > 8 || part->across < 1 || part->down < 1) return 0;
        part->pitch = pitch;
        component_prepare(part, file->quantization[part->quantization]);
        bytes += pitch * high + 8;
    }
    uint8_t *codes = plain(file->codes, file->end, &length), *pixels = malloc(bytes);
    if (codes && pixels) {
        for (int i = 0; i < file->count; i++) file->parts[i].pixels = pixels + (pitch * high + 8) * i;
#if HAVE_AVX2
        if (fast)
            done = decode_avx2(file, codes, length, scale, box, out) == 0;
        else
#endif
            done = decode_plain(file, codes, length, scale, box, out) == 0;
    }
    free(codes);
    free(pixels);
    return done;
}

/* --- Python -------------------------------------------------------------------------------------------------------- */

static PyObject *decode(PyObject *module, PyObject *args) {
    Py_buffer data, out;
    int scale, width, height, done = 0;
    Box box;
    (void)module;
    if (!PyArg_ParseTuple(args, "y*(ii)i(iiii)w*:decode", &data, &width, &height, &scale, &box.left, &box.top, &box.right,
                          &box.bottom, &out))
        return NULL;
    if ((scale != 2 && scale != 4 && scale != 8) || width < 1 || height < 1 || width > LARGEST || height > LARGEST ||
        box.left < 0 || box.top < 0 || box.right <= box.left || box.bottom <= box.top ||
        box.right > (width + scale - 1) / scale || box.bottom > (height + scale - 1) / scale ||
        out.len != (Py_ssize_t)3 * (box.right - box.left) * (box.bottom - box.top)) {
        PyErr_SetString(PyExc_ValueError, "no such scale or box, or out does not fit");
        done = -2;
        goto end;
    }
    Py_BEGIN_ALLOW_THREADS;
    File *file = NULL; /* aligned for its vectors */
    Table *tables = calloc(8, sizeof *tables);
    if (posix_memalign((void **)&file, 64, sizeof *file)) file = NULL;
    if (!file || !tables) {
        done = -1;
    } else {
        memset(file, 0, sizeof *file);
        file->tables = tables;
        if (!file_read(file, data.buf, (size_t)data.len) && file->width == width && file->height == height)
            done = decode_file(file, scale, &box, out.buf);
    }
    free(tables);
    free(file);
    Py_END_ALLOW_THREADS;
end:
    PyBuffer_Release(&data);
    PyBuffer_Release(&out);
    if (done == -2) return NULL;
    if (done == -1) return PyErr_NoMemory();
    return PyBool_FromLong(done);
}

/* Where the first 0xff is, from `start` on, that no zero follows; -1 where there is none. */
static PyObject *marker(PyObject *module, PyObject *args) {
    Py_buffer data;
    Py_ssize_t start, place = -1;
    (void)module;
    if (!PyArg_ParseTuple(args, "y*n:marker", &data, &start)) return NULL;
    if (start >= 0 && start < data.len) {
        const uint8_t *first = data.buf, *at = first + start, *last = first + data.len - 1;
        while (at < last && (at = memchr(at, 0xff, (size_t)(last - at)))) {
            if (at[1]) {
                place = at - first;
                break;
            }
            at += 2;
        }
    }
    PyBuffer_Release(&data);
    return PyLong_FromSsize_t(place);
}

static PyObject *use_avx2(PyObject *module, PyObject *wanted) {
    int on = PyObject_IsTrue(wanted);
    (void)module;
    if (on < 0) return NULL;
#if HAVE_AVX2
    fast = on && __builtin_cpu_supports("avx2") && __builtin_cpu_supports("bmi2");
#endif
    Py_RETURN_NONE;
}

static PyMethodDef methods[] = {
    {"decode", decode, METH_VARARGS, "See _jpeg.pyi."},
    {"marker", marker, METH_VARARGS, "See _jpeg.pyi."},
    {"use_avx2", use_avx2, METH_O, "See _jpeg.pyi."},
    {NULL, NULL, 0, NULL},
};

static struct PyModuleDef definition = {PyModuleDef_HEAD_INIT, "_jpeg", NULL, -1, methods, NULL, NULL, NULL, NULL};

PyMODINIT_FUNC PyInit__jpeg(void) {
#if HAVE_AVX2
    __builtin_cpu_init();
    fast = __builtin_cpu_supports("avx2") && __builtin_cpu_supports("bmi2");
#endif
    return PyModule_Create(&definition);
}
