/* From pixels to the numbers that a JPEG has codes for: colours, downsampled chroma, the DCT forwards, quantization. AVX2 only.
 *
 * The arithmetic is that of libjpeg-turbo 3: jccolor.c, with 16 bits behind the point; jcsample.c, the mean of two or four
 * samples, rounded down and up in turns; jfdctint.c, the DCT of `dct.h` the other way, rows first; jcdctmgr.c, quotients
 * with halves rounded away from zero. */

#ifndef TVETL_FORWARD_H
#define TVETL_FORWARD_H

#include "dct.h"
#include "jpeg.h"

#if HAVE_AVX2

/* Division by a quantizer times eight, as numbers that AVX2 multiplies by, for both blocks of a pair. */
typedef struct {
    Pair half, inverse, scale;
} Divisors;

/* Two blocks side by side, quantized, as codes have them (ITU-T T.81, clause F.1.2). Of 64 coefficients only the first, DC,
 * needs more than 10 bits: of samples of 8 bits the others stay below 930. */
typedef struct {
    int dc[2];
    uint64_t nonzero[2];  /* which coefficients are not zero, in zigzag order */
    uint8_t sizes[2][64]; /* bits of each coefficient, in zigzag order */
    Pair extra;           /* these bits; of a negative number its complement's */
} Quantized;

/* --- colours ------------------------------------------------------------------------------------------------------- */

enum { Y_RED = 19595, Y_GREEN = 38470, Y_BLUE = 7471, CB_RED = 11059, CB_GREEN = 21709, CR_GREEN = 27439, CR_BLUE = 5329 };
enum { MIDDLE = (128 << 16) + 32767 }; /* of chroma: rounded, but for what lies just between */

/* Eight pixels. */
WITH_AVX2 INLINE void ycc_of_eight(const uint8_t *pixels, __m256i *y, __m256i *cb, __m256i *cr) {
#define EACH(a, b) a, -1, b, -1, a + 4, -1, b + 4, -1, a + 8, -1, b + 8, -1, a + 12, -1, b + 12, -1
    const __m256i red_green = _mm256_setr_epi8(EACH(0, 1), EACH(0, 1)), blue_green = _mm256_setr_epi8(EACH(2, 1), EACH(2, 1));
#undef EACH
    const __m256i byte = _mm256_set1_epi32(255), middle = _mm256_set1_epi32(MIDDLE);
    __m256i in = _mm256_loadu_si256((const __m256i *)pixels);
    __m256i red = _mm256_shuffle_epi8(in, red_green), blue = _mm256_shuffle_epi8(in, blue_green); /* each with green */
    /* Green's part is more than 15 bits have, so half of it is in the one and half in the other. */
    __m256i luma = _mm256_add_epi32(_mm256_madd_epi16(red, SHORTS(Y_RED, Y_GREEN - 16384)),
                                     _mm256_madd_epi16(blue, SHORTS(Y_BLUE, 16384)));
    *y = _mm256_srli_epi32(_mm256_add_epi32(luma, _mm256_set1_epi32(32768)), 16);
    __m256i r = _mm256_and_si256(red, byte), b = _mm256_and_si256(blue, byte);
    __m256i to_blue = _mm256_add_epi32(_mm256_madd_epi16(red, SHORTS(-CB_RED, -CB_GREEN)), _mm256_slli_epi32(b, 15));
    __m256i to_red = _mm256_add_epi32(_mm256_madd_epi16(blue, SHORTS(-CR_BLUE, -CR_GREEN)), _mm256_slli_epi32(r, 15));
    *cb = _mm256_srli_epi32(_mm256_add_epi32(to_blue, middle), 16);
    *cr = _mm256_srli_epi32(_mm256_add_epi32(to_red, middle), 16);
}

WITH_AVX2 INLINE void store_32(const __m256i in[4], uint8_t *to) {
    __m256i bytes = _mm256_packus_epi16(_mm256_packus_epi32(in[0], in[1]), _mm256_packus_epi32(in[2], in[3]));
    bytes = _mm256_permutevar8x32_epi32(bytes, _mm256_setr_epi32(0, 4, 1, 5, 2, 6, 3, 7));
    _mm256_storeu_si256((__m256i *)to, bytes);
}

/* A line of at least 32 pixels. */
WITH_AVX2 static void ycc_line(const uint8_t *pixels, int width, uint8_t *y, uint8_t *cb, uint8_t *cr) {
    for (int x = 0;; x = x + 64 > width ? width - 32 : x + 32) { /* the last ones may be some of those before */
        __m256i luma[4], blue[4], red[4];
        for (int i = 0; i < 4; i++) ycc_of_eight(pixels + 4 * (size_t)(x + 8 * i), &luma[i], &blue[i], &red[i]);
        store_32(luma, y + x);
        store_32(blue, cb + x);
        store_32(red, cr + x);
        if (x + 32 >= width) return;
    }
}

