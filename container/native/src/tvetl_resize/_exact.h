/* A region of a JPEG at its full size: the very pixels that libjpeg-turbo makes there, as Pillow asks it to.
 *
 * Blocks that the region needs, with a sample around it where chroma is stored at half the size, go through the accurate
 * integer DCT; of all others the codes are stepped over. What follows is the arithmetic of libjpeg-turbo 3 (jidctint.c,
 * jdsample.c, jdcolor.c), rounding included: the DCT of Loeffler, Ligtenberg and Moschytz (ICASSP 1989, figure 8) in whole
 * numbers with 13 bits behind the point, down first, with 2 bits kept between its passes; "fancy" upsampling, 3/4 of the
 * nearer sample and 1/4 of the further; colours with 16 bits behind the point.
 *
 * libjpeg-turbo's SIMD keeps what lies between in 16 bits. No picture needs more, but a file can ask for it; then the sums
 * depend on the processor, and the file is not for us: see `WILDEST`. */

#ifndef TVETL_EXACT_H
#define TVETL_EXACT_H

#include <stddef.h>

#include "_file.h"

enum { F298 = 2446, F390 = 3196, F541 = 4433, F765 = 6270, F899 = 7373, F1175 = 9633 };
enum { F1501 = 12299, F1847 = 15137, F1961 = 16069, F2053 = 16819, F2562 = 20995, F3072 = 25172 };

/* Two blocks side by side: a row of coefficients of the one, then the same row of the other, and so on. */
typedef struct {
    int16_t rows[8][2][8] __attribute__((aligned(32)));
    int16_t nowhere[16]; /* what is written to coefficient 64 */
} Pair;

/* Sums of |coefficients| in columns c and c + 4 up to which no 16 bits overflow: a pass makes at most sqrt(2) * 4 of a
 * column, and adds two of them before it multiplies. Those of pixels stay below 4,100, before an encoder rounds them. */
enum { WILDEST = 5790 };

/* A component's part in the region. */
typedef struct {
    Component *part;
    int wide, high;                  /* pixels for a sample: 1 or 2 */
    int left, top, right, bottom;    /* the first and last sample needed */
    int first, last, above, below;   /* the first and last block needed: across, down */
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
    int wild; /* whether a block needs more than 16 bits */
} Exact;

typedef int Coefficients(Reader *reader, const Table *table, int16_t *to);
typedef void Transform(Exact *exact, const Pair *pair, const Pair *quantization, uint8_t *to, size_t pitch);
typedef void Colours(const uint8_t *y, const uint8_t *cb, const uint8_t *cr, uint8_t *to, int count, int step);

/* --- the DCT ------------------------------------------------------------------------------------------------------- */

typedef int32_t Four __attribute__((vector_size(16)));
typedef int16_t Shorts __attribute__((vector_size(8)));
typedef uint8_t Bytes4 __attribute__((vector_size(4)));

/* Four columns of eight, into the same with `shift` bits fewer. */
INLINE void dct_plain(Four rows[8], int shift) {
    Four z1 = (rows[2] + rows[6]) * F541, t2 = z1 - rows[6] * F1847, t3 = z1 + rows[2] * F765;
    Four t0 = (rows[0] + rows[4]) * 8192 + (1 << (shift - 1)), t1 = (rows[0] - rows[4]) * 8192 + (1 << (shift - 1));
    Four a = t0 + t3, d = t0 - t3, b = t1 + t2, c = t1 - t2;
    t0 = rows[7], t1 = rows[5], t2 = rows[3], t3 = rows[1];
    Four z2 = (t1 + t2) * -F2562, z3 = t0 + t2, z4 = t1 + t3, z5 = (z3 + z4) * F1175;
    z1 = (t0 + t3) * -F899;
    z3 = z5 - z3 * F1961;
    z4 = z5 - z4 * F390;
    t0 = t0 * F298 + z1 + z3;
    t1 = t1 * F2053 + z2 + z4;
    t2 = t2 * F3072 + z2 + z3;
    t3 = t3 * F1501 + z1 + z4;
    rows[0] = (a + t3) >> shift, rows[7] = (a - t3) >> shift;
    rows[1] = (b + t2) >> shift, rows[6] = (b - t2) >> shift;
    rows[2] = (c + t1) >> shift, rows[5] = (c - t1) >> shift;
    rows[3] = (d + t0) >> shift, rows[4] = (d - t0) >> shift;
}

