/* YCbCr (JFIF 1.02) or gray to RGB, as libjpeg-turbo's jdcolor.c does it: whole numbers with 16 bits behind the point. */

#include "jpeg.h"

/* v * m, of which 16 bits lie behind the point, rounded; m has no more than 15. All in 16 bits, for compilers' vectors. */
INLINE int16_t times(int16_t v, int16_t m) { return (int16_t)((int16_t)(((int16_t)(2 * v) * m >> 16) + 1) >> 1); }

enum { RED = 91881, GREEN_OF_BLUE = 22554, GREEN_OF_RED = 46802, BLUE = 116130, ONE = 65536 };

INLINE uint8_t clamp(int16_t value) { return (uint8_t)(value < 0 ? 0 : value > 255 ? 255 : value); }

/* Y, Cb, Cr to R, G, B. What of a factor is too large for 15 bits is added whole. */
INLINE void convert(const uint8_t *y, const uint8_t *cb, const uint8_t *cr, uint8_t *to, int count, int step) {
    enum { MANY = 64 };
    uint8_t rgb[3][MANY];
    for (int done = 0; done < count; done += MANY) {
        int some = count - done < MANY ? count - done : MANY;
        for (int x = 0; x < some; x++) {
            int16_t light = y[done + x], blue = (int16_t)(cb[done + x] - 128), red = (int16_t)(cr[done + x] - 128);
            rgb[0][x] = clamp((int16_t)(light + red + times(red, RED - ONE)));
            int green = (ONE - GREEN_OF_RED) * red - GREEN_OF_BLUE * blue;
            rgb[1][x] = clamp((int16_t)(light - red + (int16_t)((green + ONE / 2) >> 16)));
            rgb[2][x] = clamp((int16_t)(light + 2 * blue + times(blue, BLUE - 2 * ONE)));
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
        __m128i opaque = _mm_set1_epi8(-1), rg = _mm_unpacklo_epi8(r, g), bx = _mm_unpacklo_epi8(b, opaque);
        _mm_storeu_si128((__m128i *)to, _mm_unpacklo_epi16(rg, bx));
        _mm_storeu_si128((__m128i *)(to + 16), _mm_unpackhi_epi16(rg, bx));
        rg = _mm_unpackhi_epi8(r, g), bx = _mm_unpackhi_epi8(b, opaque);
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

/* `convert` for sixteen pixels. */
WITH_AVX2 INLINE void convert_16(const uint8_t *y, const uint8_t *cb, const uint8_t *cr, uint8_t *to, int step) {
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
            convert_16(y + x, cb + x, cr + x, place, step);
        } else {
            __m128i gray = _mm_loadu_si128((const __m128i *)(y + x));
            interleave(gray, gray, gray, place, step);
        }
        if (x + 16 >= count) return;
    }
}

#endif

void colours(const uint8_t *y, const uint8_t *cb, const uint8_t *cr, uint8_t *to, int count, int step) {
#if HAVE_AVX2
    if (avx2_enabled) {
        colours_avx2(y, cb, cr, to, count, step);
        return;
    }
#endif
    colours_plain(y, cb, cr, to, count, step);
}
