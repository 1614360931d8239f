/* Pixels to a JPEG: the very bytes that libjpeg-turbo writes for Pillow, baseline and with its own tables of codes.
 *
 * The head comes from Pillow, and says all: size, quantization, sampling, tables. What follows is the arithmetic of
 * libjpeg-turbo 3 (jccolor.c, jcsample.c, jfdctint.c, jcdctmgr.c, jccoefct.c, jchuff.c): colours with 16 bits behind the
 * point; chroma as the mean of two or four, rounded down and up in turns; the DCT of `_exact.h` the other way, rows first;
 * halves rounded away from zero. Beyond the picture's edges the last column and row are repeated, and blocks that lie wholly
 * there cost two codes. */

#ifndef TVETL_ENCODE_H
#define TVETL_ENCODE_H

#include "_exact.h"

#if HAVE_AVX2

/* Of each value (ITU-T T.81, figure F.10): its code with room for its extra bits behind it, and 6 bits: the length of both. */
typedef struct {
    uint32_t entries[256];
} Codes;

/* What divides by a quantizer, eight times as large: as numbers that AVX2 multiplies by. Of both halves of a pair. */
typedef struct {
    Pair half, inverse, scale;
} Divisors;

/* Two blocks side by side, quantized, as codes have them (clause F.1.2). Of the DCT's 64 numbers only the first, DC, needs
 * more than 10 bits: of samples of 8 bits the others stay below 930. */
typedef struct {
    int dc[2];
    uint64_t there[2];    /* which are not zero */
    uint8_t sizes[2][64]; /* bits of each, as of there in zigzag order */
    Pair extra;           /* these bits: of what is below zero the complement's */
} Quantized;

/* A component. */
typedef struct {
    int h, v;
    int width, height; /* blocks that hold some of the picture */
    Divisors divisors;
    Codes dc, ac;
    uint8_t *samples;  /* a row of MCUs */
    size_t pitch;
    Quantized *blocks; /* the same, two by two */
    int pairs;         /* of them in a row */
    int before;        /* the DC of the block before */
} Channel;

typedef struct {
    Channel channels[3];
    int count, width, height, most_h, most_v;
    const uint8_t *pixels; /* R, G, B and a fourth; or one */
    uint8_t *full[4];      /* two rows of Cb, two of Cr, as wide as Y */
    uint8_t *codes;        /* so far */
    size_t length, room;
} Encode;

/* Bits of a number. */
INLINE unsigned size_of(int number) { return number ? 32 - (unsigned)__builtin_clz((unsigned)number) : 0; }

/* --- colours ------------------------------------------------------------------------------------------------------- */

enum { Y_RED = 19595, Y_GREEN = 38470, Y_BLUE = 7471, CB_RED = 11059, CB_GREEN = 21709, CR_GREEN = 27439, CR_BLUE = 5329 };
enum { MIDDLE = (128 << 16) + 32767 }; /* of chroma: rounded, but for what lies just between */

/* Eight pixels. */
WITH_AVX2 INLINE void eight(const uint8_t *pixels, __m256i *y, __m256i *cb, __m256i *cr) {
#define EACH(a, b) a, -1, b, -1, a + 4, -1, b + 4, -1, a + 8, -1, b + 8, -1, a + 12, -1, b + 12, -1
    const __m256i of_red = _mm256_setr_epi8(EACH(0, 1), EACH(0, 1)), of_blue = _mm256_setr_epi8(EACH(2, 1), EACH(2, 1));
#undef EACH
    const __m256i byte = _mm256_set1_epi32(255), middle = _mm256_set1_epi32(MIDDLE);
    __m256i in = _mm256_loadu_si256((const __m256i *)pixels);
    __m256i red = _mm256_shuffle_epi8(in, of_red), blue = _mm256_shuffle_epi8(in, of_blue); /* each with green */
    /* Green's part is more than 15 bits have, so half of it is in the one and half in the other. */
    __m256i light = _mm256_add_epi32(_mm256_madd_epi16(red, SHORTS(Y_RED, Y_GREEN - 16384)),
                                     _mm256_madd_epi16(blue, SHORTS(Y_BLUE, 16384)));
    *y = _mm256_srli_epi32(_mm256_add_epi32(light, _mm256_set1_epi32(32768)), 16);
    __m256i r = _mm256_and_si256(red, byte), b = _mm256_and_si256(blue, byte);
    __m256i to_blue = _mm256_add_epi32(_mm256_madd_epi16(red, SHORTS(-CB_RED, -CB_GREEN)), _mm256_slli_epi32(b, 15));
    __m256i to_red = _mm256_add_epi32(_mm256_madd_epi16(blue, SHORTS(-CR_BLUE, -CR_GREEN)), _mm256_slli_epi32(r, 15));
    *cb = _mm256_srli_epi32(_mm256_add_epi32(to_blue, middle), 16);
    *cr = _mm256_srli_epi32(_mm256_add_epi32(to_red, middle), 16);
}

