/* The Python module: decoding of a JPEG's region, resizing, both at once, encoding, look-ups, and a search for markers.
 * Each file's head has its sources. */

#define PY_SSIZE_T_CLEAN
#include <Python.h>

#include "jpeg.h"
#include "resize.h"

int avx2_enabled;

/* --- look-ups: bytes to entries of two or four bytes, through a table of 256 of them ------------------------------- */

INLINE void look_up_from(const uint8_t *source, size_t start, size_t count, const uint8_t *table, size_t item, uint8_t *to) {
    for (size_t i = start; i < count; i++) memcpy(to + item * i, table + item * source[i], item);
}

#if HAVE_AVX2

/* Entries of four bytes; how many are done. A gather of eight is a fifth quicker than eight loads. */
WITH_AVX2 static size_t look_up_gathered(const uint8_t *source, size_t count, const uint8_t *table, uint8_t *to) {
    size_t i = 0;
    for (; i + 8 <= count; i += 8) {
        __m256i places = _mm256_cvtepu8_epi32(_mm_loadl_epi64((const __m128i *)(source + i)));
        _mm256_storeu_si256((__m256i *)(to + 4 * i), _mm256_i32gather_epi32((const int *)table, places, 4));
    }
    return i;
}

#endif

/* `item`, the bytes of an entry, is 2 or 4; `to` has room for `count` entries. */
static void look_up_bytes(const uint8_t *source, size_t count, const uint8_t *table, size_t item, uint8_t *to) {
    size_t done = 0;
#if HAVE_AVX2
    if (avx2_enabled && item == 4) done = look_up_gathered(source, count, table, to);
#endif
    if (item == 4)
        look_up_from(source, done, count, table, 4, to);
    else
        look_up_from(source, done, count, table, 2, to);
}

/* --- a part of a JPEG ---------------------------------------------------------------------------------------------- */

/* A file, and the region of it to be decoded. */
typedef struct {
    Py_buffer data;
    int width, height, scale;
    Box box; /* in pixels at 1/scale */
} JpegRegion;

/* Whether there can be such a part. */
static int region_is_valid(const JpegRegion *region) {
    int scale = region->scale, width = region->width, height = region->height;
    return (scale == 1 || scale == 2 || scale == 4 || scale == 8) && width >= 1 && height >= 1 && width <= LARGEST &&
           height <= LARGEST && region->box.left >= 0 && region->box.top >= 0 && region->box.right > region->box.left &&
           region->box.bottom > region->box.top && region->box.right <= (width + scale - 1) / scale &&
           region->box.bottom <= (height + scale - 1) / scale;
}

/* The rows of a region. 1: done; 0: the file is unsupported; -1: no memory. */
static int region_decode(const JpegRegion *region, Rows *rows) {
    File file = {.tables = malloc(8 * sizeof *file.tables)};
    int done = 0;
    if (!file.tables) return -1;
    for (int i = 0; i < 8; i++) file.tables[i].defined = 0;
    if (!file_read(&file, region->data.buf, (size_t)region->data.len) && file.width == region->width &&
        file.height == region->height)
        done = region->scale == 1 ? exact_file(&file, &region->box, rows)
                                  : reduced_file(&file, region->scale, &region->box, rows);
    free(file.tables);
    return done;
}

/* Rows one below the other. */
typedef struct {
    Rows rows;
    size_t pitch;
} RowsInMemory;

static void next_in_memory(Rows *rows) { rows->place += ((RowsInMemory *)rows)->pitch; }

/* Rows into a resize, by fours. */
typedef struct {
    Rows rows;
    Stream stream;
    uint8_t *four;
    size_t pitch;
    int y, height;
} ResizeFeed;

static void feed_resize(Rows *rows) {
    ResizeFeed *feed = (ResizeFeed *)rows;
    int at = feed->y++ - feed->stream.seen; /* negative: above the first row that counts */
    if (at < 0 || feed->stream.made == feed->stream.lines->size) return;
    if (at < 3 && feed->y < feed->height) {
        rows->place += feed->pitch;
        return;
    }
    const uint8_t *in[4];
    for (int r = 0; r < 4; r++) in[r] = feed->four + (size_t)(r < at ? r : at) * feed->pitch;
    stream_rows(&feed->stream, in);
    rows->place = feed->four;
}

