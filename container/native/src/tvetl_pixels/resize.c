/* The two passes of a resize, with AVX2 where the processor has it.
 *
 * Each pass is rounded and clamped to 0..255, as in Pillow's src/libImaging/Resample.c (12.3 and 13.0). Sums are whole numbers
 * modulo 2^32, so their order is free. Rows are resampled just before they are needed; flip, crop and table are done on the
 * way. tests/engine/test_resize.py compares bytes with Pillow. */

#include <stdlib.h>
#include <string.h>

#include "processor.h"
#include "resize.h"

#define HALF (1 << (POINT - 1))
#define BLOCK 32     /* bytes of a row that are worked on at once */
#define MARGIN 16    /* bytes that may be read behind that */

static inline uint8_t rounded(int32_t sum) {
    sum >>= POINT;
    return (uint8_t)(sum < 0 ? 0 : sum > 255 ? 255 : sum);
}

/* --- one row at a time, anywhere --------------------------------------------------------------------------------- */

/* `step` is bytes from pixel to pixel of the source. */
static void across_plain(const Axis *axis, int channels, int step, const uint8_t *in, uint8_t *out) {
    for (int x = 0; x < axis->size; x++) {
        const int32_t *weights = axis->whole + (size_t)x * axis->groups * GROUP;
        const uint8_t *from = in + (size_t)axis->first[x] * step;
        int32_t sum[3] = {HALF, HALF, HALF};
        if (channels == 3)
            for (int j = 0; j < axis->count[x]; j++)
                for (int c = 0; c < 3; c++) sum[c] += from[j * step + c] * weights[j];
        else
            for (int j = 0; j < axis->count[x]; j++) sum[0] += from[j] * weights[j];
        for (int c = 0; c < channels; c++) out[x * channels + c] = rounded(sum[c]);
    }
}

/* `rows` has `count` pointers; `sums` room for `bytes` numbers. */
static void down_plain(const int32_t *weights, int count, const uint8_t **rows, int bytes, int32_t *sums, uint8_t *out) {
    for (int i = 0; i < bytes; i++) sums[i] = HALF;
    for (int j = 0; j < count; j++) {
        const uint8_t *row = rows[j];
        for (int i = 0; i < bytes; i++) sums[i] += row[i] * weights[j];
    }
    for (int i = 0; i < bytes; i++) out[i] = rounded(sums[i]);
}

#if HAVE_AVX2

/* --- AVX2 ---------------------------------------------------------------------------------------------------------
 * _mm256_madd_epi16 multiplies pixels with the low and with the high parts of their coefficients, and adds pairs. */

typedef struct {
    __m256i low[4], high[4]; /* of each of four rows: red and green below, blue above, two sums of each */
} Sums;

/* Four pixels of each row, times their coefficients. */
WITH_AVX2 INLINE Sums four_pixels(const uint8_t *const in[4], size_t at, const int16_t *weights, int step) {
    /* From four pixels: their reds and greens below, their blues above, as 16-bit numbers. */
#define FOUR(c, s) c, -1, c + s, -1, c + 2 * s, -1, c + 3 * s, -1
#define NOTHING -1, -1, -1, -1, -1, -1, -1, -1
    const __m256i parts = step == 3 ? _mm256_setr_epi8(FOUR(0, 3), FOUR(1, 3), FOUR(2, 3), NOTHING)
                                    : _mm256_setr_epi8(FOUR(0, 4), FOUR(1, 4), FOUR(2, 4), NOTHING);
#undef FOUR
#undef NOTHING
    int64_t pair[2];
    memcpy(pair, weights, sizeof pair);
    __m256i by_low = _mm256_set1_epi64x(pair[0]), by_high = _mm256_set1_epi64x(pair[1]);
    Sums sums;
    for (int r = 0; r < 4; r++) {
        __m256i pixels = _mm256_broadcastsi128_si256(_mm_loadu_si128((const __m128i *)(in[r] + at)));
        pixels = _mm256_shuffle_epi8(pixels, parts);
        sums.low[r] = _mm256_madd_epi16(pixels, by_low);
        sums.high[r] = _mm256_madd_epi16(pixels, by_high);
    }
    return sums;
}