/* Four rows of four to their columns. */
INLINE void turn(const Four *in, Four *out) {
    for (int x = 0; x < 4; x++) out[x] = (Four){in[0][x], in[1][x], in[2][x], in[3][x]};
}

/* Four numbers, times as many. */
INLINE Four multiplied(const int16_t *numbers, const int16_t *factors) {
    Shorts a, b;
    memcpy(&a, numbers, sizeof a);
    memcpy(&b, factors, sizeof b);
    return __builtin_convertvector(a, Four) * __builtin_convertvector(b, Four);
}

static void transform_plain(Exact *exact, const Pair *pair, const Pair *quantization, uint8_t *to, size_t pitch) {
    for (int which = 0; which < 2; which++) {
        Four left[8], right[8], above[8], below[8], sum = {0};
        for (int y = 0; y < 8; y++) {
            left[y] = multiplied(pair->rows[y][which], quantization->rows[y][which]);
            right[y] = multiplied(pair->rows[y][which] + 4, quantization->rows[y][which] + 4);
            Four signs = left[y] >> 31, others = right[y] >> 31;
            sum += ((left[y] ^ signs) - signs) + ((right[y] ^ others) - others);
        }
        for (int x = 0; x < 4; x++)
            if (sum[x] > WILDEST) exact->wild = 1;
        if (exact->wild) return;
        dct_plain(left, 11);
        dct_plain(right, 11);
        turn(left, above), turn(right, above + 4);
        turn(left + 4, below), turn(right + 4, below + 4);
        dct_plain(above, 18);
        dct_plain(below, 18);
        turn(above, left), turn(above + 4, right);
        turn(below, left + 4), turn(below + 4, right + 4);
        for (int y = 0; y < 8; y++) {
            uint8_t *line = to + (size_t)y * pitch + 8 * which;
            Four halves[2] = {left[y] + 128, right[y] + 128};
            for (int half = 0; half < 2; half++) {
                Four cut = ((halves[half] | (halves[half] > 255)) & ~(halves[half] < 0)) & 255;
                Bytes4 bytes = __builtin_convertvector(cut, Bytes4);
                memcpy(line + 4 * half, &bytes, 4);
            }
        }
    }
}

#if HAVE_AVX2

#define SHORTS(a, b) _mm256_set1_epi32((int)((uint32_t)(uint16_t)(a) | (uint32_t)(uint16_t)(b) << 16))