/* `count` means of two rows, or of one where both are the same. Reads and writes whole blocks of 32 and 16. */
WITH_AVX2 static void downsample(const uint8_t *above, const uint8_t *below, int count, uint8_t *to) {
    const __m256i ones = _mm256_set1_epi8(1), one = _mm256_set1_epi32(1 << 16), two = _mm256_set1_epi32(2 << 16 | 1);
    for (int x = 0; x < count; x += 16) {
        __m256i sum = _mm256_maddubs_epi16(_mm256_loadu_si256((const __m256i *)(above + 2 * x)), ones);
        if (above == below) {
            sum = _mm256_srli_epi16(_mm256_add_epi16(sum, one), 1);
        } else {
            sum = _mm256_add_epi16(sum, _mm256_maddubs_epi16(_mm256_loadu_si256((const __m256i *)(below + 2 * x)), ones));
            sum = _mm256_srli_epi16(_mm256_add_epi16(sum, two), 2);
        }
        _mm_storeu_si128((__m128i *)(to + x), to_bytes(sum));
    }
}

/* --- the DCT ------------------------------------------------------------------------------------------------------- */

/* Sixteen columns of eight; `shift` is how quotients bits fewer a product has than it came to. */
WITH_AVX2 INLINE void forward_dct(__m256i rows[8], int shift) {
    const __m256i round = _mm256_set1_epi32(1 << (shift - 1));
    __m256i t0 = _mm256_add_epi16(rows[0], rows[7]), t7 = _mm256_sub_epi16(rows[0], rows[7]);
    __m256i t1 = _mm256_add_epi16(rows[1], rows[6]), t6 = _mm256_sub_epi16(rows[1], rows[6]);
    __m256i t2 = _mm256_add_epi16(rows[2], rows[5]), t5 = _mm256_sub_epi16(rows[2], rows[5]);
    __m256i t3 = _mm256_add_epi16(rows[3], rows[4]), t4 = _mm256_sub_epi16(rows[3], rows[4]);
    __m256i a = _mm256_add_epi16(t0, t3), d = _mm256_sub_epi16(t0, t3);
    __m256i b = _mm256_add_epi16(t1, t2), c = _mm256_sub_epi16(t1, t2);
    __m256i sum = _mm256_add_epi16(a, b), difference = _mm256_sub_epi16(a, b);
    if (shift == 11) {
        rows[0] = _mm256_slli_epi16(sum, 2), rows[4] = _mm256_slli_epi16(difference, 2);
    } else {
        const __m256i two = _mm256_set1_epi16(2);
        rows[0] = _mm256_srai_epi16(_mm256_add_epi16(sum, two), 2);
        rows[4] = _mm256_srai_epi16(_mm256_add_epi16(difference, two), 2);
    }
    __m256i z3 = _mm256_add_epi16(t4, t6), z4 = _mm256_add_epi16(t5, t7), out[2][6];
    for (int half = 0; half < 2; half++) {
#define WITH(a, b) (half ? _mm256_unpackhi_epi16(a, b) : _mm256_unpacklo_epi16(a, b))
#define PUT(i, sum) out[half][i] = _mm256_srai_epi32(_mm256_add_epi32(sum, round), shift)
        __m256i even = WITH(c, d), odd = WITH(z3, z4), outer = WITH(t4, t7), inner = WITH(t5, t6);
        PUT(0, _mm256_madd_epi16(even, SHORTS(F541, F541 + F765)));
        PUT(1, _mm256_madd_epi16(even, SHORTS(F541 - F1847, F541)));
        __m256i to3 = _mm256_madd_epi16(odd, SHORTS(F1175 - F1961, F1175));
        __m256i to4 = _mm256_madd_epi16(odd, SHORTS(F1175, F1175 - F390));
        PUT(2, _mm256_add_epi32(_mm256_madd_epi16(outer, SHORTS(F298 - F899, -F899)), to3));
        PUT(3, _mm256_add_epi32(_mm256_madd_epi16(inner, SHORTS(F2053 - F2562, -F2562)), to4));
        PUT(4, _mm256_add_epi32(_mm256_madd_epi16(inner, SHORTS(-F2562, F3072 - F2562)), to3));
        PUT(5, _mm256_add_epi32(_mm256_madd_epi16(outer, SHORTS(-F899, F1501 - F899)), to4));
#undef PUT
#undef WITH
    }
    static const int places[6] = {2, 6, 7, 5, 3, 1};
    for (int i = 0; i < 6; i++) rows[places[i]] = _mm256_packs_epi32(out[0][i], out[1][i]);
}