/* Resize across, then down, while the region is decoded, so that memory holds only a few rows. Returns as region_decode. */
static int region_resize(const JpegRegion *region, const Axis *columns, const Axis *lines, const Form *form, uint8_t *out) {
    int step = region->scale == 1 ? 4 : 3; /* pixels of four bytes are quicker written, and as quickly read */
    size_t pitch = with_margin(step * (size_t)(region->box.right - region->box.left));
    ResizeFeed feed = {{NULL, step, feed_resize}, {0}, NULL, pitch, 0, 0};
    feed.height = region->box.bottom - region->box.top;
    feed.rows.place = feed.four = calloc(4, feed.pitch);
    int done = -1;
    if (feed.four && !stream_make(&feed.stream, columns, lines, form, 3, step, out)) done = region_decode(region, &feed.rows);
    room_free(&feed.stream.room);
    free(feed.four);
    return done;
}

/* --- Python -------------------------------------------------------------------------------------------------------- */

static PyObject *decode(PyObject *module, PyObject *args) {
    JpegRegion region;
    Py_buffer out;
    Box *box = &region.box;
    (void)module;
    if (!PyArg_ParseTuple(args, "y*(ii)i(iiii)w*:decode", &region.data, &region.width, &region.height, &region.scale,
                          &box->left, &box->top, &box->right, &box->bottom, &out))
        return NULL;
    int done = -2;
    if (region_is_valid(&region)) {
        Py_ssize_t width = box->right - box->left, area = width * (box->bottom - box->top);
        RowsInMemory rows = {{out.buf, (int)(out.len / area), next_in_memory}, (size_t)(out.len / area * width)};
        if (out.len == 3 * area || (region.scale == 1 && out.len == 4 * area)) {
            Py_BEGIN_ALLOW_THREADS;
            done = region_decode(&region, &rows.rows);
            Py_END_ALLOW_THREADS;
        }
    }
    PyBuffer_Release(&region.data);
    PyBuffer_Release(&out);
    if (done == -2) return PyErr_Format(PyExc_ValueError, "no such scale or box, or out does not fit");
    return done < 0 ? PyErr_NoMemory() : PyBool_FromLong(done);
}

/* Where the first 0xff is, from `start` on, that no zero follows; -1 where there is none. */
static PyObject *marker(PyObject *module, PyObject *args) {
    Py_buffer data;
    Py_ssize_t start, place = -1;
    (void)module;
    if (!PyArg_ParseTuple(args, "y*n:marker", &data, &start)) return NULL;
    if (start >= 0 && start < data.len) {
        const uint8_t *first = data.buf, *at = first + start, *last = first + data.len - 1;
        for (uint8_t found = 0; last - at >= 64; at += 64) { /* no branch for each 0xff 0x00, of which there are many */
            for (int i = 0; i < 64; i++) found |= (uint8_t)((at[i] == 0xff ? 255 : 0) & at[i + 1]);
            if (found) break;
        }
        while (at < last && (at = memchr(at, 0xff, (size_t)(last - at)))) {
            if (at[1]) {
                place = at - first;
                break;
            }
            at += 2;
        }
    }
    PyBuffer_Release(&data);
    return PyLong_FromSsize_t(place);
}

/* A buffer of the given kind, or NULL with an exception. */
static int view(PyObject *from, Py_buffer *buffer, int flags, const char *what) {
    if (PyObject_GetBuffer(from, buffer, flags) == 0) return 0;
    PyErr_Format(PyExc_TypeError, "%s is no such buffer", what);
    return -1;
}

static int bad_value(const char *what) {
    PyErr_SetString(PyExc_ValueError, what);
    return -1;
}

static int image_of(const Py_buffer *buffer, Image *image) {
    const Py_ssize_t *shape = buffer->shape, *strides = buffer->strides;
    int channels = buffer->ndim == 3 ? (shape[2] == 3 ? 3 : 0) : buffer->ndim == 2;
    if (!channels || strcmp(buffer->format ? buffer->format : "B", "B") || shape[0] < 1 || shape[1] < 1 ||
        shape[0] > LARGEST || shape[1] > LARGEST || strides[1] != channels || (channels == 3 && strides[2] != 1) ||
        (shape[0] > 1 && strides[0] < shape[1] * channels))
        return bad_value("pixels are uint8 of (H, W, 3) or (H, W), whole rows one below the other");
    image->pixels = buffer->buf;
    image->height = (int)shape[0];
    image->width = (int)shape[1];
    image->channels = channels;
    image->stride = strides[0];
    image->length = (shape[0] - 1) * strides[0] + shape[1] * channels;
    return 0;
}