/* The same of sixteen columns at once; what it does in 16 bits is exact as long as nothing is wild. */
WITH_AVX2 INLINE void dct_avx2(__m256i rows[8], int shift) {
    const __m256i zero = _mm256_setzero_si256(), round = _mm256_set1_epi32(1 << (shift - 1));
    __m256i low[8], high[8];
    for (int half = 0; half < 2; half++) {
        __m256i *out = half ? high : low;
#define WITH(a, b) (half ? _mm256_unpackhi_epi16(a, b) : _mm256_unpacklo_epi16(a, b))
        __m256i even = WITH(rows[2], rows[6]);
        __m256i t2 = _mm256_madd_epi16(even, SHORTS(F541, F541 - F1847));
        __m256i t3 = _mm256_madd_epi16(even, SHORTS(F541 + F765, F541));
        __m256i t0 = _mm256_srai_epi32(WITH(zero, _mm256_add_epi16(rows[0], rows[4])), 3);
        __m256i t1 = _mm256_srai_epi32(WITH(zero, _mm256_sub_epi16(rows[0], rows[4])), 3);
        t0 = _mm256_add_epi32(t0, round);
        t1 = _mm256_add_epi32(t1, round);
        __m256i a = _mm256_add_epi32(t0, t3), d = _mm256_sub_epi32(t0, t3);
        __m256i b = _mm256_add_epi32(t1, t2), c = _mm256_sub_epi32(t1, t2);
        __m256i odd = WITH(_mm256_add_epi16(rows[7], rows[3]), _mm256_add_epi16(rows[5], rows[1]));
        __m256i z3 = _mm256_madd_epi16(odd, SHORTS(F1175 - F1961, F1175));
        __m256i z4 = _mm256_madd_epi16(odd, SHORTS(F1175, F1175 - F390));
        __m256i outer = WITH(rows[7], rows[1]), inner = WITH(rows[5], rows[3]);
        t0 = _mm256_add_epi32(_mm256_madd_epi16(outer, SHORTS(F298 - F899, -F899)), z3);
        t1 = _mm256_add_epi32(_mm256_madd_epi16(inner, SHORTS(F2053 - F2562, -F2562)), z4);
        t2 = _mm256_add_epi32(_mm256_madd_epi16(inner, SHORTS(-F2562, F3072 - F2562)), z3);
        t3 = _mm256_add_epi32(_mm256_madd_epi16(outer, SHORTS(-F899, F1501 - F899)), z4);
#undef WITH
        out[0] = _mm256_srai_epi32(_mm256_add_epi32(a, t3), shift);
        out[7] = _mm256_srai_epi32(_mm256_sub_epi32(a, t3), shift);
        out[1] = _mm256_srai_epi32(_mm256_add_epi32(b, t2), shift);
        out[6] = _mm256_srai_epi32(_mm256_sub_epi32(b, t2), shift);
        out[2] = _mm256_srai_epi32(_mm256_add_epi32(c, t1), shift);
        out[5] = _mm256_srai_epi32(_mm256_sub_epi32(c, t1), shift);
        out[3] = _mm256_srai_epi32(_mm256_add_epi32(d, t0), shift);
        out[4] = _mm256_srai_epi32(_mm256_sub_epi32(d, t0), shift);
    }
    for (int i = 0; i < 8; i++) rows[i] = _mm256_packs_epi32(low[i], high[i]);
}

/* Rows of two blocks to their columns. */
WITH_AVX2 INLINE void turn_avx2(__m256i rows[8]) {
    __m256i other[8];
    for (int step = 0; step < 3; step++) {
        for (int i = 0; i < 4; i++) {
            other[2 * i] = _mm256_unpacklo_epi16(rows[i], rows[i + 4]);
            other[2 * i + 1] = _mm256_unpackhi_epi16(rows[i], rows[i + 4]);
        }
        for (int i = 0; i < 8; i++) rows[i] = other[i];
    }
}

WITH_AVX2 static void transform_avx2(Exact *exact, const Pair *pair, const Pair *quantization, uint8_t *to,
                                     size_t pitch) {
    __m256i rows[8], sum = _mm256_setzero_si256(), lost = _mm256_setzero_si256();
    for (int y = 0; y < 8; y++) {
        __m256i numbers = _mm256_load_si256((const __m256i *)pair->rows[y]);
        __m256i factors = _mm256_load_si256((const __m256i *)quantization->rows[y]);
        rows[y] = _mm256_mullo_epi16(numbers, factors);
        /* Where the upper bits are not 16 times the sign, they are lost. */
        lost = _mm256_or_si256(lost, _mm256_xor_si256(_mm256_mulhi_epi16(numbers, factors), _mm256_srai_epi16(rows[y], 15)));
        sum = _mm256_adds_epu16(sum, _mm256_abs_epi16(rows[y]));
    }
    sum = _mm256_adds_epu16(sum, _mm256_shuffle_epi32(sum, 0x4e)); /* column c and c + 4 */
    lost = _mm256_or_si256(lost, _mm256_subs_epu16(sum, _mm256_set1_epi16(WILDEST)));
    if (!_mm256_testz_si256(lost, lost)) {
        exact->wild = 1;
        return;
    }
    dct_avx2(rows, 11);
    turn_avx2(rows);
    dct_avx2(rows, 18);
    const __m256i middle = _mm256_set1_epi8(-128);
    __m256i bytes[4], half[4];
    for (int i = 0; i < 4; i++) bytes[i] = _mm256_add_epi8(_mm256_packs_epi16(rows[i], rows[i + 4]), middle);
    /* bytes[i]: column i, then column i + 4, of one block and of the other. */
    half[0] = _mm256_unpacklo_epi8(bytes[0], bytes[2]), half[1] = _mm256_unpackhi_epi8(bytes[0], bytes[2]);
    half[2] = _mm256_unpacklo_epi8(bytes[1], bytes[3]), half[3] = _mm256_unpackhi_epi8(bytes[1], bytes[3]);
    /* columns 0 2, 4 6, 1 3, 5 7 */
    __m256i a = _mm256_unpacklo_epi8(half[0], half[2]), b = _mm256_unpackhi_epi8(half[0], half[2]);
    __m256i c = _mm256_unpacklo_epi8(half[1], half[3]), d = _mm256_unpackhi_epi8(half[1], half[3]);
    /* a: rows 0..3 of columns 0 1 2 3, b: rows 4..7 of them; c, d: of columns 4 5 6 7 */
    __m256i r[4] = {_mm256_unpacklo_epi32(a, c), _mm256_unpackhi_epi32(a, c), _mm256_unpacklo_epi32(b, d),
                    _mm256_unpackhi_epi32(b, d)};
    for (int i = 0; i < 4; i++) {
        __m256i two = _mm256_permute4x64_epi64(r[i], 0xd8); /* row 2i of both blocks, row 2i + 1 of both */
        _mm_storeu_si128((__m128i *)(to + (size_t)(2 * i) * pitch), _mm256_castsi256_si128(two));
        _mm_storeu_si128((__m128i *)(to + (size_t)(2 * i + 1) * pitch), _mm256_extracti128_si256(two, 1));
    }
}