WITH_AVX2 INLINE void put_32(const __m256i in[4], uint8_t *to) {
    __m256i bytes = _mm256_packus_epi16(_mm256_packus_epi32(in[0], in[1]), _mm256_packus_epi32(in[2], in[3]));
    bytes = _mm256_permutevar8x32_epi32(bytes, _mm256_setr_epi32(0, 4, 1, 5, 2, 6, 3, 7));
    _mm256_storeu_si256((__m256i *)to, bytes);
}

/* A line of at least 32 pixels. */
WITH_AVX2 static void line_of(const uint8_t *pixels, int width, uint8_t *y, uint8_t *cb, uint8_t *cr) {
    for (int x = 0;; x = x + 64 > width ? width - 32 : x + 32) { /* the last ones may be some of those before */
        __m256i light[4], blue[4], red[4];
        for (int i = 0; i < 4; i++) eight(pixels + 4 * (size_t)(x + 8 * i), &light[i], &blue[i], &red[i]);
        put_32(light, y + x);
        put_32(blue, cb + x);
        put_32(red, cr + x);
        if (x + 32 >= width) return;
    }
}

/* `count` means of two rows, or of one where both are the same. Reads and writes whole blocks of 32 and 16. */
WITH_AVX2 static void halve(const uint8_t *above, const uint8_t *below, int count, uint8_t *to) {
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

/* Sixteen columns of eight; `down` is how many bits fewer a product has than it came to. */
WITH_AVX2 INLINE void forward_dct(__m256i rows[8], int down) {
    const __m256i round = _mm256_set1_epi32(1 << (down - 1));
    __m256i t0 = _mm256_add_epi16(rows[0], rows[7]), t7 = _mm256_sub_epi16(rows[0], rows[7]);
    __m256i t1 = _mm256_add_epi16(rows[1], rows[6]), t6 = _mm256_sub_epi16(rows[1], rows[6]);
    __m256i t2 = _mm256_add_epi16(rows[2], rows[5]), t5 = _mm256_sub_epi16(rows[2], rows[5]);
    __m256i t3 = _mm256_add_epi16(rows[3], rows[4]), t4 = _mm256_sub_epi16(rows[3], rows[4]);
    __m256i a = _mm256_add_epi16(t0, t3), d = _mm256_sub_epi16(t0, t3);
    __m256i b = _mm256_add_epi16(t1, t2), c = _mm256_sub_epi16(t1, t2);
    __m256i sum = _mm256_add_epi16(a, b), difference = _mm256_sub_epi16(a, b);
    if (down == 11) {
        rows[0] = _mm256_slli_epi16(sum, 2), rows[4] = _mm256_slli_epi16(difference, 2);
    } else {
        const __m256i two = _mm256_set1_epi16(2);
        rows[0] = _mm256_srai_epi16(_mm256_add_epi16(sum, two), 2);
        rows[4] = _mm256_srai_epi16(_mm256_add_epi16(difference, two), 2);
    }
    __m256i z3 = _mm256_add_epi16(t4, t6), z4 = _mm256_add_epi16(t5, t7), out[2][6];
    for (int half = 0; half < 2; half++) {
#define WITH(a, b) (half ? _mm256_unpackhi_epi16(a, b) : _mm256_unpacklo_epi16(a, b))
#define PUT(i, sum) out[half][i] = _mm256_srai_epi32(_mm256_add_epi32(sum, round), down)
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

/* The number of ones at the end of sixteen numbers and of sixteen more, which have nothing before these; less than 13. */
WITH_AVX2 INLINE __m256i ones(__m256i a, __m256i b) {
    const __m256i byte = _mm256_set1_epi16(255), nibble = _mm256_set1_epi8(15);
    const __m256i counts = _mm256_broadcastsi128_si256(_mm_setr_epi8(0, 1, 1, 2, 1, 2, 2, 3, 1, 2, 2, 3, 2, 3, 3, 4));
    __m256i low = _mm256_packus_epi16(_mm256_and_si256(a, byte), _mm256_and_si256(b, byte));
    __m256i high = _mm256_packus_epi16(_mm256_srli_epi16(a, 8), _mm256_srli_epi16(b, 8));
    __m256i middle = _mm256_shuffle_epi8(counts, _mm256_and_si256(_mm256_srli_epi16(low, 4), nibble));
    low = _mm256_shuffle_epi8(counts, _mm256_and_si256(low, nibble));
    return _mm256_add_epi8(_mm256_add_epi8(low, middle), _mm256_shuffle_epi8(counts, high));
}

WITH_AVX2 static void forward(const uint8_t *samples, size_t pitch, const Divisors *divisors, Quantized *to) {
    const __m256i middle = _mm256_set1_epi16(128);
    __m256i rows[8], sizes[4];
    for (int y = 0; y < 8; y++) {
        __m128i line = _mm_loadu_si128((const __m128i *)(samples + (size_t)y * pitch));
        rows[y] = _mm256_sub_epi16(_mm256_cvtepu8_epi16(line), middle);
    }
    turn_avx2(rows);
    forward_dct(rows, 11);
    turn_avx2(rows);
    forward_dct(rows, 15);
    for (int y = 0; y < 8; y++) {
        __m256i half = _mm256_load_si256((const __m256i *)divisors->half.rows[y]);
        __m256i many = _mm256_add_epi16(_mm256_abs_epi16(rows[y]), half);
        many = _mm256_mulhi_epu16(many, _mm256_load_si256((const __m256i *)divisors->inverse.rows[y]));
        many = _mm256_mulhi_epu16(many, _mm256_load_si256((const __m256i *)divisors->scale.rows[y]));
        if (!y) {
            __m256i dc = _mm256_sign_epi16(many, rows[0]);
            to->dc[0] = (int16_t)_mm256_extract_epi16(dc, 0);
            to->dc[1] = (int16_t)_mm256_extract_epi16(dc, 8);
        }
        __m256i all = _mm256_or_si256(many, _mm256_srli_epi16(many, 1)); /* ones from the first of its bits on */
        all = _mm256_or_si256(all, _mm256_srli_epi16(all, 2));
        all = _mm256_or_si256(all, _mm256_srli_epi16(all, 4));
        all = _mm256_or_si256(all, _mm256_srli_epi16(all, 8));
        __m256i extra = _mm256_xor_si256(many, _mm256_and_si256(all, _mm256_srai_epi16(rows[y], 15)));
        _mm256_store_si256((__m256i *)to->extra.rows[y], extra);
        rows[y] = all;
    }
    for (int i = 0; i < 4; i++) sizes[i] = ones(rows[2 * i], rows[2 * i + 1]);
    to->there[0] = to->there[1] = 0;
    for (int n = 0; n < 4; n++) {
        __m256i all = _mm256_setzero_si256();
        for (int i = n == 3; i < 4 - (n == 0); i++) {
            __m128i shuffle = _mm_loadu_si128((const __m128i *)(TO_ZIGZAG[i] + 16 * n));
            all = _mm256_or_si256(all, _mm256_shuffle_epi8(sizes[i], _mm256_broadcastsi128_si256(shuffle)));
        }
        _mm_storeu_si128((__m128i *)(to->sizes[0] + 16 * n), _mm256_castsi256_si128(all));
        _mm_storeu_si128((__m128i *)(to->sizes[1] + 16 * n), _mm256_extracti128_si256(all, 1));
        uint32_t both = ~(uint32_t)_mm256_movemask_epi8(_mm256_cmpeq_epi8(all, _mm256_setzero_si256()));
        to->there[0] |= (uint64_t)(both & 0xffff) << (16 * n);
        to->there[1] |= (uint64_t)(both >> 16) << (16 * n);
    }
}

/* --- codes --------------------------------------------------------------------------------------------------------- */

typedef struct {
    uint8_t *to;
    uint64_t bits; /* from the top, less than 8 */
    unsigned used;
} Writer;

/* Up to 56 more bits, and at least one. */
INLINE void put_bits(Writer *writer, uint64_t bits, unsigned length) {
    writer->used += length;
    writer->bits |= bits << (64 - writer->used);
    uint64_t next = writer->bits;
#if __BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__
    next = __builtin_bswap64(next);
#endif
    memcpy(writer->to, &next, 8);
    writer->to += writer->used >> 3;
    writer->bits <<= writer->used & ~7u;
    writer->used &= 7;
}

/* With what stands for sixteen zeros (ZRL) wherever more than fifteen follow: it is a zero behind fifteen. */
INLINE uint64_t with_zeros(uint64_t there) {
    for (;;) {
        uint64_t near = there << 1; /* not more than sixteen behind one of them */
        near |= near << 1, near |= near << 2, near |= near << 4, near |= near << 8;
        uint64_t far = there & ~near & ~(uint64_t)1;
        if (!far) return there;
        there |= (uint64_t)1 << (63 - __builtin_clzll(there & ((far & -far) - 1)) + 16);
    }
}

/* A block's codes. No branch between one and the next: even one that is always taken made this take three times as long. */
INLINE void put_block(Writer *writer, Channel *channel, const Quantized *pair, int which) {
    const int16_t *extra = pair->extra.rows[0][which];
    const uint8_t *sizes = pair->sizes[which];
    const uint32_t *ac = channel->ac.entries;
    int before = 0, difference = pair->dc[which] - channel->before;
    unsigned size = size_of(difference < 0 ? -difference : difference);
    uint32_t entry = channel->dc.entries[size], number = (uint32_t)(difference + (difference >> 31)) & ((1u << size) - 1);
    put_bits(writer, entry >> 6 | number, entry & 63);
    channel->before = pair->dc[which];
    uint64_t there = with_zeros(pair->there[which] | 1), is_full = there >> 63;
    there &= ~(uint64_t)1;
#define NEXT(entry, bits)                                                \
    int k = __builtin_ctzll(there);                                      \
    entry = ac[16 * (k - before - 1) + sizes[k]];                        \
    bits = entry >> 6 | (uint32_t)extra[PLACES[k]];                      \
    before = k;                                                          \
    there &= there - 1;
    if (__builtin_parityll(there)) {
        uint32_t entry;
        uint64_t bits;
        NEXT(entry, bits)
        put_bits(writer, bits, entry & 63);
    }
    while (there) { /* two at a time, at most 52 bits */
        uint32_t entry, length;
        uint64_t bits, more;
        {
            NEXT(entry, bits)
            length = entry & 63;
        }
        NEXT(entry, more)
        put_bits(writer, bits << (entry & 63) | more, length + (entry & 63));
    }
#undef NEXT
    if (!is_full) put_bits(writer, ac[0] >> 6, ac[0] & 63);
}

/* Row `y` of MCUs. */
WITH_AVX2 static void put_row(Encode *encode, Writer *whole, int y) {
    int across = (encode->width + 8 * encode->most_h - 1) / (8 * encode->most_h);
    Writer here = *whole, *writer = &here; /* in registers: what is written might else be it */
    for (int x = 0; x < across; x++)
        for (int i = 0; i < encode->count; i++) {
            Channel *channel = &encode->channels[i];
            for (int v = 0; v < channel->v; v++)
                for (int h = 0; h < channel->h; h++) {
                    int at = x * channel->h + h;
                    if (at < channel->width && y * channel->v + v < channel->height) {
                        put_block(writer, channel, channel->blocks + (size_t)v * channel->pairs + at / 2, at & 1);
                    } else { /* as light as the one before, and flat */
                        put_bits(writer, channel->dc.entries[0] >> 6, channel->dc.entries[0] & 63);
                        put_bits(writer, channel->ac.entries[0] >> 6, channel->ac.entries[0] & 63);
                    }
                }
        }
    *whole = here;
}

/* --- the whole ----------------------------------------------------------------------------------------------------- */

static void codes_make(const Table *table, Codes *codes, int is_ac) {
    memset(codes, 0, sizeof *codes);
    for (int length = 1, at = 0; length <= 16; length++)
        for (int code = at - table->offset[length]; code < table->beyond[length]; code++, at++) {
            int value = table->values[at], size = value & 15;
            if (is_ac || value < 16) codes->entries[value] = (uint32_t)code << size << 6 | (uint32_t)(length + size);
        }
}

/* Whether there is a code for all that may come. */
static int codes_suffice(const Channel *channel) {
    int all = channel->ac.entries[0] && channel->ac.entries[0xf0];
    for (int size = 0; size <= 11; size++) all = all && channel->dc.entries[size];
    for (int zeros = 0; zeros < 16; zeros++)
        for (int size = 1; size <= 10; size++) all = all && channel->ac.entries[16 * zeros + size];
    return all;
}

/* A quantizer, eight times as large as in the file, as the DCT's results are: 8 to 2,040. A number of 15 bits times what is
 * above 1 / d by less than a part in 2^15 is that divided by d. */
static void divisor_make(Divisors *divisors, int place, int by) {
    int d = 8 * by, bits = 31 - __builtin_clz((unsigned)d);
    int is_power = d == 1 << bits;
    for (int which = 0; which < 2; which++) {
        divisors->half.rows[place >> 3][which][place & 7] = (int16_t)(d / 2);
        divisors->inverse.rows[place >> 3][which][place & 7] =
            (int16_t)(is_power ? 1 << 15 : ((1 << (16 + bits)) + d - 1) / d);
        divisors->scale.rows[place >> 3][which][place & 7] = (int16_t)(1 << (16 - bits + is_power));
    }
}

/* 1: made, 0: not for us, -1: no memory. */
static int encode_make(Encode *encode, const File *file) {
    size_t pitch = ((size_t)file->width + 8 * file->most_h + 31) / 32 * 32 + 32;
    encode->count = file->count, encode->width = file->width, encode->height = file->height;
    encode->most_h = file->most_h, encode->most_v = file->most_v;
    if (file->most_v > file->most_h || file->width < 32) return 0; /* 4:4:0, and what is too narrow for AVX2 */
    for (int i = 0; i < file->count; i++) {
        const Component *part = &file->parts[i];
        Channel *channel = &encode->channels[i];
        const uint16_t *by = file->quantization[part->quantization];
        channel->h = part->h, channel->v = part->v;
        channel->width = ((file->width * part->h + file->most_h - 1) / file->most_h + 7) / 8;
        channel->height = ((file->height * part->v + file->most_v - 1) / file->most_v + 7) / 8;
        for (int k = 0; k < 64; k++) {
            if (by[k] < 1 || by[k] > 255) return 0;
            divisor_make(&channel->divisors, ZIGZAG[k], by[k]);
        }
        codes_make(part->dc, &channel->dc, 0);
        codes_make(part->ac, &channel->ac, 1);
        if (!codes_suffice(channel)) return 0;
        channel->pitch = pitch;
        channel->pairs = (channel->width + 1) / 2;
        channel->samples = calloc(8 * (size_t)part->v, pitch);
        channel->blocks = aligned_alloc(32, (size_t)part->v * channel->pairs * sizeof *channel->blocks);
        if (!channel->samples || !channel->blocks) return -1;
    }
    for (int i = 0; i < 4; i++)
        if (file->most_h > 1 && !(encode->full[i] = calloc(1, pitch))) return -1;
    return 1;
}

static void encode_free(Encode *encode) {
    for (int i = 0; i < 3; i++) {
        free(encode->channels[i].samples);
        free(encode->channels[i].blocks);
    }
    for (int i = 0; i < 4; i++) free(encode->full[i]);
    free(encode->codes);
}

/* What lies right of a row's last pixel. */
static void repeat(uint8_t *row, int width, int all) { memset(row + width, row[width - 1], (size_t)(all - width)); }

/* The samples of row `top` of MCUs; beyond the picture its last rows again. */
static void sample(Encode *encode, int top) {
    Channel *y = encode->channels, *cb = y + 1, *cr = y + 2;
    int width = encode->width, high = encode->most_v, wide = 8 * encode->most_h, all = (width + wide - 1) / wide * wide;
    for (int j = 0; j < 8; j++) {
        int first = 8 * high * top + high * j, there = encode->height - first;
        uint8_t *light = y->samples + (size_t)(high * j) * y->pitch, *blue = NULL, *red = NULL;
        if (encode->count == 3) blue = cb->samples + (size_t)j * cb->pitch, red = cr->samples + (size_t)j * cr->pitch;
        if (there <= 0) {
            for (int i = 0; i < high; i++) memcpy(light + i * y->pitch, light - y->pitch, y->pitch);
            if (blue) memcpy(blue, blue - cb->pitch, cb->pitch), memcpy(red, red - cr->pitch, cr->pitch);
            continue;
        }
        int lines = there < high ? there : high;
        for (int i = 0; i < lines; i++) {
            uint8_t *row = light + (size_t)i * y->pitch;
            if (!blue) {
                memcpy(row, encode->pixels + (size_t)(first + i) * width, (size_t)width);
            } else {
                uint8_t *to_blue = encode->most_h == 1 ? blue : encode->full[i];
                uint8_t *to_red = encode->most_h == 1 ? red : encode->full[2 + i];
                line_of(encode->pixels + (size_t)(first + i) * width * 4, width, row, to_blue, to_red);
                repeat(to_blue, width, all), repeat(to_red, width, all);
            }
            repeat(row, width, all);
        }
        if (lines < high) memcpy(light + y->pitch, light, y->pitch);
        if (blue && encode->most_h == 2) {
            halve(encode->full[0], encode->full[lines - 1], all / 2, blue);
            halve(encode->full[2], encode->full[1 + lines], all / 2, red);
        }
    }
}

/* All codes, without zeros behind 0xff, in `encode->codes`; 1: done, -1: no memory. */
static int encode_all(Encode *encode) {
    enum { MOST = 64 * 26 / 8 + 8 }; /* bytes of a block, at most: 16 bits and 10 for each coefficient */
    size_t blocks = 0;
    Writer writer = {NULL, 0, 0};
    for (int i = 0; i < encode->count; i++) {
        const Channel *channel = &encode->channels[i];
        blocks += (size_t)(channel->width + 1) * channel->v;
    }
    for (int top = 0; top * 8 * encode->most_v < encode->height; top++) {
        if (encode->room - encode->length < blocks * MOST) {
            size_t room = encode->room * 3 / 2 + 2 * blocks * MOST;
            uint8_t *codes = realloc(encode->codes, room);
            if (!codes) return -1;
            encode->codes = codes;
            encode->room = room;
        }
        sample(encode, top);
        for (int i = 0; i < encode->count; i++) {
            Channel *channel = &encode->channels[i];
            for (int v = 0; v < channel->v; v++)
                for (int x = 0; x < channel->pairs; x++)
                    forward(channel->samples + (size_t)(8 * v) * channel->pitch + 16 * x, channel->pitch, &channel->divisors,
                            channel->blocks + (size_t)v * channel->pairs + x);
        }
        writer.to = encode->codes + encode->length;
        put_row(encode, &writer, top);
        encode->length = (size_t)(writer.to - encode->codes);
    }
    put_bits(&writer, 127, 7); /* ones up to a whole byte */
    encode->length = (size_t)(writer.to - encode->codes);
    return 1;
}

/* How many bytes they are with a zero behind each 0xff. */
static size_t stuffed_size(const Encode *encode) {
    size_t all = encode->length;
    for (size_t i = 0; i < encode->length; i++) all += encode->codes[i] == 0xff;
    return all;
}

static void stuff(const Encode *encode, uint8_t *to) {
    for (const uint8_t *codes = encode->codes, *end = codes + encode->length; codes < end;) {
        const uint8_t *found = memchr(codes, 0xff, (size_t)(end - codes));
        size_t bytes = (size_t)((found ? found + 1 : end) - codes);
        memcpy(to, codes, bytes);
        codes += bytes;
        to += bytes;
        if (found) *to++ = 0;
    }
}

#endif

#endif
