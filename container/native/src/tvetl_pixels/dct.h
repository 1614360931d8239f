/* The accurate integer DCT of libjpeg-turbo (jidctint.c), backwards: coefficients to samples, two blocks at a time.
 *
 * It is that of Loeffler, Ligtenberg and Moschytz (ICASSP 1989, figure 8), in whole numbers with 13 bits behind the point. It
 * goes down first, and keeps 2 bits between its passes. */

#ifndef TVETL_DCT_H
#define TVETL_DCT_H

#include <stddef.h>
#include <string.h>

#include "processor.h"

enum { F298 = 2446, F390 = 3196, F541 = 4433, F765 = 6270, F899 = 7373, F1175 = 9633 };
enum { F1501 = 12299, F1847 = 15137, F1961 = 16069, F2053 = 16819, F2562 = 20995, F3072 = 25172 };

/* Two blocks side by side: a row of coefficients of the one, then the same row of the other, and so on. */
typedef struct {
    int16_t rows[8][2][8] __attribute__((aligned(32)));
    int16_t nowhere[16]; /* what is written to coefficient 64 */
} Pair;

/* Of a coefficient's place in rows of eight, that in one half of a pair. */
#define IN_A_PAIR(place) place / 8 * 16 + place % 8

/* Sums of |coefficients| in columns c and c + 4 up to which no 16 bits overflow: a pass makes at most sqrt(2) * 4 of a
 * column, and adds two of them before it multiplies. Those of pixels stay below 4,100, before an encoder rounds them. */
enum { MAX_SUM = 5790 };

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
INLINE void transpose(const Four *in, Four *out) {
    for (int x = 0; x < 4; x++) out[x] = (Four){in[0][x], in[1][x], in[2][x], in[3][x]};
}

/* Four numbers, times as many. */
INLINE Four multiplied(const int16_t *numbers, const int16_t *factors) {
    Shorts a, b;
    memcpy(&a, numbers, sizeof a);
    memcpy(&b, factors, sizeof b);
    return __builtin_convertvector(a, Four) * __builtin_convertvector(b, Four);
}

/* 64 samples of each block, from coefficients times `quantization`; 1, and nothing in `to`, where 16 bits would overflow. */
static inline int inverse_dct_plain(const Pair *pair, const Pair *quantization, uint8_t *to, size_t pitch) {
    for (int which = 0; which < 2; which++) {
        Four left[8], right[8], above[8], below[8], sum = {0};
        for (int y = 0; y < 8; y++) {
            left[y] = multiplied(pair->rows[y][which], quantization->rows[y][which]);
            right[y] = multiplied(pair->rows[y][which] + 4, quantization->rows[y][which] + 4);
            Four signs = left[y] >> 31, others = right[y] >> 31;
            sum += ((left[y] ^ signs) - signs) + ((right[y] ^ others) - others);
        }
        for (int x = 0; x < 4; x++)
            if (sum[x] > MAX_SUM) return 1;
        dct_plain(left, 11);
        dct_plain(right, 11);
        transpose(left, above), transpose(right, above + 4);
        transpose(left + 4, below), transpose(right + 4, below + 4);
        dct_plain(above, 18);
        dct_plain(below, 18);
        transpose(above, left), transpose(above + 4, right);
        transpose(below, left + 4), transpose(below + 4, right + 4);
        for (int y = 0; y < 8; y++) {
            uint8_t *line = to + (size_t)y * pitch + 8 * which;
            Four halves[2] = {left[y] + 128, right[y] + 128};
            for (int half = 0; half < 2; half++) {
                Four clamped = ((halves[half] | (halves[half] > 255)) & ~(halves[half] < 0)) & 255;
                Bytes4 bytes = __builtin_convertvector(clamped, Bytes4);
                memcpy(line + 4 * half, &bytes, 4);
            }
        }
    }
    return 0;
}

#if HAVE_AVX2

/* The same of sixteen columns at once; what it does in 16 bits is exact as long as no sum is above MAX_SUM. */
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
WITH_AVX2 INLINE void transpose_avx2(__m256i rows[8]) {
    __m256i other[8];
    for (int step = 0; step < 3; step++) {
        for (int i = 0; i < 4; i++) {
            other[2 * i] = _mm256_unpacklo_epi16(rows[i], rows[i + 4]);
            other[2 * i + 1] = _mm256_unpackhi_epi16(rows[i], rows[i + 4]);
        }
        for (int i = 0; i < 8; i++) rows[i] = other[i];
    }
}

WITH_AVX2 static inline int inverse_dct_avx2(const Pair *pair, const Pair *quantization, uint8_t *to, size_t pitch) {
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
    lost = _mm256_or_si256(lost, _mm256_subs_epu16(sum, _mm256_set1_epi16(MAX_SUM)));
    if (!_mm256_testz_si256(lost, lost)) return 1;
    dct_avx2(rows, 11);
    transpose_avx2(rows);
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
    return 0;
}

#endif

#endif
