/* JPEGs to pixels, and pixels to others, as Pillow does it: exactly, but for less work. What each part is and where it
 * comes from is said in its header. */

#define PY_SSIZE_T_CLEAN
#include <Python.h>

#include "_exact.h"
#include "_reduced.h"
#include "_resize.h"

/* --- a part of a JPEG ---------------------------------------------------------------------------------------------- */

/* A file, and what is wanted of it. */
typedef struct {
    Py_buffer data;
    int width, height, scale;
    Box box; /* in pixels at 1/scale */
} Part;

/* Whether there can be such a part. */
static int is_part(const Part *part) {
    int scale = part->scale, width = part->width, height = part->height;
    return (scale == 1 || scale == 2 || scale == 4 || scale == 8) && width >= 1 && height >= 1 && width <= LARGEST &&
           height <= LARGEST && part->box.left >= 0 && part->box.top >= 0 && part->box.right > part->box.left &&
           part->box.bottom > part->box.top && part->box.right <= (width + scale - 1) / scale &&
           part->box.bottom <= (height + scale - 1) / scale;
}

/* Those of a file, none of which is there yet. */
static Table *tables_make(void) {
    Table *tables = malloc(8 * sizeof *tables);
    for (int i = 0; tables && i < 8; i++) tables[i].there = 0;
    return tables;
}

/* Its rows; 1: done, 0: not for us, -1: no memory. */
static int part_decode(const Part *part, Rows *rows) {
    File file;
    Table *tables = tables_make();
    int done = 0;
    if (!tables) return -1;
    memset(&file, 0, sizeof file);
    file.tables = tables;
    if (!file_read(&file, part->data.buf, (size_t)part->data.len) && file.width == part->width && file.height == part->height)
        done = part->scale == 1 ? exact_file(&file, &part->box, rows) : reduced_file(&file, part->scale, &part->box, rows);
    free(tables);
    return done;
}

/* Rows one below the other. */
typedef struct {
    Rows rows;
    size_t pitch;
} Below;

static void below(Rows *rows) { rows->place += ((Below *)rows)->pitch; }

/* Rows into a resize, by fours. */
typedef struct {
    Rows rows;
    Stream stream;
    uint8_t *four;
    size_t pitch;
    int y, height;
} Feed;

static void fed(Rows *rows) {
    Feed *feed = (Feed *)rows;
    int at = feed->y++ - feed->stream.seen; /* below zero: above the first row that counts */
    if (at < 0 || feed->stream.made == feed->stream.lines->size) return;
    if (at < 3 && feed->y < feed->height) {
        rows->place += feed->pitch;
        return;
    }
    const uint8_t *in[4];
    for (int r = 0; r < 4; r++) in[r] = feed->four + (size_t)(r < at ? r : at) * feed->pitch;
    four_more(&feed->stream, in);
    rows->place = feed->four;
}

/* Across, then down, while it is decoded: no more of it is ever there than a few rows. As part_decode answers. */
static int part_resize(const Part *part, const Axis *columns, const Axis *lines, const Form *form, uint8_t *out) {
    int step = part->scale == 1 ? 4 : 3; /* pixels of four bytes are quicker written, and as quickly read */
    Feed feed = {{NULL, step, fed}, {0}, NULL, with_margin(step * (size_t)(part->box.right - part->box.left)), 0, 0};
    feed.height = part->box.bottom - part->box.top;
    feed.rows.place = feed.four = calloc(4, feed.pitch);
    int done = feed.four && !stream_make(&feed.stream, columns, lines, form, 3, step, out) ? part_decode(part, &feed.rows) : -1;
    room_free(&feed.stream.room);
    free(feed.four);
    return done;
}

/* --- Python -------------------------------------------------------------------------------------------------------- */

