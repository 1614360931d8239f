/* A region of a JPEG at its full size: the very pixels that libjpeg-turbo 3 makes there for Pillow.
 *
 * Only blocks that the region needs go through the DCT; the codes of all others are stepped over. Where chroma is stored at
 * half the size, the region needs one sample more on each side. Upsampling is libjpeg's "fancy" one (jdsample.c): 3/4 of the
 * nearer sample and 1/4 of the further.
 *
 * libjpeg-turbo's SIMD keeps its intermediate sums in 16 bits. No picture needs more, but a file can ask for it. Then the
 * sums depend on the processor, and the file is left to Pillow: see `MAX_SUM` in `dct.h`. */

#include "dct.h"
#include "jpeg.h"

/* A component's part in the region. */
typedef struct {
    Component *part;
    int wide, high;                  /* pixels for a sample: 1 or 2 */
    int left, top, right, bottom;    /* the first and last sample needed */
    int left_block, top_block, right_block, bottom_block; /* the first and last block needed */
    int width, height;               /* samples of the whole component */
    Pair quantization;               /* of both halves of a pair */
    uint8_t *samples;                /* two rows of MCUs, in turns */
    size_t pitch;
    Pair pairs[2];                   /* for each row of blocks in an MCU */
    uint16_t *sums;                  /* chroma between its two passes of upsampling, of a row */
    uint8_t *row;                    /* and behind them */
} Plane;

typedef struct {
    Plane planes[3];
    int overflow; /* whether a block needs more than 16 bits */
} Decoder;

typedef int Coefficients(Reader *reader, const Huffman *table, int16_t *to);
typedef int InverseDct(const Pair *pair, const Pair *quantization, uint8_t *to, size_t pitch);

/* --- upsampling ---------------------------------------------------------------------------------------------------- */

/* The samples of row `y` of the component. */
INLINE const uint8_t *samples(const Plane *plane, int y) {
    return plane->samples + (size_t)(y & (16 * plane->part->v - 1)) * plane->pitch + (plane->left - 8 * plane->left_block);
}

/* Of the region's row `y`, the component's values: where they lie, from pixel `left` on. */
INLINE const uint8_t *upsampled(const Plane *plane, int y, int left) {
    int nearer = y / plane->high, count = plane->right - plane->left + 1;
    const uint8_t *row = samples(plane, nearer);
    if (plane->high == 1 && plane->wide == 1) return row;
    uint8_t *to = plane->row;
    if (plane->wide == 2 && plane->width <= 2) { /* where libjpeg has no room for its triangle */
        for (int x = 0; x < count; x++) to[2 * x] = to[2 * x + 1] = row[x];
        return to + (left - 2 * plane->left);
    }
    int further = y & 1 ? nearer + 1 : nearer - 1;
    further = further < 0 ? 0 : further >= plane->height ? plane->height - 1 : further;
    const uint8_t *next = samples(plane, further);
    if (plane->wide == 1) {
        int bias = y & 1 ? 2 : 1;
        for (int x = 0; x < count; x++) to[x] = (uint8_t)((3 * row[x] + next[x] + bias) >> 2);
        return to;
    }
    uint16_t *sums = plane->sums;
    if (plane->high == 2)
        for (int x = 0; x < count; x++) sums[x] = (uint16_t)(3 * row[x] + next[x]);
    else
        for (int x = 0; x < count; x++) sums[x] = row[x];
    /* Beyond the edges of the picture its outermost sample; beyond those of the region values that no pixel needs. */
    sums[-1] = sums[0];
    sums[count] = sums[count - 1];
    if (plane->high == 2) {
        for (int x = 0; x < count; x++) {
            to[2 * x] = (uint8_t)((3 * sums[x] + sums[x - 1] + 8) >> 4);
            to[2 * x + 1] = (uint8_t)((3 * sums[x] + sums[x + 1] + 7) >> 4);
        }
    } else {
        for (int x = 0; x < count; x++) {
            to[2 * x] = (uint8_t)((3 * sums[x] + sums[x - 1] + 1) >> 2);
            to[2 * x + 1] = (uint8_t)((3 * sums[x] + sums[x + 1] + 2) >> 2);
        }
    }
    return to + (left - 2 * plane->left);
}

/* --- the region ---------------------------------------------------------------------------------------------------- */

