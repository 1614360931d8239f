/* A region of a JPEG at a half, a quarter or an eighth of its size.
 *
 * An 8 x 8 block of which 4 x 4 pixels are wanted is made of its 4 x 4 lowest frequencies, by a DCT of as few points. The codes
 * of the other frequencies are stepped over. Chroma stored at half the size is reduced by that much less. */

#include "jpeg.h"

typedef float Floats8 __attribute__((vector_size(32)));
typedef int32_t Ints8 __attribute__((vector_size(32)));
typedef uint8_t Bytes8 __attribute__((vector_size(8)));

/* A component's part in the region. */
typedef struct {
    Component *part;
    int across, down;   /* pixels made of a block: 1, 2, 4 or 8 */
    int last;           /* the last coefficient that is needed, in zigzag order */
    uint8_t row[64];    /* of the k-th coefficient */
    Floats8 basis[64];    /* the k-th one's addition to a row of pixels, with its quantization; zeros where it is not needed */
    float column[8][8]; /* [y][u]: the share of a row of frequency u in line y */
    uint8_t *pixels;    /* one row of MCUs, of the region */
    size_t pitch;
} Plane;

/* What frequency u of a block of eight adds to pixel x of `size` (clause A.3.3 with fewer points). */
static double wave(int size, int x, int u) { return (u ? 0.5 : sqrt(0.125)) * cos((2 * x + 1) * u * PI / (2 * size)); }

static void plane_prepare(Plane *plane, const uint16_t *quantization) {
    plane->last = 0;
    memset(plane->basis, 0, sizeof plane->basis);
    for (int k = 0; k < 64; k++) {
        int u = ZIGZAG[k] / 8, v = ZIGZAG[k] % 8;
        plane->row[k] = 0;
        if (u >= plane->down || v >= plane->across) continue;
        plane->row[k] = (uint8_t)u;
        plane->last = k;
        for (int x = 0; x < plane->across; x++) plane->basis[k][x] = (float)(wave(plane->across, x, v) * quantization[k]);
    }
    for (int y = 0; y < plane->down; y++)
        for (int u = 0; u < plane->down; u++) plane->column[y][u] = (float)wave(plane->down, y, u);
}

INLINE void put_row(uint8_t *to, Floats8 row) {
    Ints8 clamped = __builtin_convertvector(row, Ints8), above = clamped > 255;
    clamped = ((clamped | above) & ~(clamped < 0)) & 255;
    Bytes8 bytes = __builtin_convertvector(clamped, Bytes8);
    memcpy(to, &bytes, 8);
}

/* A block into its place, eight bytes a row whatever its size: the next block overwrites the surplus. */
INLINE int block(Reader *reader, Plane *plane, uint8_t *to) {
    Floats8 rows[8];
    int max_row = 0, k = 1;
    Component *part = plane->part;
    if (!dc(reader, part)) return 0;
    rows[0] = plane->basis[0] * (float)part->before;
    for (int u = 1; u < plane->down; u++) rows[u] = (Floats8){0};
    while (k <= plane->last) {
        int entry = look_up(reader, part->ac);
        if (!entry) return 0;
        if (!(entry >> 6)) {
            consume(reader, entry & 63);
            goto done;
        }
        k += entry >> 10;
        if (k > 63) return 0;
        int row = plane->row[k]; /* also where nothing is needed: a branch would cost more than adding zeros */
        rows[row] += plane->basis[k] * (float)number(reader, entry);
        max_row = max(max_row, row);
        consume(reader, entry & 63);
        k++;
    }
    if (!skip(reader, part->ac, k)) return 0;
done:
    for (int y = 0; y < plane->down; y++) {
        Floats8 sum = rows[0] * plane->column[y][0] + 128.5f; /* clamped later, so rounded */
        for (int u = 1; u <= max_row; u++) sum += rows[u] * plane->column[y][u];
        put_row(to + y * plane->pitch, sum);
    }
    return 1;
}

/* 0: done; -1: the codes are invalid. */
INLINE int reduced_all(File *file, Plane *all, const uint8_t *codes, size_t length, int scale, const Box *box,
                       Rows *rows) {
    Reader reader = reader_of(codes, length);
    int wide = 8 * file->max_h / scale, high = 8 * file->max_v / scale; /* pixels made of an MCU */
    int across = (file->width + 8 * file->max_h - 1) / (8 * file->max_h);
    int first = box->left / wide, last = (box->right - 1) / wide, end = (box->bottom - 1) / high;
    for (int row = 0; row <= end; row++) {
        int wanted = (row + 1) * high > box->top;
        for (int column = 0; column < across; column++) {
            int here = wanted && column >= first && column <= last;
            for (int i = 0; i < file->count; i++) {
                Plane *plane = &all[i];
                Component *part = plane->part;
                for (int v = 0; v < part->v; v++)
                    for (int h = 0; h < part->h; h++)
                        if (here) {
                            size_t x = (size_t)((column - first) * part->h + h) * plane->across;
                            if (!block(&reader, plane, plane->pixels + (size_t)v * plane->down * plane->pitch + x)) return -1;
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
                const Plane *plane = &all[i < file->count ? i : 0];
                planes[i] = plane->pixels + (size_t)y * plane->pitch + (box->left - first * wide);
            }
            colours(planes[0], file->count == 3 ? planes[1] : NULL, planes[2], rows->place, width, 3);
            rows->next(rows);
        }
    }
    return 0;
}

static int reduced_plain(File *file, Plane *all, const uint8_t *codes, size_t length, int scale, const Box *box,
                         Rows *rows) {
    return reduced_all(file, all, codes, length, scale, box, rows);
}

#if HAVE_AVX2
WITH_AVX2 static int reduced_avx2(File *file, Plane *all, const uint8_t *codes, size_t length, int scale, const Box *box,
                                  Rows *rows) {
    return reduced_all(file, all, codes, length, scale, box, rows);
}
#endif

int reduced_file(File *file, int scale, const Box *box, Rows *rows) {
    Plane *all = NULL; /* aligned for its vectors */
    size_t length = 0;
    int wide = 8 * file->max_h / scale, high = 8 * file->max_v / scale, done = -1;
    int columns = (box->right - 1) / wide - box->left / wide + 1;
    size_t pitch = (size_t)columns * wide + 8, bytes = pitch * high + 8; /* bytes of each component */
    if (posix_memalign((void **)&all, 64, 3 * sizeof *all)) return -1;
    uint8_t *codes = unstuff(file->codes, file->end, &length), *pixels = malloc(bytes * file->count);
    if (codes && pixels) {
        for (int i = 0; i < file->count; i++) {
            Component *part = &file->parts[i];
            all[i].part = part;
            all[i].across = wide / part->h;
            all[i].down = high / part->v;
            all[i].pitch = pitch;
            all[i].pixels = pixels + bytes * i;
            plane_prepare(&all[i], file->quantization[part->quantization]);
        }
#if HAVE_AVX2
        if (avx2_enabled)
            done = reduced_avx2(file, all, codes, length, scale, box, rows) == 0;
        else
#endif
            done = reduced_plain(file, all, codes, length, scale, box, rows) == 0;
    }
    free(codes);
    free(pixels);
    free(all);
    return done;
}

