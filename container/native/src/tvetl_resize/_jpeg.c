/* A region of a JPEG: exactly as libjpeg-turbo decodes it, or at a half, a quarter or an eighth of its size.
 *
 * Most of a JPEG's time goes into its Huffman codes, and those of what is not needed (blocks outside the region, high
 * frequencies) are stepped over, several in one look-up: _codes.h. What to make of the others is in _exact.h, _reduced.h.
 *
 * Baseline JPEG of one scan without restart markers, of one or three components. Anything else, and anything strange, is
 * answered with None: then another decoder has the word. Source: ITU-T T.81, by its clauses; JFIF 1.02 for the colours. */

#define PY_SSIZE_T_CLEAN
#include <Python.h>

#include "_exact.h"
#include "_reduced.h"

#define LARGEST 65535

/* --- Python -------------------------------------------------------------------------------------------------------- */

static Py_ssize_t area(const Box *box) { return (Py_ssize_t)(box->right - box->left) * (box->bottom - box->top); }

static PyObject *decode(PyObject *module, PyObject *args) {
    Py_buffer data, out;
    int scale, width, height, done = 0;
    Box box;
    (void)module;
    if (!PyArg_ParseTuple(args, "y*(ii)i(iiii)w*:decode", &data, &width, &height, &scale, &box.left, &box.top, &box.right,
                          &box.bottom, &out))
        return NULL;
    if ((scale != 1 && scale != 2 && scale != 4 && scale != 8) || width < 1 || height < 1 || width > LARGEST ||
        height > LARGEST || box.left < 0 || box.top < 0 || box.right <= box.left || box.bottom <= box.top ||
        box.right > (width + scale - 1) / scale || box.bottom > (height + scale - 1) / scale ||
        (out.len != 3 * area(&box) && (scale != 1 || out.len != 4 * area(&box)))) {
        PyErr_SetString(PyExc_ValueError, "no such scale or box, or out does not fit");
        done = -2;
        goto end;
    }
    Py_BEGIN_ALLOW_THREADS;
    File file;
    Table *tables = malloc(8 * sizeof *tables);
    if (!tables) {
        done = -1;
    } else {
        memset(&file, 0, sizeof file);
        for (int i = 0; i < 8; i++) tables[i].there = 0;
        file.tables = tables;
        if (!file_read(&file, data.buf, (size_t)data.len) && file.width == width && file.height == height)
            done = scale == 1 ? exact_file(&file, &box, out.buf, (int)(out.len / area(&box)))
                              : reduced_file(&file, scale, &box, out.buf);
    }
    free(tables);
    Py_END_ALLOW_THREADS;
end:
    PyBuffer_Release(&data);
    PyBuffer_Release(&out);
    if (done == -2) return NULL;
    if (done == -1) return PyErr_NoMemory();
    return PyBool_FromLong(done);
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

static PyObject *use_avx2(PyObject *module, PyObject *wanted) {
    int on = PyObject_IsTrue(wanted);
    (void)module;
    if (on < 0) return NULL;
#if HAVE_AVX2
    fast = on && __builtin_cpu_supports("avx2") && __builtin_cpu_supports("bmi2");
#endif
    Py_RETURN_NONE;
}

static PyMethodDef methods[] = {
    {"decode", decode, METH_VARARGS, "See _jpeg.pyi."},
    {"marker", marker, METH_VARARGS, "See _jpeg.pyi."},
    {"use_avx2", use_avx2, METH_O, "See _jpeg.pyi."},
    {NULL, NULL, 0, NULL},
};

static struct PyModuleDef definition = {PyModuleDef_HEAD_INIT, "_jpeg", NULL, -1, methods, NULL, NULL, NULL, NULL};

PyMODINIT_FUNC PyInit__jpeg(void) {
#if HAVE_AVX2
    __builtin_cpu_init();
    fast = __builtin_cpu_supports("avx2") && __builtin_cpu_supports("bmi2");
#endif
    return PyModule_Create(&definition);
}