/* Of the k-th coefficient in zigzag order, its place in one half of a pair; the last is a place that nobody reads. */
static const uint8_t PLACES[65] = {IN_ZIGZAG(IN_A_PAIR), offsetof(Pair, nowhere) / sizeof(int16_t)};

/* A block's coefficients but the DC, into one half of a pair; 0 where the codes are no block. */
INLINE int coefficients(Reader *reader_, const Huffman *table, int16_t *to) {
    Reader reader = *reader_; /* in registers */
    for (unsigned k = 0; k < 63;) {
        uint64_t bits = reader.bits;
        uint32_t entry = table->two[bits >> (64 - BITS)], length = entry & 63;
        uint32_t k1 = k + (entry >> 19 & 31), k2 = k1 + (entry >> 24);
        int value = extra(bits, entry >> 6 & 31, entry >> 11 & 15);
        if (k2 < 64) { /* the second first: where there is none, it has the place of the first */
            to[PLACES[k2]] = (int16_t)extra(bits, length, entry >> 15 & 15);
            to[PLACES[k1]] = (int16_t)value;
            consume(&reader, length);
            k = k2;
            continue;
        }
        if (entry >> 24 == OVER && k1 < 63) { /* without a first, into a place that nobody reads: no branch for that */
            to[PLACES[k1 == k ? 64 : k1]] = (int16_t)value;
            consume(&reader, length);
            break;
        }
        /* A long code, or the second is of the next block: one alone. */
        int single = look_up(&reader, table);
        if (!single) return 0;
        if (single >> 6) {
            k += (unsigned)(single >> 10) + 1;
            if (k > 63) return 0;
            to[PLACES[k]] = (int16_t)number(&reader, single);
        } else {
            k = 63;
        }
        consume(&reader, single & 63);
    }
    *reader_ = reader;
    return 1;
}

/* Functions of their own, as the processor has fewer registers than all of the decoder would use. */
__attribute__((noinline)) static int coefficients_plain(Reader *reader, const Huffman *table, int16_t *to) {
    return coefficients(reader, table, to);
}

#if HAVE_AVX2
WITH_AVX2 __attribute__((noinline)) static int coefficients_avx2(Reader *reader, const Huffman *table, int16_t *to) {
    return coefficients(reader, table, to);
}
#endif

/* The next block, in column `across` and row `down` of blocks, into its place if needed; 0: the codes are no block. */
INLINE int block_at(Reader *reader, Decoder *decoder, Plane *plane, int across, int down, Coefficients *coefficients,
                    InverseDct *inverse_dct) {
    Component *part = plane->part;
    if (!dc(reader, part)) return 0;
    if (across < plane->left_block || across > plane->right_block || down < plane->top_block || down > plane->bottom_block)
        return skip(reader, part->ac, 1);
    int which = (across - plane->left_block) & 1;
    Pair *pair = &plane->pairs[down & (part->v - 1)];
    pair->rows[0][which][0] = (int16_t)part->before;
    if (!coefficients(reader, part->ac, pair->rows[0][which])) return 0;
    if (which || across == plane->right_block) {
        size_t x = 8 * (size_t)(across - plane->left_block - which), y = 8 * (size_t)(down & (2 * part->v - 1));
        decoder->overflow |= inverse_dct(pair, &plane->quantization, plane->samples + y * plane->pitch + x, plane->pitch);
        memset(pair->rows, 0, sizeof pair->rows);
    }
    return 1;
}

/* 0: done; -1: the codes are invalid, or need more than 16 bits. */
INLINE int exact_all(File *file, Decoder *decoder, const uint8_t *codes, size_t length, const Box *box, Rows *rows,
                     Coefficients *coefficients, InverseDct *inverse_dct) {
    Reader reader = reader_of(codes, length);
    int high = 8 * file->max_v, across = (file->width + 8 * file->max_h - 1) / (8 * file->max_h);
    int end = 0, y = box->top, width = box->right - box->left;
    for (int i = 0; i < file->count; i++) {
        Plane *plane = &decoder->planes[i];
        end = plane->bottom_block / plane->part->v > end ? plane->bottom_block / plane->part->v : end;
    }
    for (int row = 0; row <= end; row++) {
        for (int column = 0; column < across; column++) {
            for (int i = 0; i < file->count; i++) {
                Plane *plane = &decoder->planes[i];
                Component *part = plane->part;
                for (int v = 0; v < part->v; v++)
                    for (int h = 0; h < part->h; h++)
                        if (!block_at(&reader, decoder, plane, column * part->h + h, row * part->v + v, coefficients,
                                      inverse_dct))
                            return -1;
            }
        }
        if ((size_t)(reader.at - codes) * 8 > length * 8 + (size_t)reader.count) return -1; /* more than there is */
        if (decoder->overflow) return -1;
        /* The last row of pixels waits for the chroma below it. */
        int ready = (row + 1) * high - (file->max_v > 1);
        for (ready = row == end || ready > box->bottom ? box->bottom : ready; y < ready; y++) {
            const uint8_t *each[3] = {NULL, NULL, NULL};
            for (int i = 0; i < file->count; i++) each[i] = upsampled(&decoder->planes[i], y, box->left);
            colours(each[0], each[1], each[2], rows->place, width, rows->step);
            rows->next(rows);
        }
    }
    return 0;
}

