/* Pillow's resize of 8-bit RGB and L images, bit for bit. */

#ifndef TVETL_RESIZE_H
#define TVETL_RESIZE_H

#include <stddef.h>
#include <stdint.h>

#define POINT 22 /* behind the point: a pixel has 8 of 32, and filters with negative parts need 2 more */
#define LOW 15       /* a coefficient is high * 2^15 + low, 0 <= low < 2^15: two numbers of 16 bits */
#define GROUP 4      /* coefficients are stored in fours: 4 low parts, 4 high parts */
#define LARGEST 65535 /* of any side; Pillow's own JPEG goes no further, and all sums below stay far from overflow */

/* What one direction needs: which pixels of the source make up each pixel of the result, and how much each counts. */
typedef struct {
    int size;         /* pixels of the result */
    int groups;       /* of coefficients, for each of them */
    int *first;       /* first pixel of the source */
    int *count;       /* how many */
    int32_t *whole;   /* [size][groups][GROUP] coefficients; those beyond count are zero */
    int16_t *parts;   /* the same as [size][groups][2 * GROUP]: low parts, high parts */
} Axis;

/* For resizing what lies between `low_end` and `high_end` of `from` pixels to `to`, of which the result has `size`, from
 * `start` on; mirrored where asked for. -1: no memory. */
int axis_make(Axis *axis, int from, float low_end, float high_end, int to, int start, int size, int filter, int mirrored);
void axis_free(Axis *axis);

typedef struct {
    const uint8_t *pixels;
    ptrdiff_t stride; /* bytes from row to row */
    ptrdiff_t length; /* bytes that may be read, from pixels on */
    int width, height, channels;
    int in_place;  /* rows that may be read where they are, MARGIN included; */
    uint8_t *tail; /* the others are copied here */
    size_t pitch;  /* bytes from row to row in the tail */
} Image;

typedef struct {
    const uint8_t *table; /* [channels][256] items, or NULL */
    int item;             /* bytes of one: 1, 2 or 4 */
    int planes;           /* (C, H, W); otherwise as Pillow keeps images: (H, W), or (H, W, 4), of which the fourth is 255 */
} Form;

/* Room for the rows in between: `places` of them, of `bytes` bytes each. */
typedef struct {
    int places;
    size_t pitch;
    uint8_t *ring;        /* empty at first: what lies behind a row is read, though it counts for nothing */
    uint8_t *result;      /* four rows */
    int32_t *sums;
    const uint8_t **rows; /* as many as one row of the result is made of, and one */
} Room;

/* A resize across, then down, of rows that come from above, each four resampled just before they are needed. */
typedef struct {
    const Axis *columns, *lines;
    const Form *form;
    Room room;
    int channels, step; /* step: bytes from pixel to pixel of the source */
    int seen; /* the row of the source that comes next; those above the first that counts are left out */
    int made; /* rows of the result */
    uint8_t *out;
} Stream;

/* -1: no memory. The stream's room is the caller's to free, in any case. */
int stream_make(Stream *stream, const Axis *columns, const Axis *lines, const Form *form, int channels, int step, uint8_t *out);
void room_free(Room *room);

/* Take the next four rows of the source, and make all rows of the result that they complete. */
void stream_rows(Stream *stream, const uint8_t *const in[4]);

/* Bytes for a row of `bytes`: the block that AVX2 works in may reach beyond the row, and its reads beyond that. */
size_t with_margin(size_t bytes);

/* All of an image. -1: no memory. */
int resize_image(Image *image, const Axis *columns, const Axis *lines, const Form *form, int down_first, uint8_t *out);

#endif
