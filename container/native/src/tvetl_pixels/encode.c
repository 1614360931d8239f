/* Pixels to a baseline JPEG: the bytes that libjpeg-turbo writes for Pillow, with the standard's own tables of codes.
 *
 * The head comes from Pillow, and has all: size, quantization, sampling, tables. `forward.h` makes the quantized coefficients.
 * Here they become codes (libjpeg-turbo's jchuff.c). Beyond the picture's edges the last column and row are repeated, and a
 * block that lies wholly beyond costs two codes (jccoefct.c). */

#include "forward.h"

#if HAVE_AVX2

static const uint8_t PLACES[64] = {IN_ZIGZAG(IN_A_PAIR)};

/* For each value (ITU-T T.81, figure F.10): its code with room for its extra bits behind it, then 6 bits: the length of both. */
typedef struct {
    uint32_t entries[256];
} Codes;

/* A component. */
typedef struct {
    int h, v;
    int width, height; /* blocks that hold some of the picture */
    Divisors divisors;
    Codes dc, ac;
    uint8_t *samples;  /* a row of MCUs */
    size_t pitch;
    Quantized *blocks; /* the same row, two by two */
    int pairs;         /* of blocks in a row */
    int previous_dc;
} Channel;

typedef struct {
    Channel channels[3];
    int count, width, height, max_h, max_v;
    const uint8_t *pixels;  /* R, G, B and a fourth; or gray */
    uint8_t *full_width[4]; /* two rows of Cb, two of Cr, before they are downsampled */
    uint8_t *codes;
    size_t length, room; /* of codes: bytes that are written, and allocated */
} Encoder;

/* --- codes --------------------------------------------------------------------------------------------------------- */

typedef struct {
    uint8_t *to;
    uint64_t bits; /* from the top, less than 8 */
    unsigned used;
} Writer;

INLINE unsigned bit_length(int number) { return number ? 32 - (unsigned)__builtin_clz((unsigned)number) : 0; }

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
INLINE uint64_t with_zeros(uint64_t nonzero) {
    for (;;) {
        uint64_t near = nonzero << 1; /* not more than sixteen behind one of them */
        near |= near << 1, near |= near << 2, near |= near << 4, near |= near << 8;
        uint64_t far = nonzero & ~near & ~(uint64_t)1;
        if (!far) return nonzero;
        nonzero |= (uint64_t)1 << (63 - __builtin_clzll(nonzero & ((far & -far) - 1)) + 16);
    }
}

