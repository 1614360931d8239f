/* A JPEG's segments up to its codes (ITU-T T.81, annex B), its components (clause A.1), its colours, the two decoders and the encoder.
 *
 * Both decoders take baseline files of one scan, without restart markers, with one or three components. */

#ifndef TVETL_JPEG_H
#define TVETL_JPEG_H

#include <stdlib.h>

#include "huffman.h"

typedef struct {
    int id, h, v, quantization; /* of the frame: sampling factors, table */
    const Huffman *dc, *ac;
    int before; /* the DC of the block before */
} Component;

/* In zigzag order, from the first coefficient of a block to the last, what `each` makes of its place in rows of eight. */
#define IN_ZIGZAG(each)                                                                                            \
    each(0), each(1), each(8), each(16), each(9), each(2), each(3), each(10), each(17), each(24), each(32),        \
    each(25), each(18), each(11), each(4), each(5), each(12), each(19), each(26), each(33), each(40), each(48),    \
    each(41), each(34), each(27), each(20), each(13), each(6), each(7), each(14), each(21), each(28), each(35),    \
    each(42), each(49), each(56), each(57), each(50), each(43), each(36), each(29), each(22), each(15), each(23),  \
    each(30), each(37), each(44), each(51), each(58), each(59), each(52), each(45), each(38), each(31), each(39),  \
    each(46), each(53), each(60), each(61), each(54), each(47), each(55), each(62), each(63)
#define AS_IT_IS(place) place
static const uint8_t ZIGZAG[64] = {IN_ZIGZAG(AS_IT_IS)};

/* The DC, from that of the block before; 0 where there is no code. */
INLINE int dc(Reader *reader, Component *part) {
    stop_at_end(reader);
    int entry = look_up(reader, part->dc);
    if (!entry) return 0;
    part->before = (int16_t)(part->before + number(reader, entry));
    consume(reader, entry & 63);
    return 1;
}

typedef struct {
    int width, height, count;
    int max_h, max_v;
    Component parts[3];
    uint16_t quantization[4][64];
    int quantized[4];
    Huffman *tables; /* DC 0..3, AC 0..3 */
    int is_jfif, adobe; /* -1: no such segment */
    const uint8_t *codes, *end;
} File;

/* All segments up to the codes, into a file of zeros that has its tables; -1 where the JPEG is unsupported. */
int file_read(File *file, const uint8_t *data, size_t size);

/* The codes without the zeros behind each 0xff (clause B.1.1.5), up to the marker that ends them, and PADDING zeros. The
 * caller frees them; NULL: no memory. */
uint8_t *unstuff(const uint8_t *at, const uint8_t *end, size_t *length);

/* Where the rows of a result go. */
typedef struct Rows Rows;
struct Rows {
    uint8_t *place;           /* of the next */
    int step;                 /* bytes a pixel: R, G, B, or a fourth that is 255 */
    void (*next)(Rows *rows); /* that one is done */
};

/* YCbCr, or gray where `cb` is NULL, to RGB: `count` pixels of `step` bytes: R, G, B, and with a step of 4 also 255. */
void colours(const uint8_t *y, const uint8_t *cb, const uint8_t *cr, uint8_t *to, int count, int step);

/* The two decoders: the rows of a box, in pixels at 1/scale. 1: done; 0: unsupported; -1: no memory. */
int exact_file(File *file, const Box *box, Rows *rows);
int reduced_file(File *file, int scale, const Box *box, Rows *rows);

/* All that a file has before its codes. */
typedef struct {
    const uint8_t *data;
    size_t length;
} JpegHead;

/* The encoder: a whole file of `size` bytes of pixels, which the caller frees. 1: done; 0: not for us; -1: no memory;
 * -2: this is no head, or not of these pixels. */
int jpeg_encode(const JpegHead *head, const uint8_t *pixels, size_t size, uint8_t **jpeg, size_t *length);

#endif