/* The region and its size, of a tuple of a file, its size, a scale and a box. */
static int jpeg_of(PyObject *pixels, JpegRegion *jpeg, Image *image) {
    Box *box = &jpeg->box;
    if (!PyArg_ParseTuple(pixels, "y*(ii)i(iiii);pixels", &jpeg->data, &jpeg->width, &jpeg->height, &jpeg->scale, &box->left,
                          &box->top, &box->right, &box->bottom))
        return -1;
    if (!region_is_valid(jpeg)) return bad_value("no such scale or box");
    *image = (Image){.width = box->right - box->left, .height = box->bottom - box->top, .channels = 3};
    return 0;
}

/* The arguments of a resize, and the buffers behind them. */
typedef struct {
    int width, height, filter, down_first, mirrored, planes;
    Box window;
    float part[4]; /* zeros: all of it */
    PyObject *pixels, *table, *out;
    Py_buffer from, to, values;
    JpegRegion jpeg;
    Image image;
    Form form;
} ResizeRequest;

/* Get the buffers and check that all fits together; -1 with an exception where it does not. */
static int resize_prepare(ResizeRequest *request) {
    const Box *window = &request->window;
    float *part = request->part;
    Image *image = &request->image;
    if (request->width < 1 || request->height < 1 || request->width > LARGEST || request->height > LARGEST ||
        window->left < 0 || window->top < 0 || window->right <= window->left || window->bottom <= window->top ||
        window->right > request->width || window->bottom > request->height || request->filter < 1 || request->filter > 5)
        return bad_value("no such size, window or filter");
    if (PyTuple_Check(request->pixels)) {
        if (jpeg_of(request->pixels, &request->jpeg, image)) return -1;
    } else {
        if (view(request->pixels, &request->from, PyBUF_STRIDES | PyBUF_FORMAT, "pixels")) return -1;
        if (image_of(&request->from, image)) return -1;
    }
    if (part[2] == 0) part[2] = (float)image->width, part[3] = (float)image->height;
    if (!(part[0] >= 0 && part[1] >= 0 && part[2] > part[0] && part[3] > part[1] && part[2] <= image->width &&
          part[3] <= image->height))
        return bad_value("no such part");
    Py_buffer *to = &request->to, *values = &request->values;
    if (view(request->out, to, PyBUF_C_CONTIGUOUS | PyBUF_WRITABLE, "out")) return -1;
    if (request->table != Py_None && view(request->table, values, PyBUF_C_CONTIGUOUS, "table")) return -1;
    Py_ssize_t count = (Py_ssize_t)(window->right - window->left) * (window->bottom - window->top);
    int planes = request->planes, item = values->buf ? (int)values->itemsize : 1;
    int channels = image->channels == 3 && !planes ? 4 : image->channels;
    if (to->len != count * channels * item || (planes && !values->buf) ||
        (values->buf && values->len != 256 * image->channels * values->itemsize) ||
        (item != 1 && !(planes && (item == 2 || item == 4))))
        return bad_value("out and table do not fit");
    request->form = (Form){values->buf, item, planes};
    return request->jpeg.data.obj && request->down_first ? bad_value("a JPEG is resized across first") : 0;
}

/* 1: done; 0: the JPEG is unsupported; -1: no memory. */
static int resize_execute(ResizeRequest *request) {
    const Box *window = &request->window;
    const float *part = request->part;
    Image *image = &request->image;
    Axis columns = {0}, lines = {0};
    int done = -1;
    if (axis_make(&columns, image->width, part[0], part[2], request->width, window->left, window->right - window->left,
                  request->filter, request->mirrored) == 0 &&
        axis_make(&lines, image->height, part[1], part[3], request->height, window->top, window->bottom - window->top,
                  request->filter, 0) == 0) {
        if (request->jpeg.data.obj)
            done = region_resize(&request->jpeg, &columns, &lines, &request->form, request->to.buf);
        else if (resize_image(image, &columns, &lines, &request->form, request->down_first, request->to.buf) == 0)
            done = 1;
    }
    axis_free(&columns);
    axis_free(&lines);
    return done;
}