WITH_AVX2 static inline void put_pixel(const Sums *sums, uint8_t *const out[4], size_t at) {
    const __m256i half = _mm256_set1_epi32(HALF);
    __m256i sum[4];
    for (int r = 0; r < 4; r++) sum[r] = _mm256_add_epi32(sums->low[r], _mm256_slli_epi32(sums->high[r], LOW));
    __m256i first = _mm256_add_epi32(_mm256_hadd_epi32(sum[0], sum[1]), half);
    __m256i second = _mm256_add_epi32(_mm256_hadd_epi32(sum[2], sum[3]), half);
    __m256i all = _mm256_packs_epi32(_mm256_srai_epi32(first, POINT), _mm256_srai_epi32(second, POINT));
    all = _mm256_packus_epi16(all, all);
    /* Red and green of each row, then blue and nothing. */
    __m128i rows = _mm_unpacklo_epi16(_mm256_castsi256_si128(all), _mm256_extracti128_si256(all, 1));
    int32_t pixel[4];
    _mm_storeu_si128((__m128i *)pixel, rows);
    for (int r = 0; r < 4; r++) memcpy(out[r] + at, &pixel[r], 4); /* the next pixel writes over the fourth */
}

/* Four RGB rows at once. Reads less than MARGIN bytes behind a row, writes one byte behind it. */
WITH_AVX2 INLINE void across_by(const Axis *axis, const int step, const uint8_t *const from[4], uint8_t *const to[4]) {
    const uint8_t *const in[4] = {from[0], from[1], from[2], from[3]};
    uint8_t *const out[4] = {to[0], to[1], to[2], to[3]};
    const int16_t *parts = axis->parts;
    const int *firsts = axis->first, *counts = axis->count;
    const int size = axis->size, on = axis->groups * 2 * GROUP;
    for (int x = 0; x < size; x++, parts += on) {
        size_t at = (size_t)firsts[x] * step;
        Sums sums = four_pixels(in, at, parts, step);
        if (counts[x] <= GROUP) { /* most photographs shrink by less than two */
            put_pixel(&sums, out, (size_t)x * 3);
            continue;
        }
        for (int j = GROUP; j < counts[x]; j += GROUP) {
            Sums more = four_pixels(in, at + (size_t)j * step, parts + 2 * j, step);
            for (int r = 0; r < 4; r++) {
                sums.low[r] = _mm256_add_epi32(sums.low[r], more.low[r]);
                sums.high[r] = _mm256_add_epi32(sums.high[r], more.high[r]);
            }
        }
        put_pixel(&sums, out, (size_t)x * 3);
    }
}

WITH_AVX2 static void across_avx2(const Axis *axis, int step, const uint8_t *const in[4], uint8_t *const out[4]) {
    if (step == 3)
        across_by(axis, 3, in, out);
    else
        across_by(axis, 4, in, out);
}

/* Reads and writes whole blocks; rows[count] must be readable where count is odd. */
WITH_AVX2 static void down_avx2(const int16_t *weights, int count, const uint8_t **rows, int bytes, uint8_t *out) {
    const __m256i zero = _mm256_setzero_si256(), half = _mm256_set1_epi32(HALF);
    for (int i = 0; i < bytes; i += BLOCK) {
        __m256i low[4], high[4];
        for (int q = 0; q < 4; q++) low[q] = half, high[q] = zero;
        for (int j = 0; j < count; j += 2) {
            const int16_t *at = weights + j / GROUP * 2 * GROUP + j % GROUP;
            int32_t pair[2];
            memcpy(pair, at, 4);
            memcpy(pair + 1, at + GROUP, 4);
            __m256i by_low = _mm256_set1_epi32(pair[0]), by_high = _mm256_set1_epi32(pair[1]);
            __m256i a = _mm256_loadu_si256((const __m256i *)(rows[j] + i));
            __m256i b = _mm256_loadu_si256((const __m256i *)(rows[j + 1] + i));
            __m256i below = _mm256_unpacklo_epi8(a, b), above = _mm256_unpackhi_epi8(a, b);
            __m256i pixels[4] = {_mm256_unpacklo_epi8(below, zero), _mm256_unpackhi_epi8(below, zero),
                                 _mm256_unpacklo_epi8(above, zero), _mm256_unpackhi_epi8(above, zero)};
            for (int q = 0; q < 4; q++) {
                low[q] = _mm256_add_epi32(low[q], _mm256_madd_epi16(pixels[q], by_low));
                high[q] = _mm256_add_epi32(high[q], _mm256_madd_epi16(pixels[q], by_high));
            }
        }
        for (int q = 0; q < 4; q++)
            low[q] = _mm256_srai_epi32(_mm256_add_epi32(low[q], _mm256_slli_epi32(high[q], LOW)), POINT);
        __m256i all = _mm256_packus_epi16(_mm256_packs_epi32(low[0], low[1]), _mm256_packs_epi32(low[2], low[3]));
        _mm256_storeu_si256((__m256i *)(out + i), all);
    }
}