/* From rows 2i and 2i + 1 to zigzag order: which of their sixteen bytes, or none, comes to each place. */
#define OF(i, place) ((place) >> 4 == (i) ? (place) & 15 : -1)
#define OF_0(place) OF(0, place)
#define OF_1(place) OF(1, place)
#define OF_2(place) OF(2, place)
#define OF_3(place) OF(3, place)
static const int8_t TO_ZIGZAG[4][64] = {{IN_ZIGZAG(OF_0)}, {IN_ZIGZAG(OF_1)}, {IN_ZIGZAG(OF_2)}, {IN_ZIGZAG(OF_3)}};

/* Bits of each of sixteen numbers and of sixteen more, given with all bits below their highest set; less than 13. */
WITH_AVX2 INLINE __m256i count_bits(__m256i a, __m256i b) {
    const __m256i byte = _mm256_set1_epi16(255), nibble = _mm256_set1_epi8(15);
    const __m256i counts = _mm256_broadcastsi128_si256(_mm_setr_epi8(0, 1, 1, 2, 1, 2, 2, 3, 1, 2, 2, 3, 2, 3, 3, 4));
    __m256i low = _mm256_packus_epi16(_mm256_and_si256(a, byte), _mm256_and_si256(b, byte));
    __m256i high = _mm256_packus_epi16(_mm256_srli_epi16(a, 8), _mm256_srli_epi16(b, 8));
    __m256i middle = _mm256_shuffle_epi8(counts, _mm256_and_si256(_mm256_srli_epi16(low, 4), nibble));
    low = _mm256_shuffle_epi8(counts, _mm256_and_si256(low, nibble));
    return _mm256_add_epi8(_mm256_add_epi8(low, middle), _mm256_shuffle_epi8(counts, high));
}

WITH_AVX2 static void forward_dct_quantize(const uint8_t *samples, size_t pitch, const Divisors *divisors, Quantized *to) {
    const __m256i middle = _mm256_set1_epi16(128);
    __m256i rows[8], sizes[4];
    for (int y = 0; y < 8; y++) {
        __m128i line = _mm_loadu_si128((const __m128i *)(samples + (size_t)y * pitch));
        rows[y] = _mm256_sub_epi16(_mm256_cvtepu8_epi16(line), middle);
    }
    transpose_avx2(rows);
    forward_dct(rows, 11);
    transpose_avx2(rows);
    forward_dct(rows, 15);
    for (int y = 0; y < 8; y++) {
        __m256i half = _mm256_load_si256((const __m256i *)divisors->half.rows[y]);
        __m256i quotients = _mm256_add_epi16(_mm256_abs_epi16(rows[y]), half);
        quotients = _mm256_mulhi_epu16(quotients, _mm256_load_si256((const __m256i *)divisors->inverse.rows[y]));
        quotients = _mm256_mulhi_epu16(quotients, _mm256_load_si256((const __m256i *)divisors->scale.rows[y]));
        if (!y) {
            __m256i dc = _mm256_sign_epi16(quotients, rows[0]);
            to->dc[0] = (int16_t)_mm256_extract_epi16(dc, 0);
            to->dc[1] = (int16_t)_mm256_extract_epi16(dc, 8);
        }
        __m256i all = _mm256_or_si256(quotients, _mm256_srli_epi16(quotients, 1)); /* ones from the first of its bits on */
        all = _mm256_or_si256(all, _mm256_srli_epi16(all, 2));
        all = _mm256_or_si256(all, _mm256_srli_epi16(all, 4));
        all = _mm256_or_si256(all, _mm256_srli_epi16(all, 8));
        __m256i extra = _mm256_xor_si256(quotients, _mm256_and_si256(all, _mm256_srai_epi16(rows[y], 15)));
        _mm256_store_si256((__m256i *)to->extra.rows[y], extra);
        rows[y] = all;
    }
    for (int i = 0; i < 4; i++) sizes[i] = count_bits(rows[2 * i], rows[2 * i + 1]);
    to->nonzero[0] = to->nonzero[1] = 0;
    for (int n = 0; n < 4; n++) {
        __m256i all = _mm256_setzero_si256();
        for (int i = n == 3; i < 4 - (n == 0); i++) {
            __m128i shuffle = _mm_loadu_si128((const __m128i *)(TO_ZIGZAG[i] + 16 * n));
            all = _mm256_or_si256(all, _mm256_shuffle_epi8(sizes[i], _mm256_broadcastsi128_si256(shuffle)));
        }
        _mm_storeu_si128((__m128i *)(to->sizes[0] + 16 * n), _mm256_castsi256_si128(all));
        _mm_storeu_si128((__m128i *)(to->sizes[1] + 16 * n), _mm256_extracti128_si256(all, 1));
        uint32_t both = ~(uint32_t)_mm256_movemask_epi8(_mm256_cmpeq_epi8(all, _mm256_setzero_si256()));
        to->nonzero[0] |= (uint64_t)(both & 0xffff) << (16 * n);
        to->nonzero[1] |= (uint64_t)(both >> 16) << (16 * n);
    }
}

#endif

#endif