static int exact_plain(File *file, Decoder *decoder, const uint8_t *codes, size_t length, const Box *box, Rows *rows) {
    return exact_all(file, decoder, codes, length, box, rows, coefficients_plain, inverse_dct_plain);
}

#if HAVE_AVX2
WITH_AVX2 static int exact_avx2(File *file, Decoder *decoder, const uint8_t *codes, size_t length, const Box *box, Rows *rows) {
    return exact_all(file, decoder, codes, length, box, rows, coefficients_avx2, inverse_dct_avx2);
}
#endif

static void plane_prepare(Decoder *decoder, Plane *plane, const File *file, Component *part, const Box *box) {
    plane->part = part;
    plane->wide = file->max_h / part->h;
    plane->high = file->max_v / part->v;
    plane->width = (file->width + plane->wide - 1) / plane->wide;
    plane->height = (file->height + plane->high - 1) / plane->high;
    /* With one sample around the region, where pixels are made of two. */
    plane->left = plane->wide == 1 ? box->left : max(0, (box->left - 1) >> 1);
    plane->right = plane->wide == 1 ? box->right - 1 : min(plane->width - 1, box->right >> 1);
    plane->top = plane->high == 1 ? box->top : max(0, (box->top - 1) >> 1);
    plane->bottom = plane->high == 1 ? box->bottom - 1 : min(plane->height - 1, box->bottom >> 1);
    plane->left_block = plane->left / 8, plane->right_block = plane->right / 8;
    plane->top_block = plane->top / 8, plane->bottom_block = plane->bottom / 8;
    plane->pitch = 8 * (size_t)(plane->right_block - plane->left_block + 2);
    for (int k = 0; k < 64; k++) {
        int divisor = file->quantization[part->quantization][k];
        decoder->overflow |= divisor > INT16_MAX;
        for (int which = 0; which < 2; which++) {
            int16_t *half = plane->quantization.rows[0][which];
            half[PLACES[k]] = (int16_t)divisor;
        }
    }
}

int exact_file(File *file, const Box *box, Rows *rows) {
    Decoder *decoder = NULL;
    size_t length = 0, bytes = 0;
    int done = -1;
    if (posix_memalign((void **)&decoder, 64, sizeof *decoder)) return -1;
    memset(decoder, 0, sizeof *decoder);
    for (int i = 0; i < file->count; i++) {
        Plane *plane = &decoder->planes[i];
        plane_prepare(decoder, plane, file, &file->parts[i], box);
        bytes += (16 * (size_t)plane->part->v + 4) * plane->pitch + 32; /* samples; sums and a row, of all its samples */
    }
    uint8_t *codes = unstuff(file->codes, file->end, &length), *memory = malloc(bytes), *at = memory;
    if (codes && memory) {
        for (int i = 0; i < file->count; i++) {
            Plane *plane = &decoder->planes[i];
            plane->sums = (uint16_t *)at + 8;
            at += 2 * plane->pitch + 32;
            plane->row = at;
            at += 2 * plane->pitch;
            plane->samples = at;
            at += 16 * (size_t)plane->part->v * plane->pitch;
        }
#if HAVE_AVX2
        if (avx2_enabled)
            done = exact_avx2(file, decoder, codes, length, box, rows) == 0;
        else
#endif
            done = exact_plain(file, decoder, codes, length, box, rows) == 0;
    }
    free(codes);
    free(memory);
    free(decoder);
    return done;
}