#endif

/* --- colours ------------------------------------------------------------------------------------------------------- */

static void colours_plain(const uint8_t *y, const uint8_t *cb, const uint8_t *cr, uint8_t *to, int count, int step) {
    if (cb && step == 3)
        convert(y, cb, cr, to, count, 3);
    else if (cb)
        convert(y, cb, cr, to, count, 4);
    else
        convert_gray(y, to, count, step);
}

#if HAVE_AVX2

/* Sixteen pixels, r and g and b together, and 255 where there is a fourth byte. */
WITH_AVX2 INLINE void interleave(__m128i r, __m128i g, __m128i b, uint8_t *to, int step) {
    if (step == 4) {
        __m128i ones = _mm_set1_epi8(-1), rg = _mm_unpacklo_epi8(r, g), bx = _mm_unpacklo_epi8(b, ones);
        _mm_storeu_si128((__m128i *)to, _mm_unpacklo_epi16(rg, bx));
        _mm_storeu_si128((__m128i *)(to + 16), _mm_unpackhi_epi16(rg, bx));
        rg = _mm_unpackhi_epi8(r, g), bx = _mm_unpackhi_epi8(b, ones);
        _mm_storeu_si128((__m128i *)(to + 32), _mm_unpacklo_epi16(rg, bx));
        _mm_storeu_si128((__m128i *)(to + 48), _mm_unpackhi_epi16(rg, bx));
        return;
    }
#define O -1
    const __m128i r0 = _mm_setr_epi8(0, O, O, 1, O, O, 2, O, O, 3, O, O, 4, O, O, 5);
    const __m128i g0 = _mm_setr_epi8(O, 0, O, O, 1, O, O, 2, O, O, 3, O, O, 4, O, O);
    const __m128i b0 = _mm_setr_epi8(O, O, 0, O, O, 1, O, O, 2, O, O, 3, O, O, 4, O);
    const __m128i r1 = _mm_setr_epi8(O, O, 6, O, O, 7, O, O, 8, O, O, 9, O, O, 10, O);
    const __m128i g1 = _mm_setr_epi8(5, O, O, 6, O, O, 7, O, O, 8, O, O, 9, O, O, 10);
    const __m128i b1 = _mm_setr_epi8(O, 5, O, O, 6, O, O, 7, O, O, 8, O, O, 9, O, O);
    const __m128i r2 = _mm_setr_epi8(O, 11, O, O, 12, O, O, 13, O, O, 14, O, O, 15, O, O);
    const __m128i g2 = _mm_setr_epi8(O, O, 11, O, O, 12, O, O, 13, O, O, 14, O, O, 15, O);
    const __m128i b2 = _mm_setr_epi8(10, O, O, 11, O, O, 12, O, O, 13, O, O, 14, O, O, 15);
#undef O
#define THREE(i) \
    _mm_or_si128(_mm_or_si128(_mm_shuffle_epi8(r, r##i), _mm_shuffle_epi8(g, g##i)), _mm_shuffle_epi8(b, b##i))
    _mm_storeu_si128((__m128i *)to, THREE(0));
    _mm_storeu_si128((__m128i *)(to + 16), THREE(1));
    _mm_storeu_si128((__m128i *)(to + 32), THREE(2));
#undef THREE
}

WITH_AVX2 INLINE __m128i to_bytes(__m256i sixteen) {
    return _mm256_castsi256_si128(_mm256_permute4x64_epi64(_mm256_packus_epi16(sixteen, sixteen), 0xd8));
}

/* `convert` for sixteen pixels. */
WITH_AVX2 INLINE void sixteen(const uint8_t *y, const uint8_t *cb, const uint8_t *cr, uint8_t *to, int step) {
    const __m256i middle = _mm256_set1_epi16(128), one = _mm256_set1_epi16(1), half = _mm256_set1_epi32(ONE / 2);
    __m256i light = _mm256_cvtepu8_epi16(_mm_loadu_si128((const __m128i *)y));
    __m256i blue = _mm256_sub_epi16(_mm256_cvtepu8_epi16(_mm_loadu_si128((const __m128i *)cb)), middle);
    __m256i red = _mm256_sub_epi16(_mm256_cvtepu8_epi16(_mm_loadu_si128((const __m128i *)cr)), middle);
    __m256i red2 = _mm256_add_epi16(red, red), blue2 = _mm256_add_epi16(blue, blue);
    __m256i r = _mm256_mulhi_epi16(red2, _mm256_set1_epi16(RED - ONE));
    r = _mm256_add_epi16(_mm256_add_epi16(_mm256_srai_epi16(_mm256_add_epi16(r, one), 1), red), light);
    __m256i b = _mm256_mulhi_epi16(blue2, _mm256_set1_epi16(BLUE - 2 * ONE));
    b = _mm256_add_epi16(_mm256_add_epi16(_mm256_srai_epi16(_mm256_add_epi16(b, one), 1), blue2), light);
    __m256i low = _mm256_madd_epi16(_mm256_unpacklo_epi16(blue, red), SHORTS(-GREEN_OF_BLUE, ONE - GREEN_OF_RED));
    __m256i high = _mm256_madd_epi16(_mm256_unpackhi_epi16(blue, red), SHORTS(-GREEN_OF_BLUE, ONE - GREEN_OF_RED));
    low = _mm256_srai_epi32(_mm256_add_epi32(low, half), 16);
    high = _mm256_srai_epi32(_mm256_add_epi32(high, half), 16);
    __m256i g = _mm256_add_epi16(_mm256_sub_epi16(_mm256_packs_epi32(low, high), red), light);
    interleave(to_bytes(r), to_bytes(g), to_bytes(b), to, step);
}

WITH_AVX2 static void colours_avx2(const uint8_t *y, const uint8_t *cb, const uint8_t *cr, uint8_t *to, int count,
                                   int step) {
    if (count < 16) {
        colours_plain(y, cb, cr, to, count, step);
        return;
    }
    for (int x = 0;; x = x + 32 > count ? count - 16 : x + 16) { /* the last sixteen may be some of those before */
        uint8_t *place = to + step * (size_t)x;
        if (cb) {
            sixteen(y + x, cb + x, cr + x, place, step);
        } else {
            __m128i gray = _mm_loadu_si128((const __m128i *)(y + x));
            interleave(gray, gray, gray, place, step);
        }
        if (x + 16 >= count) return;
    }
}

#endif

/* --- upsampling ---------------------------------------------------------------------------------------------------- */

/* The samples of row `y` of the component. */
INLINE const uint8_t *samples(const Plane *plane, int y) {
    return plane->samples + (size_t)(y & (16 * plane->part->v - 1)) * plane->pitch + (plane->left - 8 * plane->first);
}

/* Of the region's row `y`, the component's values: where they lie, from pixel `left` on. */
INLINE const uint8_t *values(const Plane *plane, int y, int left) {
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
    /* Beyond the edges of the picture its outermost sample; beyond those of the region what is not asked for. */
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

/* Of the k-th coefficient in zigzag order, its place in one half of a pair; the last one is what nobody reads. */
#define IN_A_PAIR(place) place / 8 * 16 + place % 8
static const uint8_t PLACES[65] = {IN_ZIGZAG(IN_A_PAIR), offsetof(Pair, nowhere) / sizeof(int16_t)};

/* A block's coefficients but the DC, into one half of a pair; 0 where the codes are no block. */
INLINE int coefficients(Reader *reader_, const Table *table, int16_t *to) {
    Reader reader = *reader_; /* in registers */
    for (unsigned k = 0; k < 63;) {
        uint64_t bits = reader.bits;
        uint32_t entry = table->two[bits >> (64 - BITS)], length = entry & 63;
        uint32_t k1 = k + (entry >> 19 & 31), k2 = k1 + (entry >> 24);
        int value = extra(bits, entry >> 6 & 31, entry >> 11 & 15);
        if (k2 < 64) { /* the second first: where there is none, it has the place of the first */
            to[PLACES[k2]] = (int16_t)extra(bits, length, entry >> 15 & 15);
            to[PLACES[k1]] = (int16_t)value;
            take(&reader, length);
            k = k2;
            continue;
        }
        if (entry >> 24 == OVER && k1 < 63) { /* without a first, into a place that nobody reads: no branch for that */
            to[PLACES[k1 == k ? 64 : k1]] = (int16_t)value;
            take(&reader, length);
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
        take(&reader, single & 63);
    }
    *reader_ = reader;
    return 1;
}

/* Functions of their own, as the processor has fewer registers than all of the decoder would use. */
__attribute__((noinline)) static int coefficients_plain(Reader *reader, const Table *table, int16_t *to) {
    return coefficients(reader, table, to);
}

#if HAVE_AVX2
WITH_AVX2 __attribute__((noinline)) static int coefficients_avx2(Reader *reader, const Table *table, int16_t *to) {
    return coefficients(reader, table, to);
}
#endif

/* The block that is so many from the left and from the top, into its place where it is needed; 0 where there is none. */
INLINE int block_at(Reader *reader, Exact *exact, Plane *plane, int across, int down, Coefficients *coefficients,
                    Transform *transform) {
    Component *part = plane->part;
    if (!dc(reader, part)) return 0;
    if (across < plane->first || across > plane->last || down < plane->above || down > plane->below)
        return skip(reader, part->ac, 1);
    int which = (across - plane->first) & 1;
    Pair *pair = &plane->pairs[down & (part->v - 1)];
    pair->rows[0][which][0] = (int16_t)part->before;
    if (!coefficients(reader, part->ac, pair->rows[0][which])) return 0;
    if (which || across == plane->last) {
        size_t x = 8 * (size_t)(across - plane->first - which), y = 8 * (size_t)(down & (2 * part->v - 1));
        transform(exact, pair, &plane->quantization, plane->samples + y * plane->pitch + x, plane->pitch);
        memset(pair->rows, 0, sizeof pair->rows);
    }
    return 1;
}

/* 0: done; -1: the codes are not what they should be, or ask for more than 16 bits. */
INLINE int exact_all(File *file, Exact *exact, const uint8_t *codes, size_t length, const Box *box, Rows *rows,
                     Coefficients *coefficients, Transform *transform, Colours *colours) {
    Reader reader = reader_of(codes, length);
    int high = 8 * file->most_v, across = (file->width + 8 * file->most_h - 1) / (8 * file->most_h);
    int end = 0, y = box->top, width = box->right - box->left;
    for (int i = 0; i < file->count; i++) {
        Plane *plane = &exact->planes[i];
        end = plane->below / plane->part->v > end ? plane->below / plane->part->v : end;
    }
    for (int row = 0; row <= end; row++) {
        for (int column = 0; column < across; column++) {
            for (int i = 0; i < file->count; i++) {
                Plane *plane = &exact->planes[i];
                Component *part = plane->part;
                for (int v = 0; v < part->v; v++)
                    for (int h = 0; h < part->h; h++)
                        if (!block_at(&reader, exact, plane, column * part->h + h, row * part->v + v, coefficients, transform))
                            return -1;
            }
        }
        if ((size_t)(reader.at - codes) * 8 > length * 8 + (size_t)reader.count) return -1; /* more than there is */
        if (exact->wild) return -1;
        /* The last row of pixels waits for the chroma below it. */
        int ready = (row + 1) * high - (file->most_v > 1);
        for (ready = row == end || ready > box->bottom ? box->bottom : ready; y < ready; y++) {
            const uint8_t *each[3] = {NULL, NULL, NULL};
            for (int i = 0; i < file->count; i++) each[i] = values(&exact->planes[i], y, box->left);
            colours(each[0], each[1], each[2], rows->place, width, rows->step);
            rows->next(rows);
        }
    }
    return 0;
}

static int exact_plain(File *file, Exact *exact, const uint8_t *codes, size_t length, const Box *box, Rows *rows) {
    return exact_all(file, exact, codes, length, box, rows, coefficients_plain, transform_plain, colours_plain);
}

#if HAVE_AVX2
WITH_AVX2 static int exact_avx2(File *file, Exact *exact, const uint8_t *codes, size_t length, const Box *box, Rows *rows) {
    return exact_all(file, exact, codes, length, box, rows, coefficients_avx2, transform_avx2, colours_avx2);
}
#endif

static int least(int a, int b) { return a < b ? a : b; }
static int most(int a, int b) { return a > b ? a : b; }

static void plane_prepare(Exact *exact, Plane *plane, const File *file, Component *part, const Box *box) {
    plane->part = part;
    plane->wide = file->most_h / part->h;
    plane->high = file->most_v / part->v;
    plane->width = (file->width + plane->wide - 1) / plane->wide;
    plane->height = (file->height + plane->high - 1) / plane->high;
    /* With one sample around the region, where pixels are made of two. */
    plane->left = plane->wide == 1 ? box->left : most(0, (box->left - 1) >> 1);
    plane->right = plane->wide == 1 ? box->right - 1 : least(plane->width - 1, box->right >> 1);
    plane->top = plane->high == 1 ? box->top : most(0, (box->top - 1) >> 1);
    plane->bottom = plane->high == 1 ? box->bottom - 1 : least(plane->height - 1, box->bottom >> 1);
    plane->first = plane->left / 8, plane->last = plane->right / 8;
    plane->above = plane->top / 8, plane->below = plane->bottom / 8;
    plane->pitch = 8 * (size_t)(plane->last - plane->first + 2);
    for (int k = 0; k < 64; k++) {
        int divisor = file->quantization[part->quantization][k];
        exact->wild |= divisor > INT16_MAX;
        for (int which = 0; which < 2; which++) {
            int16_t *half = plane->quantization.rows[0][which];
            half[PLACES[k]] = (int16_t)divisor;
        }
    }
}

/* 1: done; 0: not for us; -1: no memory. */
static int exact_file(File *file, const Box *box, Rows *rows) {
    Exact *exact = NULL;
    size_t length = 0, bytes = 0;
    int done = -1;
    if (posix_memalign((void **)&exact, 64, sizeof *exact)) return -1;
    memset(exact, 0, sizeof *exact);
    for (int i = 0; i < file->count; i++) {
        Plane *plane = &exact->planes[i];
        plane_prepare(exact, plane, file, &file->parts[i], box);
        bytes += (16 * (size_t)plane->part->v + 4) * plane->pitch + 32; /* samples; sums and a row, of all its samples */
    }
    uint8_t *codes = plain(file->codes, file->end, &length), *memory = malloc(bytes), *at = memory;
    if (codes && memory) {
        for (int i = 0; i < file->count; i++) {
            Plane *plane = &exact->planes[i];
            plane->sums = (uint16_t *)at + 8;
            at += 2 * plane->pitch + 32;
            plane->row = at;
            at += 2 * plane->pitch;
            plane->samples = at;
            at += 16 * (size_t)plane->part->v * plane->pitch;
        }
#if HAVE_AVX2
        if (fast)
            done = exact_avx2(file, exact, codes, length, box, rows) == 0;
        else
#endif
            done = exact_plain(file, exact, codes, length, box, rows) == 0;
    }
    free(codes);
    free(memory);
    free(exact);
    return done;
}

#endif
