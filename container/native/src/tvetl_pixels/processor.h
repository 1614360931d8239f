/* What the processor can do, and small definitions that every part needs. */

#ifndef TVETL_PROCESSOR_H
#define TVETL_PROCESSOR_H

#include <math.h>
#include <stdint.h>

#define INLINE static inline __attribute__((always_inline))
#define PI 3.14159265358979323846

#if defined(__x86_64__) && defined(__GNUC__)
#include <immintrin.h>
#define HAVE_AVX2 1
/* Scheduled for a processor that has them, on AMD too: 3 % quicker than for those of long ago. */
#define WITH_AVX2 __attribute__((target("avx2,bmi,bmi2,tune=skylake")))
/* Pairs of 16-bit numbers, as _mm256_madd_epi16 takes them. */
#define SHORTS(a, b) _mm256_set1_epi32((int)((uint32_t)(uint16_t)(a) | (uint32_t)(uint16_t)(b) << 16))
/* Sixteen numbers of 16 bits, clamped to bytes. */
WITH_AVX2 INLINE __m128i to_bytes(__m256i values) {
    return _mm256_castsi256_si128(_mm256_permute4x64_epi64(_mm256_packus_epi16(values, values), 0xd8));
}
#else
#define HAVE_AVX2 0
#endif

extern int avx2_enabled; /* whether AVX2 and BMI2 are there and not switched off */

INLINE int min(int a, int b) { return a < b ? a : b; }
INLINE int max(int a, int b) { return a > b ? a : b; }

typedef struct {
    int left, top, right, bottom; /* in pixels; right and bottom exclusive */
} Box;

#endif
