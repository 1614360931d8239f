/* How much each pixel of the source counts for a pixel of the result.
 *
 * The arithmetic is that of precompute_coeffs in Pillow's src/libImaging/Resample.c (12.3 and 13.0): in double precision, then
 * rounded to 22 bits behind the point. */

#include <stdlib.h>
#include <string.h>

#include "processor.h"
#include "resize.h"

static double box(double x) { return x > -0.5 && x <= 0.5 ? 1.0 : 0.0; }

static double bilinear(double x) {
    x = fabs(x);
    return x < 1.0 ? 1.0 - x : 0.0;
}

static double hamming(double x) {
    x = fabs(x);
    if (x == 0.0) return 1.0;
    if (x >= 1.0) return 0.0;
    x = x * PI;
    return sin(x) / x * (0.54f + 0.46f * cos(x)); /* these two are floats in Pillow */
}

static double bicubic(double x) {
    const double a = -0.5;
    x = fabs(x);
    if (x < 1.0) return ((a + 2.0) * x - (a + 3.0)) * x * x + 1;
    if (x < 2.0) return (((x - 5) * x + 8) * x - 4) * a;
    return 0.0;
}

static double sinc(double x) {
    if (x == 0.0) return 1.0;
    x = x * PI;
    return sin(x) / x;
}

static double lanczos(double x) { return -3.0 <= x && x < 3.0 ? sinc(x) * sinc(x / 3) : 0.0; }

/* By the numbers of PIL.Image.Resampling; nearest (0) is no filter. */
static const struct {
    double (*at)(double);
    double support;
} FILTERS[] = {{NULL, 0}, {lanczos, 3.0}, {bilinear, 1.0}, {bicubic, 2.0}, {box, 0.5}, {hamming, 1.0}};

void axis_free(Axis *axis) {
    free(axis->first);
    free(axis->count);
    free(axis->whole);
    free(axis->parts);
    memset(axis, 0, sizeof *axis);
}

int axis_make(Axis *axis, int from, float low_end, float high_end, int to, int start, int size, int filter,
                     int mirrored) {
    double scale = (double)(high_end - low_end) / to;
    double stretch = scale < 1.0 ? 1.0 : scale;
    double support = FILTERS[filter].support * stretch;
    double inverse = 1.0 / stretch;
    int taps_max = (int)ceil(support) * 2 + 1;
    double *taps = malloc((size_t)taps_max * sizeof *taps);

    axis->size = size;
    axis->groups = (taps_max + GROUP - 1) / GROUP;
    axis->first = malloc((size_t)size * sizeof *axis->first);
    axis->count = malloc((size_t)size * sizeof *axis->count);
    axis->whole = calloc((size_t)size * axis->groups, GROUP * sizeof *axis->whole);
    axis->parts = malloc((size_t)size * axis->groups * 2 * GROUP * sizeof *axis->parts);
    if (!taps || !axis->first || !axis->count || !axis->whole || !axis->parts) {
        free(taps);
        axis_free(axis);
        return -1;
    }
    for (int i = 0; i < size; i++) {
        int32_t *whole = axis->whole + (size_t)i * axis->groups * GROUP;
        int16_t *parts = axis->parts + (size_t)i * axis->groups * 2 * GROUP;
        int place = start + (mirrored ? size - 1 - i : i);
        double centre = low_end + (place + 0.5) * scale;
        double sum = 0.0;
        int low = (int)(centre - support + 0.5), high = (int)(centre + support + 0.5);
        if (low < 0) low = 0;
        if (high > from) high = from;
        for (int j = low; j < high; j++) {
            taps[j - low] = FILTERS[filter].at((j - centre + 0.5) * inverse);
            sum += taps[j - low];
        }
        for (int j = 0; j < high - low; j++) {
            double weight = (sum != 0.0 ? taps[j] / sum : taps[j]) * (1 << POINT);
            whole[j] = (int32_t)(weight < 0 ? weight - 0.5 : weight + 0.5);
        }
        for (int j = 0; j < axis->groups * GROUP; j++) {
            parts[j / GROUP * 2 * GROUP + j % GROUP] = (int16_t)(whole[j] & ((1 << LOW) - 1));
            parts[j / GROUP * 2 * GROUP + GROUP + j % GROUP] = (int16_t)(whole[j] >> LOW);
        }
        axis->first[i] = low;
        axis->count[i] = high - low;
    }
    free(taps);
    return 0;
}