/* A block's codes. No branch between one and the next: even one that is always taken made this take three times as long. */
INLINE void put_block(Writer *writer, Channel *channel, const Quantized *pair, int which) {
    const int16_t *extra = pair->extra.rows[0][which];
    const uint8_t *sizes = pair->sizes[which];
    const uint32_t *ac = channel->ac.entries;
    int before = 0, difference = pair->dc[which] - channel->previous_dc;
    unsigned size = bit_length(difference < 0 ? -difference : difference);
    uint32_t entry = channel->dc.entries[size], number = (uint32_t)(difference + (difference >> 31)) & ((1u << size) - 1);
    put_bits(writer, entry >> 6 | number, entry & 63);
    channel->previous_dc = pair->dc[which];
    uint64_t nonzero = with_zeros(pair->nonzero[which] | 1), is_full = nonzero >> 63;
    nonzero &= ~(uint64_t)1;
#define NEXT(entry, bits)                                                \
    int k = __builtin_ctzll(nonzero);                                    \
    entry = ac[16 * (k - before - 1) + sizes[k]];                        \
    bits = entry >> 6 | (uint32_t)extra[PLACES[k]];                      \
    before = k;                                                          \
    nonzero &= nonzero - 1;
    if (__builtin_parityll(nonzero)) {
        uint32_t entry;
        uint64_t bits;
        NEXT(entry, bits)
        put_bits(writer, bits, entry & 63);
    }
    while (nonzero) { /* two at a time, at most 52 bits */
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
WITH_AVX2 static void put_row(Encoder *encoder, Writer *whole, int y) {
    int across = (encoder->width + 8 * encoder->max_h - 1) / (8 * encoder->max_h);
    Writer here = *whole, *writer = &here; /* in registers: what is written might else be it */
    for (int x = 0; x < across; x++)
        for (int i = 0; i < encoder->count; i++) {
            Channel *channel = &encoder->channels[i];
            for (int v = 0; v < channel->v; v++)
                for (int h = 0; h < channel->h; h++) {
                    int at = x * channel->h + h;
                    if (at < channel->width && y * channel->v + v < channel->height) {
                        put_block(writer, channel, channel->blocks + (size_t)v * channel->pairs + at / 2, at & 1);
                    } else { /* with the brightness of the block before, and flat */
                        put_bits(writer, channel->dc.entries[0] >> 6, channel->dc.entries[0] & 63);
                        put_bits(writer, channel->ac.entries[0] >> 6, channel->ac.entries[0] & 63);
                    }
                }
        }
    *whole = here;
}

/* --- tables -------------------------------------------------------------------------------------------------------- */

static void codes_make(const Huffman *table, Codes *codes, int is_ac) {
    memset(codes, 0, sizeof *codes);
    for (int length = 1, at = 0; length <= 16; length++)
        for (int code = at - table->offset[length]; code < table->beyond[length]; code++, at++) {
            int value = table->values[at], size = value & 15;
            if (is_ac || value < 16) codes->entries[value] = (uint32_t)code << size << 6 | (uint32_t)(length + size);
        }
}

/* Whether there is a code for every coefficient that may come. */
static int codes_suffice(const Channel *channel) {
    int all = channel->ac.entries[0] && channel->ac.entries[0xf0];
    for (int size = 0; size <= 11; size++) all = all && channel->dc.entries[size];
    for (int zeros = 0; zeros < 16; zeros++)
        for (int size = 1; size <= 10; size++) all = all && channel->ac.entries[16 * zeros + size];
    return all;
}

/* The DCT's results are eight times too large, so each is divided by d, eight times the file's quantizer: 8 to 2,040.
 * Division by d is multiplication by a number above 1 / d by less than a part in 2^15: exact for numerators of 15 bits. */
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
static int encoder_make(Encoder *encoder, const File *file) {
    size_t pitch = ((size_t)file->width + 8 * file->max_h + 31) / 32 * 32 + 32;
    encoder->count = file->count, encoder->width = file->width, encoder->height = file->height;
    encoder->max_h = file->max_h, encoder->max_v = file->max_v;
    if (file->max_v > file->max_h || file->width < 32) return 0; /* 4:4:0, and what is too narrow for AVX2 */
    for (int i = 0; i < file->count; i++) {
        const Component *part = &file->parts[i];
        Channel *channel = &encoder->channels[i];
        const uint16_t *by = file->quantization[part->quantization];
        channel->h = part->h, channel->v = part->v;
        channel->width = ((file->width * part->h + file->max_h - 1) / file->max_h + 7) / 8;
        channel->height = ((file->height * part->v + file->max_v - 1) / file->max_v + 7) / 8;
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
        if (file->max_h > 1 && !(encoder->full_width[i] = calloc(1, pitch))) return -1;
    return 1;
}

static void encoder_free(Encoder *encoder) {
    for (int i = 0; i < 3; i++) {
        free(encoder->channels[i].samples);
        free(encoder->channels[i].blocks);
    }
    for (int i = 0; i < 4; i++) free(encoder->full_width[i]);
    free(encoder->codes);
}

/* --- rows of samples, and the whole -------------------------------------------------------------------------------- */

/* Fill a row up to `all` samples with its last pixel. */
static void repeat_edge(uint8_t *row, int width, int all) { memset(row + width, row[width - 1], (size_t)(all - width)); }

/* The samples of row `top` of MCUs; beyond the picture its last rows again. */
static void sample_row(Encoder *encoder, int top) {
    Channel *y = encoder->channels, *cb = y + 1, *cr = y + 2;
    int width = encoder->width, high = encoder->max_v, wide = 8 * encoder->max_h, all = (width + wide - 1) / wide * wide;
    for (int j = 0; j < 8; j++) {
        int first = 8 * high * top + high * j, remaining = encoder->height - first;
        uint8_t *luma = y->samples + (size_t)(high * j) * y->pitch, *blue = NULL, *red = NULL;
        if (encoder->count == 3) blue = cb->samples + (size_t)j * cb->pitch, red = cr->samples + (size_t)j * cr->pitch;
        if (remaining <= 0) {
            for (int i = 0; i < high; i++) memcpy(luma + i * y->pitch, luma - y->pitch, y->pitch);
            if (blue) memcpy(blue, blue - cb->pitch, cb->pitch), memcpy(red, red - cr->pitch, cr->pitch);
            continue;
        }
        int lines = min(remaining, high);
        for (int i = 0; i < lines; i++) {
            uint8_t *row = luma + (size_t)i * y->pitch;
            if (!blue) {
                memcpy(row, encoder->pixels + (size_t)(first + i) * width, (size_t)width);
            } else {
                uint8_t *to_blue = encoder->max_h == 1 ? blue : encoder->full_width[i];
                uint8_t *to_red = encoder->max_h == 1 ? red : encoder->full_width[2 + i];
                ycc_line(encoder->pixels + (size_t)(first + i) * width * 4, width, row, to_blue, to_red);
                repeat_edge(to_blue, width, all), repeat_edge(to_red, width, all);
            }
            repeat_edge(row, width, all);
        }
        if (lines < high) memcpy(luma + y->pitch, luma, y->pitch);
        if (blue && encoder->max_h == 2) {
            downsample(encoder->full_width[0], encoder->full_width[lines - 1], all / 2, blue);
            downsample(encoder->full_width[2], encoder->full_width[1 + lines], all / 2, red);
        }
    }
}

/* All codes, without zeros behind 0xff, in `encoder->codes`; 1: done, -1: no memory. */
static int encoder_run(Encoder *encoder) {
    enum { MAX_BLOCK = 64 * 26 / 8 + 8 }; /* bytes of a block, at most: 16 bits and 10 for each coefficient */
    size_t blocks = 0;
    Writer writer = {NULL, 0, 0};
    for (int i = 0; i < encoder->count; i++) {
        const Channel *channel = &encoder->channels[i];
        blocks += (size_t)(channel->width + 1) * channel->v;
    }
    for (int top = 0; top * 8 * encoder->max_v < encoder->height; top++) {
        if (encoder->room - encoder->length < blocks * MAX_BLOCK) {
            size_t room = encoder->room * 3 / 2 + 2 * blocks * MAX_BLOCK;
            uint8_t *codes = realloc(encoder->codes, room);
            if (!codes) return -1;
            encoder->codes = codes;
            encoder->room = room;
        }
        sample_row(encoder, top);
        for (int i = 0; i < encoder->count; i++) {
            Channel *channel = &encoder->channels[i];
            for (int v = 0; v < channel->v; v++)
                for (int x = 0; x < channel->pairs; x++)
                    forward_dct_quantize(channel->samples + (size_t)(8 * v) * channel->pitch + 16 * x, channel->pitch,
                                         &channel->divisors, channel->blocks + (size_t)v * channel->pairs + x);
        }
        writer.to = encoder->codes + encoder->length;
        put_row(encoder, &writer, top);
        encoder->length = (size_t)(writer.to - encoder->codes);
    }
    put_bits(&writer, 127, 7); /* ones up to a whole byte */
    encoder->length = (size_t)(writer.to - encoder->codes);
    return 1;
}

/* Bytes of the codes with a zero behind each 0xff. */
static size_t stuffed_size(const Encoder *encoder) {
    size_t all = encoder->length;
    for (size_t i = 0; i < encoder->length; i++) all += encoder->codes[i] == 0xff;
    return all;
}

/* Write them (clause B.1.1.5). */
static void stuff(const Encoder *encoder, uint8_t *to) {
    for (const uint8_t *codes = encoder->codes, *end = codes + encoder->length; codes < end;) {
        const uint8_t *found = memchr(codes, 0xff, (size_t)(end - codes));
        size_t bytes = (size_t)((found ? found + 1 : end) - codes);
        memcpy(to, codes, bytes);
        codes += bytes;
        to += bytes;
        if (found) *to++ = 0;
    }
}

/* A file of zeros, with `tables`, whose head this is; and the codes of its pixels. As jpeg_encode answers. */
static int encode(const JpegHead *head, const uint8_t *pixels, size_t size, Huffman *tables, Encoder *encoder) {
    File file = {.tables = tables};
    if (file_read(&file, head->data, head->length) || file.codes != file.end ||
        size != (size_t)file.width * file.height * (file.count == 3 ? 4 : 1))
        return -2;
    encoder->pixels = pixels;
    int done = encoder_make(encoder, &file);
    return done > 0 ? encoder_run(encoder) : done;
}

int jpeg_encode(const JpegHead *head, const uint8_t *pixels, size_t size, uint8_t **jpeg, size_t *length) {
    Encoder encoder = {0};
    Huffman *tables = calloc(8, sizeof *tables);
    int done = !tables ? -1 : avx2_enabled ? encode(head, pixels, size, tables, &encoder) : 0;
    if (done > 0) {
        *length = head->length + stuffed_size(&encoder) + 2;
        if ((*jpeg = malloc(*length))) {
            memcpy(*jpeg, head->data, head->length);
            stuff(&encoder, *jpeg + head->length);
            memcpy(*jpeg + *length - 2, "\xff\xd9", 2);
        } else {
            done = -1;
        }
    }
    encoder_free(&encoder);
    free(tables);
    return done;
}

#else

int jpeg_encode(const JpegHead *head, const uint8_t *pixels, size_t size, uint8_t **jpeg, size_t *length) {
    (void)head, (void)pixels, (void)size, (void)jpeg, (void)length;
    return 0;
}

#endif