#endif

/* --- the whole --------------------------------------------------------------------------------------------------- */

size_t with_margin(size_t bytes) { return (bytes + BLOCK - 1) / BLOCK * BLOCK + MARGIN; }

/* No byte behind the last row may be read, so the last ones are copied to where there is room. */
static int image_prepare(Image *image) {
    size_t bytes = (size_t)image->width * image->channels;
    image->pitch = with_margin(bytes);
    image->in_place = image->height;
    while (image->in_place && (image->in_place - 1) * image->stride + (ptrdiff_t)image->pitch > image->length)
        image->in_place--;
    int rest = image->height - image->in_place;
    image->tail = calloc((size_t)rest + 1, image->pitch);
    if (!image->tail) return -1;
    for (int y = 0; y < rest; y++)
        memcpy(image->tail + y * image->pitch, image->pixels + (image->in_place + y) * image->stride, bytes);
    return 0;
}

static inline const uint8_t *row_of(const Image *image, int y) {
    return y < image->in_place ? image->pixels + y * image->stride : image->tail + (y - image->in_place) * image->pitch;
}

#define FILL_PLANES(type)                                                                                             \
    do {                                                                                                              \
        for (int c = 0; c < channels; c++) {                                                                          \
            const type *table = (const type *)form->table + c * 256;                                                  \
            type *to = (type *)out + ((size_t)c * height + y) * width;                                                \
            for (int x = 0; x < width; x++) to[x] = table[row[x * channels + c]];                                     \
        }                                                                                                             \
    } while (0)

/* One finished row into the result. */
static void finish(const uint8_t *row, int channels, int width, int height, int y, const Form *form, uint8_t *out) {
    if (form->planes) {
        if (form->item == 4)
            FILL_PLANES(uint32_t);
        else if (form->item == 2)
            FILL_PLANES(uint16_t);
        else
            FILL_PLANES(uint8_t);
        return;
    }
    const uint8_t *table = form->table;
    out += (size_t)y * width * (channels == 3 ? 4 : 1);
    if (channels == 1 && !table)
        memcpy(out, row, (size_t)width);
    else if (channels == 1)
        for (int x = 0; x < width; x++) out[x] = table[row[x]];
    else if (!table)
        for (int x = 0; x < width; x++, row += 3, out += 4) memcpy(out, row, 4), out[3] = 255;
    else
        for (int x = 0; x < width; x++, row += 3, out += 4) {
            out[0] = table[row[0]];
            out[1] = table[256 + row[1]];
            out[2] = table[512 + row[2]];
            out[3] = 255;
        }
}

/* Four rows, each into its own place. */
static void across(const Axis *axis, int channels, int step, const uint8_t *const in[4], uint8_t *const out[4]) {
#if HAVE_AVX2
    if (avx2_enabled && channels == 3) {
        across_avx2(axis, step, in, out);
        return;
    }
#endif
    for (int r = 0; r < 4; r++) across_plain(axis, channels, step, in[r], out[r]);
}

/* Row y of the result, from rows[0 .. count]; the last is read, but counts for nothing. */
static void down(const Axis *axis, int y, const uint8_t **rows, int bytes, int32_t *sums, uint8_t *out) {
    size_t at = (size_t)y * axis->groups * GROUP;
#if HAVE_AVX2
    if (avx2_enabled) {
        down_avx2(axis->parts + 2 * at, axis->count[y], rows, bytes, out);
        return;
    }
#endif
    down_plain(axis->whole + at, axis->count[y], rows, bytes, sums, out);
}