static PyObject *resize(PyObject *module, PyObject *args) {
    ResizeRequest request = {0};
    Box *window = &request.window;
    float *part = request.part;
    int done = -1;
    (void)module;
    if (!PyArg_ParseTuple(args, "O(ii)ip(iiii)pOpO|(ffff):resize", &request.pixels, &request.width, &request.height,
                          &request.filter, &request.down_first, &window->left, &window->top, &window->right,
                          &window->bottom, &request.mirrored, &request.table, &request.planes, &request.out, &part[0],
                          &part[1], &part[2], &part[3]))
        return NULL;
    if (resize_prepare(&request) == 0) {
        Py_BEGIN_ALLOW_THREADS;
        done = resize_execute(&request);
        Py_END_ALLOW_THREADS;
        if (done < 0) PyErr_NoMemory();
    }
    if (request.values.obj) PyBuffer_Release(&request.values);
    if (request.to.obj) PyBuffer_Release(&request.to);
    if (request.from.obj) PyBuffer_Release(&request.from);
    if (request.jpeg.data.obj) PyBuffer_Release(&request.jpeg.data);
    return done < 0 ? NULL : PyBool_FromLong(done);
}

static PyObject *encode(PyObject *module, PyObject *args) {
    Py_buffer head, pixels;
    uint8_t *jpeg = NULL;
    size_t length = 0;
    int done;
    (void)module;
    if (!PyArg_ParseTuple(args, "y*y*:encode", &head, &pixels)) return NULL;
    Py_BEGIN_ALLOW_THREADS;
    done = jpeg_encode(&(JpegHead){head.buf, (size_t)head.len}, pixels.buf, (size_t)pixels.len, &jpeg, &length);
    Py_END_ALLOW_THREADS;
    PyBuffer_Release(&head);
    PyBuffer_Release(&pixels);
    if (done == -2) return PyErr_Format(PyExc_ValueError, "no head of a JPEG, or not of these pixels");
    if (done < 0) return PyErr_NoMemory();
    PyObject *result = done ? PyBytes_FromStringAndSize((const char *)jpeg, (Py_ssize_t)length) : Py_NewRef(Py_None);
    free(jpeg);
    return result;
}

static PyObject *use_avx2(PyObject *module, PyObject *wanted) {
    int on = PyObject_IsTrue(wanted);
    (void)module;
    if (on < 0) return NULL;
#if HAVE_AVX2
    avx2_enabled = on && __builtin_cpu_supports("avx2") && __builtin_cpu_supports("bmi2");
#endif
    Py_RETURN_NONE;
}

static PyObject *has_avx2(PyObject *module, PyObject *nothing) {
    (void)module, (void)nothing;
    return PyBool_FromLong(avx2_enabled);
}

static PyObject *look_up_entries(PyObject *module, PyObject *args) {
    Py_buffer source, table, target;
    (void)module;
    if (!PyArg_ParseTuple(args, "y*y*w*:look_up", &source, &table, &target)) return NULL;
    Py_ssize_t item = table.len / 256;
    int fits = (table.len == 2 * 256 || table.len == 4 * 256) && target.len % item == 0 && target.len / item == source.len;
    if (fits) {
        Py_BEGIN_ALLOW_THREADS;
        look_up_bytes(source.buf, (size_t)source.len, table.buf, (size_t)item, target.buf);
        Py_END_ALLOW_THREADS;
    }
    PyBuffer_Release(&source);
    PyBuffer_Release(&table);
    PyBuffer_Release(&target);
    if (!fits) return PyErr_Format(PyExc_ValueError, "table is 256 entries of 2 or 4 bytes, target one for each byte of source");
    Py_RETURN_NONE;
}

static PyMethodDef methods[] = {
    {"encode", encode, METH_VARARGS, "See _native.pyi."},
    {"resize", resize, METH_VARARGS, "See _native.pyi."},
    {"decode", decode, METH_VARARGS, "See _native.pyi."},
    {"look_up", look_up_entries, METH_VARARGS, "See _native.pyi."},
    {"marker", marker, METH_VARARGS, "See _native.pyi."},
    {"has_avx2", has_avx2, METH_NOARGS, "See _native.pyi."},
    {"use_avx2", use_avx2, METH_O, "See _native.pyi."},
    {NULL, NULL, 0, NULL},
};

static struct PyModuleDef definition = {PyModuleDef_HEAD_INIT, "_native", NULL, -1, methods, NULL, NULL, NULL, NULL};

PyMODINIT_FUNC PyInit__native(void) {
#if HAVE_AVX2
    __builtin_cpu_init();
    avx2_enabled = __builtin_cpu_supports("avx2") && __builtin_cpu_supports("bmi2");
#endif
    return PyModule_Create(&definition);
}