static PyObject *decode(PyObject *module, PyObject *args) {
    Part part;
    Py_buffer out;
    Box *box = &part.box;
    (void)module;
    if (!PyArg_ParseTuple(args, "y*(ii)i(iiii)w*:decode", &part.data, &part.width, &part.height, &part.scale, &box->left,
                          &box->top, &box->right, &box->bottom, &out))
        return NULL;
    int done = -2;
    if (is_part(&part)) {
        Py_ssize_t width = box->right - box->left, area = width * (box->bottom - box->top);
        Below rows = {{out.buf, (int)(out.len / area), below}, (size_t)(out.len / area * width)};
        if (out.len == 3 * area || (part.scale == 1 && out.len == 4 * area)) {
            Py_BEGIN_ALLOW_THREADS;
            done = part_decode(&part, &rows.rows);
            Py_END_ALLOW_THREADS;
        }
    }
    PyBuffer_Release(&part.data);
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

static int image_of(const Py_buffer *buffer, Image *image) {
    const Py_ssize_t *shape = buffer->shape, *strides = buffer->strides;
    int channels = buffer->ndim == 3 ? (shape[2] == 3 ? 3 : 0) : buffer->ndim == 2;
    if (!channels || strcmp(buffer->format ? buffer->format : "B", "B") || shape[0] < 1 || shape[1] < 1 ||
        shape[0] > LARGEST || shape[1] > LARGEST || strides[1] != channels || (channels == 3 && strides[2] != 1) ||
        (shape[0] > 1 && strides[0] < shape[1] * channels)) {
        PyErr_SetString(PyExc_ValueError, "pixels are uint8 of (H, W, 3) or (H, W), whole rows one below the other");
        return -1;
    }
    image->pixels = buffer->buf;
    image->height = (int)shape[0];
    image->width = (int)shape[1];
    image->channels = channels;
    image->stride = strides[0];
    image->length = (shape[0] - 1) * strides[0] + shape[1] * channels;
    return 0;
}

/* Of a file, its size and a box, what will be decoded. */
static int jpeg_of(PyObject *pixels, Part *jpeg, Image *image) {
    Box *box = &jpeg->box;
    if (!PyArg_ParseTuple(pixels, "y*(ii)i(iiii);pixels", &jpeg->data, &jpeg->width, &jpeg->height, &jpeg->scale, &box->left,
                          &box->top, &box->right, &box->bottom))
        return -1;
    if (!is_part(jpeg)) {
        PyErr_SetString(PyExc_ValueError, "no such scale or box");
        return -1;
    }
    *image = (Image){.width = box->right - box->left, .height = box->bottom - box->top, .channels = 3};
    return 0;
}

static PyObject *resize(PyObject *module, PyObject *args) {
    PyObject *pixels, *out, *table;
    int width, height, left, top, right, bottom, filter, mirrored, planes, down_first;
    Py_buffer from = {0}, to = {0}, values = {0};
    Part jpeg = {0};
    Image image;
    Axis columns = {0}, lines = {0};
    int done = -2;
    (void)module;
    float part[4] = {0, 0, 0, 0}; /* all of it */
    if (!PyArg_ParseTuple(args, "O(ii)ip(iiii)pOpO|(ffff):resize", &pixels, &width, &height, &filter, &down_first, &left, &top,
                          &right, &bottom, &mirrored, &table, &planes, &out, &part[0], &part[1], &part[2], &part[3]))
        return NULL;
    if (width < 1 || height < 1 || width > LARGEST || height > LARGEST || left < 0 || top < 0 || right <= left ||
        bottom <= top || right > width || bottom > height || filter < 1 || filter > 5) {
        PyErr_SetString(PyExc_ValueError, "no such size, window or filter");
        return NULL;
    }
    if (PyTuple_Check(pixels)) {
        if (jpeg_of(pixels, &jpeg, &image)) goto end;
    } else {
        if (view(pixels, &from, PyBUF_STRIDES | PyBUF_FORMAT, "pixels")) goto end;
        if (image_of(&from, &image)) goto end;
    }
    if (part[2] == 0) part[2] = (float)image.width, part[3] = (float)image.height;
    if (!(part[0] >= 0 && part[1] >= 0 && part[2] > part[0] && part[3] > part[1] && part[2] <= image.width &&
          part[3] <= image.height)) {
        PyErr_SetString(PyExc_ValueError, "no such part");
        goto end;
    }
    if (view(out, &to, PyBUF_C_CONTIGUOUS | PyBUF_WRITABLE, "out")) goto end;
    if (table != Py_None && view(table, &values, PyBUF_C_CONTIGUOUS, "table")) goto end;
    Py_ssize_t count = (Py_ssize_t)(right - left) * (bottom - top);
    Form form = {values.buf, values.buf ? (int)values.itemsize : 1, planes, 0};
    form.padded = image.channels == 3 && !planes && to.len == count * 4;
    if ((to.len != count * image.channels * form.item && !form.padded) || (values.buf && values.len != 256 * image.channels * values.itemsize) || (planes && !values.buf) ||
        (form.item != 1 && !(planes && (form.item == 2 || form.item == 4)))) {
        PyErr_SetString(PyExc_ValueError, "out and table do not fit");
        goto end;
    }
    if (jpeg.data.obj && down_first) {
        PyErr_SetString(PyExc_ValueError, "a JPEG is resized across first");
        goto end;
    }
    done = -1;
    Py_BEGIN_ALLOW_THREADS;
    if (axis_make(&columns, image.width, part[0], part[2], width, left, right - left, filter, mirrored) == 0 &&
        axis_make(&lines, image.height, part[1], part[3], height, top, bottom - top, filter, 0) == 0)
        done = jpeg.data.obj ? part_resize(&jpeg, &columns, &lines, &form, to.buf)
                             : run(&image, &columns, &lines, &form, down_first, to.buf) == 0 ? 1 : -1;
    axis_free(&columns);
    axis_free(&lines);
    Py_END_ALLOW_THREADS;
    if (done < 0) PyErr_NoMemory();
end:
    if (values.obj) PyBuffer_Release(&values);
    if (to.obj) PyBuffer_Release(&to);
    if (from.obj) PyBuffer_Release(&from);
    if (jpeg.data.obj) PyBuffer_Release(&jpeg.data);
    return done < 0 ? NULL : PyBool_FromLong(done);
}

static PyObject *use_avx2(PyObject *module, PyObject *wanted) {
    int on = PyObject_IsTrue(wanted);
    (void)module;
    if (on < 0) return NULL;
#if HAVE_AVX2
    fast = on && __builtin_cpu_supports("avx2") && __builtin_cpu_supports("bmi2");
#endif
    Py_RETURN_NONE;
}

static PyObject *has_avx2(PyObject *module, PyObject *nothing) {
    (void)module, (void)nothing;
    return PyBool_FromLong(fast);
}

static PyMethodDef methods[] = {
    {"resize", resize, METH_VARARGS, "See _native.pyi."},
    {"decode", decode, METH_VARARGS, "See _native.pyi."},
    {"marker", marker, METH_VARARGS, "See _native.pyi."},
    {"has_avx2", has_avx2, METH_NOARGS, "See _native.pyi."},
    {"use_avx2", use_avx2, METH_O, "See _native.pyi."},
    {NULL, NULL, 0, NULL},
};

static struct PyModuleDef definition = {PyModuleDef_HEAD_INIT, "_native", NULL, -1, methods, NULL, NULL, NULL, NULL};

PyMODINIT_FUNC PyInit__native(void) {
#if HAVE_AVX2
    __builtin_cpu_init();
    fast = __builtin_cpu_supports("avx2") && __builtin_cpu_supports("bmi2");
#endif
    return PyModule_Create(&definition);
}