static int room_make(Room *room, int places, size_t bytes, int longest) {
    room->places = places;
    room->pitch = with_margin(bytes);
    room->ring = calloc((size_t)places, room->pitch);
    room->result = calloc(4, room->pitch);
    room->sums = malloc(bytes * sizeof *room->sums);
    room->rows = malloc(((size_t)longest + 1) * sizeof *room->rows);
    return room->ring && room->result && room->sums && room->rows ? 0 : -1;
}

void room_free(Room *room) {
    free(room->ring);
    free(room->result);
    free(room->sums);
    free(room->rows);
}

void stream_rows(Stream *stream, const uint8_t *const in[4]) {
    const Axis *columns = stream->columns, *lines = stream->lines;
    Room *room = &stream->room;
    uint8_t *to[4];
    for (int r = 0; r < 4; r++) to[r] = room->ring + (size_t)((stream->seen + r) % room->places) * room->pitch;
    across(columns, stream->channels, stream->step, in, to);
    stream->seen += 4;
    for (int y; (y = stream->made) < lines->size; stream->made++) {
        int first = lines->first[y], count = lines->count[y];
        if (first + count > stream->seen) return;
        for (int j = 0; j < count; j++) room->rows[j] = room->ring + (size_t)((first + j) % room->places) * room->pitch;
        room->rows[count] = room->result;
        down(lines, y, room->rows, columns->size * stream->channels, room->sums, room->result);
        finish(room->result, stream->channels, columns->size, lines->size, y, stream->form, stream->out);
    }
}

/* Down, then across: four rows at a time. */
static void down_then_across(const Image *image, const Axis *columns, const Axis *lines, const Form *form, Room *room,
                             uint8_t *out) {
    for (int y = 0; y < lines->size; y += 4) {
        const uint8_t *in[4];
        uint8_t *to[4];
        for (int r = 0; r < 4; r++) {
            int line = y + r < lines->size ? y + r : lines->size - 1, count = lines->count[line];
            uint8_t *between = room->ring + (size_t)r * room->pitch;
            for (int j = 0; j < count; j++) room->rows[j] = row_of(image, lines->first[line] + j);
            room->rows[count] = between;
            down(lines, line, room->rows, image->width * image->channels, room->sums, between);
            in[r] = between;
            to[r] = room->result + (size_t)r * room->pitch;
        }
        across(columns, image->channels, image->channels, in, to);
        for (int r = 0; r < 4 && y + r < lines->size; r++)
            finish(to[r], image->channels, columns->size, lines->size, y + r, form, out);
    }
}

static int longest_sum(const Axis *axis) {
    int longest = 0;
    for (int i = 0; i < axis->size; i++) longest = max(longest, axis->count[i]);
    return longest;
}

int stream_make(Stream *stream, const Axis *columns, const Axis *lines, const Form *form, int channels, int step,
                       uint8_t *out) {
    *stream = (Stream){columns, lines, form, {0}, channels, step, lines->first[0], 0, out};
    /* The rows of one of the result, and the rest of the four that the last of them came with. */
    return room_make(&stream->room, longest_sum(lines) + 4, (size_t)columns->size * channels, longest_sum(lines));
}

int resize_image(Image *image, const Axis *columns, const Axis *lines, const Form *form, int down_first, uint8_t *out) {
    int failed = image_prepare(image);
    if (!failed && down_first) {
        Room room = {0};
        size_t bytes = (size_t)(image->width > columns->size ? image->width : columns->size) * image->channels;
        failed = room_make(&room, 4, bytes, longest_sum(lines));
        if (!failed) down_then_across(image, columns, lines, form, &room, out);
        room_free(&room);
    } else if (!failed) {
        Stream stream;
        failed = stream_make(&stream, columns, lines, form, image->channels, image->channels, out);
        while (!failed && stream.made < lines->size) {
            const uint8_t *in[4];
            for (int r = 0; r < 4; r++)
                in[r] = row_of(image, stream.seen + r < image->height ? stream.seen + r : image->height - 1);
            stream_rows(&stream, in);
        }
        room_free(&stream.room);
    }
    free(image->tail);
    return failed ? -1 : 0;
}

